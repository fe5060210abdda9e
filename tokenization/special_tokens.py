"""Special tokens of a tokenizer's folder: found wherever transformers finds them, and kept apart from their letters."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import tokenizers

SETTINGS_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
MODEL_FILES = ("generation_config.json", "config.json")
NO_CHARACTER = "\U0010ffff"  # Unicode has none there
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_settings(folder: Path, hf: tokenizers.Tokenizer, default: str) -> dict:
    """Return tokenizer_config.json with the tokens of special_tokens_map.json, and `eos_token` as text or None.

    Like transformers, the map counts where the settings do not list the added tokens; then comes the default of the
    tokenizer's class, then the eos_token_id of a model in the folder. `default` is for a folder that says nothing.
    """
    settings = _read_json(folder / SETTINGS_FILE)
    if "added_tokens_decoder" not in settings:
        tokens = _read_json(folder / MAP_FILE)
        settings |= {name: tokens[name] for name in NAMED if name in tokens}

    settings |= {name: _text(settings[name]) for name in NAMED if name in settings}
    says_nothing = "eos_token" not in settings
    if settings.get("eos_token") is None:
        settings["eos_token"] = _class_default(folder, settings) or _of_model(folder, hf)
    if settings["eos_token"] is None and says_nothing:
        settings["eos_token"] = default
    return settings


def _read_json(file: Path) -> dict:
    """Return the object in a file, {} if it is missing. Raises ValueError for anything else."""
    if not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is not an object")
    return content


def _text(token: object) -> object:
    """Return the text of a token, which transformers may write as {"content": "</s>", "lstrip": ...}."""
    return token["content"] if isinstance(token, dict) else token


def _class_default(folder: Path, settings: dict) -> str | None:
    """Return the end-of-text token that transformers gives to the folder's class of tokenizers, if it has one."""
    if settings.get("tokenizer_class") in (None, "PreTrainedTokenizerFast", "TokenizersBackend"):
        return None  # these have none
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False).eos_token
    except (OSError, ValueError, KeyError, AttributeError, ImportError):
        return None  # a class that transformers does not have, or one with code of its own


def _of_model(folder: Path, hf: tokenizers.Tokenizer) -> str | None:
    """Return the token of the eos_token_id in a model's folder; of several ids, the first."""
    for name in MODEL_FILES:
        ids = _read_json(folder / name).get("eos_token_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if isinstance(first, int) and (token := hf.id_to_token(first)):
            return token
    return None


@dataclass
class Spelling:
    """Copy of a tokenizer for texts in which one of `names` is spelled: it has no token for these letters."""

    names: re.Pattern[str]
    hf: tokenizers.Tokenizer


def add_end(hf: tokenizers.Tokenizer, eos: str) -> None:
    """Make the end-of-text token a special one, which no text is encoded to, where the vocabulary has it otherwise."""
    added = hf.get_added_tokens_decoder().get(hf.token_to_id(eos))
    if added is None or not added.special:
        hf.add_special_tokens([tokenizers.AddedToken(eos, special=True, normalized=False)])


def spelling_copy(hf: tokenizers.Tokenizer) -> Spelling | None:
    """Return the copy of a tokenizer whose model has tokens for the letters of special tokens; None for any other.

    Unigram models hold their special tokens as words. `encode_special_tokens` alone would leave them to the model.
    """
    names = [token.content for token in hf.get_added_tokens_decoder().values() if token.special]
    hf.encode_special_tokens = True
    spelled = {name for name in names if _is_one_token(hf, name)}
    if not spelled:
        return None

    content = json.loads(hf.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    model = content["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [[_never(token, spelled), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {_never(token, spelled): number for token, number in model["vocab"].items()}
    if model.get("unk_token") in spelled:
        model["unk_token"] = _never(model["unk_token"], spelled)
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in spelled]

    copy = tokenizers.Tokenizer.from_str(json.dumps(content))
    copy.encode_special_tokens = True
    return Spelling(re.compile("|".join(map(re.escape, sorted(spelled)))), copy)


def _is_one_token(hf: tokenizers.Tokenizer, name: str) -> bool:
    """Return True if the letters of a special token are encoded to the token itself; bytes of it do not count."""
    encoding = hf.encode(name, add_special_tokens=False)
    token_id = hf.token_to_id(name)
    spans = [
        end - start
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        if number == token_id
    ]
    return any(span >= len(name) for span in spans)


def _never(token: str, spelled: set[str]) -> str:
    """Return another name, which stands in no text, for a token that is spelled."""
    return NO_CHARACTER + token if token in spelled else token
