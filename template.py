"""The one prompt template, of training, command line, page and exported checkpoints alike.

    ### Instruction:
    Name the color.

    ### Input:
    a ripe cherry

    ### Response:
    Red<|endoftext|>
"""

# What stands before each turn. A response is ended by the end-of-text token, the other turns by an empty line.
HEADINGS = {"system": "### System:\n", "user": "### Instruction:\n", "assistant": "### Response:\n"}
# The same for Hugging Face's apply_chat_template; tests/test_tokenizer.py holds it against Tokenizer.render().
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    + "".join(f"{{%- {'el' if number else ''}if message['role'] == '{role}' -%}}{{{{ {heading!r} }}}}"
              for number, (role, heading) in enumerate(HEADINGS.items()))
    + "{%- else -%}{{ raise_exception('unknown role: ' + message['role']) }}{%- endif -%}"
    "{{ message['content'] | trim }}{{ eos_token if message['role'] == 'assistant' else '\\n\\n' }}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{ {HEADINGS['assistant']!r} }}}}{{%- endif -%}}")

# What the weights once published for SmolLlama were fine-tuned with, to the space.
LEGACY_PROMPT = "### Instruction: Answer the following query. \n\n ### Input: {}.\n\n ### Response: "


def instruction_text(instruction: str, given: str) -> str:
    """The user's turn of an instruction and the input that it is about, if there is one."""
    return "\n\n### Input:\n".join(text.strip() for text in (instruction, given) if text.strip())
