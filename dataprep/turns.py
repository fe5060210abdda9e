"""Turns of a conversation, {"role": system | user | assistant, "content"}, read from the values that rows hold.

A turn of the assistant with "train": False is context: nothing of it is learned. A key that would change what is
learned is heeded, or raises an error that names it; none is dropped without --ignore.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import UserError

Message = dict[str, Any]
Messages = list[Message]

ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
}
TOOL_ROLES = ("tool", "function", "observation", "function_call", "tool_call", "tool_response", "ipython")
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
TEXT_PARTS = ("text", "input_text", "output_text")  # types of a content's parts
LEARN_KEYS = ("weight", "loss_weight", "train", "training", "loss")  # of a turn: 0 or false is context only

# Columns of a row and keys of a turn that the prompt template has no room for.
UNREAD_KEYS = (
    *("images", "image", "videos", "video", "audios", "audio"),
    *("tools", "functions", "tool_calls", "tool_call", "function_call", "function_calls"),
    *("thinking", "reasoning", "reasoning_content", "thought", "thoughts"),
)
EMPTY = (None, "", [], {}, "[]", "{}")

BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
DIALOGUE_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
DIALOGUE_ROLES = {"Human": "user", "Assistant": "assistant"}


class BadRow(UserError):
    """Fault of a row, with its file and number; `reason` is what it is counted as where such rows are left out."""

    reason = "malformed"


class NothingToLearn(BadRow):
    """Well-formed row without anything to learn: an empty response, or two equal ones."""

    reason = "nothing to learn"


class EmptyText(NothingToLearn):
    """Row of text without text, which is common and does no harm."""


class MarkedBad(BadRow):
    """Row that its own dataset marks as a bad answer."""

    reason = "marked bad"


class UnreadKey(BadRow):
    """Row with a key that changes what is learned, and that the prompt template has no room for."""

    reason = "a key that is not read"


@dataclass(frozen=True)
class RowOptions:
    """Flags that decide how rows are read: columns, keys and roles to rename or ignore, and what bad rows do."""

    rename: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()
    skip_bad_rows: bool = False

    def apply(self, values: Mapping) -> dict:
        """Return a row or turn with its keys renamed and without the ignored ones."""
        if not self.rename and not self.ignore:
            return dict(values)
        kept = {key: value for key, value in values.items() if key not in self.ignore}
        for old, new in self.rename:
            if old in kept:
                kept[new] = kept.pop(old)
        return kept


AS_IT_IS = RowOptions()


@dataclass(frozen=True)
class Location:
    """Row and a part of it, for error messages; the text is made when it is printed, since that may count lines."""

    row_name: object
    part: str

    def __str__(self) -> str:
        return f"{self.row_name}: {self.part}"


def read_turns(
    value: object, role: str, location: Location, options: RowOptions, has_dialogues: bool = False
) -> Messages:
    """Return the turns of a value: a message list, one message, or a string as the one turn of a role.

    With has_dialogues, a string of Human: and Assistant: turns is read as these. Raises BadRow for anything else.
    """
    if isinstance(value, list):
        return read_messages(value, location, options)
    if isinstance(value, dict):
        return read_messages([value], location, options)

    text = require_text(value, location)
    if has_dialogues and text.lstrip().startswith("Human:") and "\n\nAssistant:" in text:
        return _dialogue(text)
    return [{"role": role, "content": clean(text)}]


def read_messages(turns: object, location: Location, options: RowOptions) -> Messages:
    """Return the turns of a message list, which may be JSON text. Raises BadRow for a bad turn."""
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError) as error:
            raise BadRow(f"{location} is not JSON: {error}") from None
    if not isinstance(turns, list) or not turns:
        raise BadRow(f"{location} holds {turns!r:.40}, not a list of messages")

    messages = []
    for number, turn in enumerate(turns, 1):
        turn_location = Location(
            location.row_name, f"turn {number} of {location.part.removeprefix('column ')}"
        )
        messages.append(_read_message(turn, turn_location, options))
    return [message for message in messages if message is not None]


def clean(text: str) -> str:
    """Return a text without the blank lines around it; the indentation of its first line is kept."""
    return BLANK_LINES.sub("", text).rstrip()


def require_text(value: object, location: Location) -> str:
    """Return the value if it is text that UTF-8 can encode. Raises BadRow otherwise."""
    if not isinstance(value, str):
        raise BadRow(f"{location} holds {value!r:.40}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{location} holds half a surrogate pair, which is no character") from None
    return value


def refuse_unread(values: dict, location: object) -> None:
    """Raise UnreadKey if a row or turn has a key that would be dropped."""
    for key in UNREAD_KEYS:
        if values.get(key) not in EMPTY:
            raise UnreadKey(
                f"{location} has {key!r}, which the prompt template has no room for: {_drop(key)}"
            )


def is_on(value: object, key: str, location: object) -> bool:
    """Return the truth that a mark such as `weight` or `label` holds; None is True. Raises BadRow for other values."""
    if value in (None, "", "true", "True"):
        return True
    if value in ("false", "False"):
        return False
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise UnreadKey(f"{location} has {value!r:.40} as {key!r}, neither true nor false: {_drop(key)}")


def _drop(key: str) -> str:
    return f"--ignore {key} reads the rows without it"


def _read_message(turn: object, location: Location, options: RowOptions) -> Message | None:
    """Return a turn with role and content; None for one that --ignore skips. Raises BadRow."""
    values = options.apply(turn) if isinstance(turn, dict) else {}
    role_key = _first_key(values, ROLE_KEYS)
    content_key = _first_key(values, CONTENT_KEYS)
    if role_key is None or content_key is None:
        raise BadRow(f"{location} is {turn!r:.60}, not a role and a content (or from and value)")

    refuse_unread(values, location)
    role = _role(values[role_key], location, options)
    if role is None:
        return None

    content = values[content_key]
    if isinstance(content, list):
        content = "".join(_part_text(part, location, options) for part in content)
    if content in EMPTY and any(turn.get(key) not in EMPTY for key in options.ignore):
        return None  # it held nothing but what is ignored

    message: Message = {"role": role, "content": clean(require_text(content, location))}
    if not _is_learned(values, role, location):
        message["train"] = False
    return message


def _first_key(values: dict, keys: tuple[str, ...]) -> str | None:
    """Return the first key with a value, else the first that is there at all."""
    present = [key for key in keys if key in values]
    with_value = [key for key in present if values[key] is not None]
    return (with_value or present or [None])[0]


def _role(role: object, location: Location, options: RowOptions) -> str | None:
    """Return the template's name of a role; None for one that is ignored. Raises BadRow for an unknown one."""
    if not isinstance(role, str):
        raise BadRow(f"{location} holds the role {role!r:.40}, not text")
    role = dict(options.rename).get(role, role)
    if role in options.ignore:
        return None
    if role in ROLES:
        return ROLES[role]
    if role in TOOL_ROLES:
        raise UnreadKey(
            f"{location} has the role {role!r}, which the prompt template has no room for: --ignore {role} leaves "
            "such turns out"
        )
    raise BadRow(
        f"{location} has the unknown role {role!r:.40}; known are {', '.join(ROLES)}: --rename {role!s:.40}=user (or "
        "another of them) reads it"
    )


def _part_text(part: object, location: Location, options: RowOptions) -> str:
    """Return the text of one part of a content. Raises UnreadKey for an image or the like."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise BadRow(f"{location} holds the part {part!r:.40}, not text")

    part_type = part.get("type") or "text"
    if part_type in options.ignore:
        return ""
    if part_type not in TEXT_PARTS:
        raise UnreadKey(
            f"{location} has a part of type {part_type!r:.40}, which the prompt template has no room for: "
            f"--ignore {part_type!s:.40} leaves such parts out"
        )
    return require_text(part.get("value") if part.get("text") is None else part["text"], location)


def _is_learned(turn: dict, role: str, location: Location) -> bool:
    """Return False for a turn of the assistant that is marked as context."""
    if role == "assistant":
        return all(is_on(turn.get(key), key, location) for key in LEARN_KEYS)
    for key in LEARN_KEYS:
        if turn.get(key) is True:
            raise UnreadKey(
                f"{location} is the {role}'s and has {key!r}: loss falls on the assistant's turns only: {_drop(key)}"
            )
    return True


def _dialogue(text: str) -> Messages:
    """Return the turns of a string of Human: and Assistant: turns."""
    _, *pieces = DIALOGUE_TURN.split(text)
    return [
        {"role": DIALOGUE_ROLES[speaker], "content": clean(content.removeprefix(" "))}
        for speaker, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
