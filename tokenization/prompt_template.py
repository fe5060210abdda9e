"""Our prompt template: one for training, command line, page and exported checkpoints."""

# The prompt template, one for training, command line, page and exported checkpoints:
#
#     ### Instruction:
#     Name the color.
#
#     ### Input:
#     a ripe cherry
#
#     ### Response:
#     Red<|endoftext|>
# Each message begins with the heading of its role. A response ends with the end-of-text token, the other
# messages with an empty line.
HEADINGS = {"system": "### System:\n", "user": "### Instruction:\n", "assistant": "### Response:\n"}

# The same template for Hugging Face's apply_chat_template; tests/tokenization/test_prompt_template.py compares it
# with Tokenizer.render().
CHAT_TEMPLATE = (
    r"{%- for message in messages -%}"
    r"{%- if message['role'] == 'system' -%}{{ " + repr(HEADINGS["system"]) + r" }}"
    r"{%- elif message['role'] == 'user' -%}{{ " + repr(HEADINGS["user"]) + r" }}"
    r"{%- elif message['role'] == 'assistant' -%}{{ " + repr(HEADINGS["assistant"]) + r" }}"
    r"{%- else -%}{{ raise_exception('unknown role: ' + message['role']) }}{%- endif -%}"
    r"{{ message['content'].lstrip('\n').rstrip() }}{{ eos_token if message['role'] == 'assistant' else '\n\n' }}"
    r"{%- endfor -%}"
    r"{%- if add_generation_prompt -%}{{ " + repr(HEADINGS["assistant"]) + r" }}{%- endif -%}"
)

# The beginning of it where a tokenizer begins every text with a special token.
BEGIN_OF_TEXT = "{{ bos_token }}"

# The prompt that the weights once published for SmolLlama were fine-tuned with, to the space.
LEGACY_PROMPT = "### Instruction: Answer the following query. \n\n ### Input: {}.\n\n ### Response: "


def turn_text(content: str) -> str:
    """Return the content of a turn as it is rendered: without empty lines before it and white space behind it."""
    return content.lstrip("\n").rstrip()


def instruction_text(instruction: str, input_text: str) -> str:
    """Return the user's message for an instruction and the input that it is about, which may be empty."""
    parts = [turn_text(text) for text in (instruction, input_text) if text.strip()]
    return "\n\n### Input:\n".join(parts)
