"""Special tokens of a tokenizer's folder: found wherever transformers finds them, and kept apart from their letters."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from tokenization.guest_files import MAP_FILE, SETTINGS_FILE

MODEL_FILES = ("generation_config.json", "config.json")
# Unicode has no characters there; a text that holds such a code point gets the replacement character for it.
NO_CHARACTER = "\U0010ffff"
HIDDEN = "\U0010fffe"
REPLACEMENT = "\ufffd"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_settings(
    folder: Path, hf: tokenizers.Tokenizer, default: str, of_class: Mapping[str, str] | None = None
) -> dict:
    """Return tokenizer_config.json with the tokens of special_tokens_map.json, and `eos_token` as text or None.

    Like transformers, the map counts where the settings do not list the added tokens; then come the defaults of the
    tokenizer's class (`of_class`), then the eos_token_id of a model in the folder. `default` is for a folder that says
    nothing.
    """
    settings = _read_json(folder / SETTINGS_FILE)
    if "added_tokens_decoder" not in settings:
        tokens = _read_json(folder / MAP_FILE)
        settings |= {name: tokens[name] for name in NAMED if name in tokens}

    settings |= {name: _text(settings[name]) for name in NAMED if name in settings}
    says_nothing = "eos_token" not in settings
    for name, token in (of_class or {}).items():
        if name in NAMED and settings.get(name) is None:
            settings[name] = token
    if settings.get("eos_token") is None:
        settings["eos_token"] = _of_model(folder, hf)
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


def _of_model(folder: Path, hf: tokenizers.Tokenizer) -> str | None:
    """Return the token of the eos_token_id in a model's folder; of several ids, the first."""
    for name in MODEL_FILES:
        ids = _read_json(folder / name).get("eos_token_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if isinstance(first, int) and (token := hf.id_to_token(first)):
            return token
    return None


def add_end(hf: tokenizers.Tokenizer, eos: str) -> None:
    """Make the end-of-text token a special one, which no text is encoded to, where the vocabulary has it otherwise."""
    added = hf.get_added_tokens_decoder().get(hf.token_to_id(eos))
    if added is None or not added.special:
        hf.add_special_tokens([tokenizers.AddedToken(eos, special=True, normalized=False)])


def token_at(encoding: tokenizers.Encoding, position: int) -> int | None:
    """Return the number of the token that begins at a character of the text; None if none begins there."""
    number = encoding.char_to_token(position)
    if number is None or encoding.token_to_chars(number)[0] != position:
        return None
    return number


def begin_ids(hf: tokenizers.Tokenizer) -> list[int]:
    """Return the ids of the special tokens that a tokenizer puts before a text, such as <s>; often none."""
    encoding = hf.encode("a")
    is_added = encoding.special_tokens_mask
    count = is_added.index(0) if 0 in is_added else 0
    return encoding.ids[:count]


@dataclass
class RenamedTokens:
    """Copy of a tokenizer whose special tokens have names that stand in no text; `names` finds the former ones.

    So the letters of a special token in a text stay text, while a template's special tokens, renamed, are found.
    """

    hf: tokenizers.Tokenizer
    names: re.Pattern[str]

    def hide(self, content: str) -> str:
        """Return a content in which no special token is spelled: a mark is put inside each."""
        content = content.replace(NO_CHARACTER, REPLACEMENT).replace(HIDDEN, REPLACEMENT)
        return self.names.sub(lambda name: f"{name[0][0]}{HIDDEN}{name[0][1:]}", content)

    def rename(self, rendered: str) -> str:
        """Return a rendered text with its special tokens renamed and the letters of hidden ones as they were."""
        renamed = self.names.sub(lambda name: NO_CHARACTER + name[0], rendered)
        return renamed.replace(HIDDEN, "")

    def encode(self, text: str) -> tokenizers.Encoding:
        """Return what the tokenizer gives for a text without special tokens; those spelled in it stay text."""
        return self.hf.encode(text.replace(NO_CHARACTER, REPLACEMENT), add_special_tokens=False)


def rename_tokens(hf: tokenizers.Tokenizer) -> RenamedTokens:
    """Return the copy of a tokenizer whose special tokens are renamed; all ids are the same."""
    content = json.loads(hf.to_str())
    content["post_processor"] = None
    special = set()
    for token in content["added_tokens"]:
        if token["special"]:
            special.add(token["content"])
            token["content"] = NO_CHARACTER + token["content"]

    # The model may hold the tokens, too: as words, or as what its merges make of their letters.
    model = content["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [[_renamed(token, special), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {_renamed(token, special): number for token, number in model["vocab"].items()}
    if model.get("unk_token") in special:
        model["unk_token"] = _renamed(model["unk_token"], special)
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if special.isdisjoint([*pair, "".join(pair)])]

    longest_first = sorted(special, key=len, reverse=True)
    names = re.compile("|".join(map(re.escape, longest_first)))
    return RenamedTokens(tokenizers.Tokenizer.from_str(json.dumps(content)), names)


def _renamed(token: str, special: set[str]) -> str:
    """Return a token, by its other name if it is special."""
    return NO_CHARACTER + token if token in special else token
