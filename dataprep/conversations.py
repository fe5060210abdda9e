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
    """Well-formed row without anything to learn: an empty response, or two equal ones."""


def instruction(row: object, row_name: object) -> Messages:
    """Return the conversation of a row. Raises UserError with the row's name for an unusable row."""
    if "messages" in _require_dict(row, "instruction", row_name):
        messages = _messages(row["messages"], "messages", row_name)
        return _require_response(messages, "messages", row_name)

    input_text = text(row, "input", row_name) if row.get("input") else ""
    prompt = instruction_text(text(row, "instruction", row_name), input_text)
    messages = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": text(row, "output", row_name)},
    ]
    return _require_response(messages, "output", row_name)


def preference(row: object, row_name: object) -> tuple[Messages, Messages, int]:
    """Return (chosen, rejected, number of first turns in common). Raises UserError for an unusable row."""
    prompt: Messages = []
    if _require_dict(row, "chosen", row_name).get("prompt") is not None:
        prompt = _turns(row, "prompt", "user", row_name)

    pair = []
    for column in ("chosen", "rejected"):
        answer = _turns(row, column, "assistant", row_name)
        has_prompt = answer[: len(prompt)] == prompt
        pair.append(_require_response(answer if has_prompt else prompt + answer, column, row_name))

    chosen, rejected = pair
    common = _common_turns(chosen, rejected)
    if common == min(len(chosen), len(rejected)):
        scope = "" if len(chosen) == len(rejected) else " as far as the shorter one goes"
        raise NothingToLearn(f"{row_name}: chosen and rejected are the same{scope}")
    if common == 0:
        raise UserError(
            f"{row_name}: chosen and rejected have no turn in common: both must begin with the same prompt"
        )
    return chosen, rejected, common


def _turns(row: dict, column: str, role: str, row_name: object) -> Messages:
    """Return the turns of a column that holds a message list, or a string as the one turn of a role."""
    if isinstance(row.get(column), list):
        return _messages(row[column], column, row_name)
    return [{"role": role, "content": text(row, column, row_name).strip()}]


def _common_turns(chosen: Messages, rejected: Messages) -> int:
    """Return the number of first turns that two conversations share."""
    count = 0
    for ours, other in zip(chosen, rejected, strict=False):
        if ours != other:
            break
        count += 1
    return count


def text(row: object, column: str, row_name: object) -> str:
    """Return a column of text. Raises UserError if it is missing or not text."""
    if column not in _require_dict(row, column, row_name):
        raise UserError(f"{row_name} has no column {column!r}; it has {', '.join(map(repr, row)) or 'none'}")
    return _require_text(row[column], f"column {column!r}", row_name)


def _require_text(value: object, value_name: str, row_name: object) -> str:
    """Return the value if it is text that UTF-8 can encode. Raises UserError otherwise."""
    if not isinstance(value, str):
        raise UserError(f"{row_name}: {value_name} holds {value!r:.40}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{row_name}: {value_name} holds half a surrogate pair, which is no character"
        ) from None
    return value


def _require_dict(row: object, column: str, row_name: object) -> dict:
    """Return the row if it is an object. Raises UserError otherwise."""
    if not isinstance(row, dict):
        raise UserError(f"{row_name} is a {type(row).__name__}, not an object with a column {column!r}")
    return row


def _messages(turns: object, column: str, row_name: object) -> Messages:
    """Return the turns of a message list with role and stripped content only. Raises UserError for a bad turn."""
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise UserError(f"{row_name}: column {column!r} holds {turns!r:.40}, not a list of messages")

    messages = []
    for number, turn in enumerate(turns, 1):
        turn_name = f"turn {number} of {column!r}"
        if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
            raise UserError(f"{row_name}: {turn_name} is {turn!r:.60}, not a role and a content")
        if turn["role"] not in HEADINGS:
            raise UserError(
                f"{row_name}: {turn_name} has the unknown role {turn['role']!r:.40}; "
                f"known are {', '.join(HEADINGS)}"
            )
        content = _require_text(turn["content"], turn_name, row_name).strip()
        messages.append({"role": turn["role"], "content": content})
    return messages


def _require_response(messages: Messages, column: str, row_name: object) -> Messages:
    """Return the messages if the last turn is a response with text. Raises UserError otherwise."""
    if messages[-1]["role"] != "assistant":
        raise UserError(
            f"{row_name}: the last turn of {column!r} is the {messages[-1]['role']}'s, not the assistant's: "
            "there is no response to learn"
        )
    if not messages[-1]["content"].strip():
        raise NothingToLearn(f"{row_name}: the response in {column!r} is empty")
    return messages
