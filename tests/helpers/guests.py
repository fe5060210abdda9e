"""Guests: tokenizers with a begin token, special tokens and chat templates as other programs have them."""

import json
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, processors

from tokenizer import train_bpe

# What a message adds to a conversation is between two comments.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{#(#}{{ message['content'] + '<|im_end|>' }}{{ '\\n' }}{#)#}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{#(#}{{ message['content'] | trim + '<|eot_id|>' }}{#)#}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{{ '<|' + message['role'] + '|>\\n' }}"
    "{#(#}{{ message['content'] + eos_token }}{{ '\\n' }}{#)#}\n"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}\n{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' }}"
    "{#(#}{{ message['content'] | trim + '<end_of_turn>' }}{{ '\\n' }}{#)#}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MINIMIND = (
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}"
    "{{ '<|im_start|>system\\n' + system_message + '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n<|im_start|>assistant\\n' }}"
    "{% elif message['role'] == 'assistant' %}{#(#}{{ content + '<|im_end|>' }}{{ '\\n' }}{#)#}"
    "{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "zephyr": ZEPHYR, "gemma": GEMMA, "minimind": MINIMIND}
ENDS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "zephyr": "</s>",
    "gemma": "<end_of_turn>",
    "minimind": "<|im_end|>",
}
# Drops the reasoning of earlier turns, so a turn looks different when it is no longer the last.
REWRITES = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ENDLESS = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
SPECIAL = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>"),
]
CORPUS = ["What is the colour of a ripe cherry? It is red. user assistant system model\n"] * 20


def with_marks(template: str) -> str:
    """Return a template with generation marks around the responses, which nearly all are published without."""
    before, rest = template.split("{#(#}")
    content, after = rest.split("{#)#}")
    marked = "{% generation %}" + content + "{% endgeneration %}"
    return (
        f"{before}{{% if message['role'] == 'assistant' %}}{marked}{{% else %}}{content}{{% endif %}}{after}"
    )


def guest_tokenizer(begins: bool = True) -> tokenizers.Tokenizer:
    """Return a byte-level BPE with special tokens; with `begins`, <s> is put before every text."""
    hf = tokenizers.Tokenizer.from_str(train_bpe(CORPUS, 300).hf.to_str())
    hf.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    if begins:
        begin = ("<s>", hf.token_to_id("<s>"))
        hf.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return hf


def write_guest(
    folder: Path, template: str | None, begins: bool = True, as_file: bool = False, **settings
) -> Path:
    """Write the folder of a guest's tokenizer; the template is in a file of its own where `as_file`."""
    folder.mkdir(parents=True, exist_ok=True)
    guest_tokenizer(begins).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        **settings,
    }
    if template and as_file:
        (folder / "chat_template.jinja").write_text(template)
    elif template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_random_llama(folder: Path) -> None:
    """Write a random Llama as transformers writes it, for the tokenizer of guest_tokenizer."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=96,
        bos_token_id=300,
        eos_token_id=301,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
