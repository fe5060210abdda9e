"""Rows of instruction and preference data as conversations, each turn {"role": system | user | assistant, "content"}.

instruct      instruction, input, output (Alpaca); or messages
preference    chosen and rejected: message lists, or strings with a prompt (a string or a message list)
"""

from collections.abc import Sequence

from runtime.errors import UserError
from tokenizer import HEADINGS, instruction_text

Messages = list[dict[str, str]]
COLUMNS = {
    "text": ("text",),
    "instruct": ("messages", "instruction", "input", "output"),
    "preference": ("prompt", "chosen", "rejected"),
}


class NothingToLearn(UserError):
    """A well-formed row that teaches nothing: an empty response, or two equal ones."""


def instruction(row: object, where: object) -> Messages:
    """The conversation of a row. Raises UserError with the row's name where it cannot be learned from."""
    if "messages" in _columns(row, "instruction", where):
        return _answered(_messages(row["messages"], "messages", where), "messages", where)
    given = text(row, "input", where) if row.get("input") else ""
    asked = instruction_text(text(row, "instruction", where), given)
    return _answered(
        [{"role": "user", "content": asked}, {"role": "assistant", "content": text(row, "output", where)}],
        "output",
        where,
    )


def preference(row: object, where: object) -> tuple[Messages, Messages, int]:
    """(chosen, rejected, how many first turns they have in common). Raises UserError as instruction does."""
    asked, pair = [], []
    if _columns(row, "chosen", where).get("prompt") is not None:
        asked = (
            _messages(row["prompt"], "prompt", where)
            if isinstance(row["prompt"], list)
            else [{"role": "user", "content": text(row, "prompt", where).strip()}]
        )
    for name in ("chosen", "rejected"):
        answer = row.get(name)
        answer = (
            _messages(answer, name, where)
            if isinstance(answer, list)
            else [{"role": "assistant", "content": text(row, name, where).strip()}]
        )
        pair.append(_answered(answer if answer[: len(asked)] == asked else asked + answer, name, where))
    chosen, rejected = pair
    same = next(
        (n for n, turns in enumerate(zip(chosen, rejected, strict=False)) if turns[0] != turns[1]),
        min(len(chosen), len(rejected)),
    )
    if same == min(len(chosen), len(rejected)):
        how = (
            "are the same" if len(chosen) == len(rejected) else "are the same as far as the shorter one goes"
        )
        raise NothingToLearn(f"{where}: chosen and rejected {how}")
    if same == 0:
        raise UserError(
            f"{where}: chosen and rejected have no turn in common: both must begin with the same prompt"
        )
    return chosen, rejected, same


def text(row: object, name: str, where: object) -> str:
    """A column of text of a row. Raises UserError when it is not there or not text."""
    if name not in _columns(row, name, where):
        raise UserError(f"{where} has no column {name!r}; it has {', '.join(map(repr, row)) or 'none'}")
    return _characters(row[name], f"column {name!r}", where)


def _characters(value: object, what: str, where: object) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {what} holds {value!r:.40}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {what} holds half a surrogate pair, which is no character") from None
    return value


def _columns(row: object, name: str, where: object) -> dict:
    """The row, which must be an object."""
    if not isinstance(row, dict):
        raise UserError(f"{where} is a {type(row).__name__}, not an object with a column {name!r}")
    return row


def _messages(turns: object, name: str, where: object) -> Messages:
    """The turns of a message list, with nothing but role and content, which loses the white space at its ends."""
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise UserError(f"{where}: column {name!r} holds {turns!r:.40}, not a list of messages")
    found = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
            raise UserError(f"{where}: turn {number} of {name!r} is {turn!r:.60}, not a role and a content")
        if turn["role"] not in HEADINGS:
            raise UserError(
                f"{where}: turn {number} of {name!r} has the unknown role {turn['role']!r:.40}; "
                f"known are {', '.join(HEADINGS)}"
            )
        found.append(
            {
                "role": turn["role"],
                "content": _characters(turn["content"], f"turn {number} of {name!r}", where).strip(),
            }
        )
    return found


def _answered(messages: Messages, name: str, where: object) -> Messages:
    """The messages, whose last turn must be a response with something in it."""
    if messages[-1]["role"] != "assistant":
        raise UserError(
            f"{where}: the last turn of {name!r} is the {messages[-1]['role']}'s, not the assistant's: "
            "there is no response to learn"
        )
    if not messages[-1]["content"].strip():
        raise NothingToLearn(f"{where}: the response in {name!r} is empty")
    return messages
