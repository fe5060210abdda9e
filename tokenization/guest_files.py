"""Files of a tokenizer's folder: those that travel with a foreign tokenizer, and the chat template among them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
OLD_TEMPLATE_FILE = "chat_template.json"
FILES = (
    TOKENIZER_FILE,
    SETTINGS_FILE,
    MAP_FILE,
    TEMPLATE_FILE,
    OLD_TEMPLATE_FILE,
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def read_with_transformers(folder: Path) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer as AutoTokenizer reads it; None where it cannot, as for a class with code of its own."""
    # Our own tokenizers are read without it: the import takes seconds.
    from transformers import AutoTokenizer

    try:
        auto = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError):
        return None
    return auto if auto.is_fast else None


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files of a folder that belong to its tokenizer."""
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def read_template(files: Mapping[str, bytes]) -> str | None:
    """Return the chat template among the files of a tokenizer, found where transformers finds it; None without one."""
    if TEMPLATE_FILE in files:
        return files[TEMPLATE_FILE].decode()
    for name in (OLD_TEMPLATE_FILE, SETTINGS_FILE):
        template = json.loads(files.get(name, b"{}")).get("chat_template")
        if isinstance(template, list):  # several, each with a name
            template = {each["name"]: each["template"] for each in template}.get("default")
        if template and not isinstance(template, str):
            raise ValueError("chat_template is no text")
        if template:
            return template
    return None


def with_chat_template(
    files: Mapping[str, bytes], settings: Mapping[str, object], template: str | None
) -> dict[str, bytes]:
    """Return the files of a tokenizer with this chat template; all that have it already stay as they are.

    `settings` are those for a tokenizer_config.json that is missing, or that does not name the class.
    """
    config = json.loads(files.get(SETTINGS_FILE, b"{}")) or dict(settings)
    has_template = read_template(files) == template
    if has_template and "tokenizer_class" in config and SETTINGS_FILE in files:
        return dict(files)

    config.setdefault("tokenizer_class", settings.get("tokenizer_class", "PreTrainedTokenizerFast"))
    changed = dict(files)
    if not has_template:
        for name in (TEMPLATE_FILE, OLD_TEMPLATE_FILE):
            changed.pop(name, None)
        config.pop("chat_template", None)
        if template is not None:
            config["chat_template"] = template
    changed[SETTINGS_FILE] = json.dumps(config, indent=2).encode()
    return changed
