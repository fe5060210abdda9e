"""Conversations as the page keeps them in the visitor's browser: bounded, checked when they come back, exported.

What a browser sends may be anything, so everything that is read here is checked first.
"""

import dataclasses
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

MAX_KEPT = 30
MAX_KEPT_CHARS = 300_000  # of all conversations as JSON; a browser keeps 5 million characters for a site
MAX_KEPT_TURNS = 1000
MAX_TITLE_CHARS = 60
STOPPED = "stopped"
ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Turn:
    """Turn of a conversation; a reply has the name of its model, its settings in words, why it ended, and its tokens.

    The tokens of the last reply alone are kept: with them it can be continued.
    """

    role: str
    content: str
    model: str = ""
    settings: str = ""
    end: str = ""
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Turns with models that answer, and how full the context was after the last reply.

    `used` of `size` tokens are filled; the oldest `dropped` turns did not fit.
    """

    key: str
    stage: str = ""
    system: str = ""
    turns: tuple[Turn, ...] = ()
    used: int = 0
    size: int = 0
    dropped: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """Return the turns as a model, and data.py, read them; the system turn first, if there is one."""
        turns = [{"role": turn.role, "content": turn.content} for turn in self.turns]
        if self.system.strip():
            turns.insert(0, {"role": "system", "content": self.system})
        return turns

    @property
    def title(self) -> str:
        """Return the first words of the first message."""
        words = " ".join(self.turns[0].content.split()) if self.turns else ""
        return words if len(words) <= MAX_TITLE_CHARS else words[: MAX_TITLE_CHARS - 1] + "…"

    @property
    def waits(self) -> bool:
        """Return True if the last message has no reply."""
        return bool(self.turns) and self.turns[-1].role == "user"

    def replace(self, **changes: object) -> "Conversation":
        """Return the conversation with some fields changed."""
        return dataclasses.replace(self, **changes)

    def add(self, turn: Turn) -> "Conversation":
        """Return the conversation with one more turn; replies before it lose their tokens."""
        turns = [dataclasses.replace(earlier, ids=()) for earlier in self.turns]
        return self.replace(turns=(*turns, turn))

    def without_last(self, count: int) -> "Conversation":
        """Return the conversation without its last turns."""
        return self.replace(turns=self.turns[: len(self.turns) - count])

    def closed(self) -> "Conversation":
        """Return the conversation with a last reply that is not being written any more."""
        if not self.turns or self.turns[-1].role == "user" or self.turns[-1].end:
            return self
        return self.replace(turns=(*self.turns[:-1], dataclasses.replace(self.turns[-1], end=STOPPED)))


def new_conversation(stage: str = "") -> Conversation:
    """Return an empty conversation."""
    return Conversation(secrets.token_hex(4), stage)


# ---- kept in the browser: {"open": key, "conversations": [the newest first]}


def keep(kept: object, conversation: Conversation) -> dict:
    """Return what the browser keeps, with a conversation as its newest; the oldest go where there are too many.

    An empty conversation is open, but not kept.
    """
    others = [other for other in read_kept(kept) if other.key != conversation.key]
    first = [conversation] if conversation.turns else []
    rows = [dataclasses.asdict(each) for each in (first + others)[:MAX_KEPT]]
    while len(json.dumps(rows)) > MAX_KEPT_CHARS:
        if len(rows) > 1:
            rows.pop()
        else:
            rows[0]["turns"] = rows[0]["turns"][2:]  # of one that is too long, the oldest question and reply
    return {"open": conversation.key, "conversations": rows}


def forget(kept: object, key: str) -> dict:
    """Return what the browser keeps without one conversation."""
    rows = [dataclasses.asdict(each) for each in read_kept(kept) if each.key != key]
    return {"open": open_key(kept), "conversations": rows}


def open_key(kept: object) -> str:
    """Return the key of the conversation that was open; empty if the browser keeps none."""
    key = kept.get("open") if isinstance(kept, dict) else None
    return key if isinstance(key, str) else ""


def read_kept(kept: object) -> list[Conversation]:
    """Return the conversations that a browser kept, without those that this page cannot have written."""
    rows = kept.get("conversations") if isinstance(kept, dict) else None
    if not isinstance(rows, list):
        return []
    read = [_read_conversation(row) for row in rows[:MAX_KEPT]]
    return [conversation for conversation in read if conversation is not None]


def _read_conversation(row: object) -> Conversation | None:
    """Return a conversation from its JSON; None for anything else."""
    if not _has_types(row, Conversation):
        return None
    turns = []
    for turn in row["turns"]:
        if not _has_types(turn, Turn) or not all(type(token) is int for token in turn["ids"]):
            return None
        turns.append(Turn(**{**turn, "ids": tuple(turn["ids"])}))

    # Questions and replies take turns; the last question may wait for its reply.
    roles = [turn.role for turn in turns]
    if not turns or roles != [ROLES[number % 2] for number in range(len(roles))]:
        return None
    if sum(len(turn.content) for turn in turns) > MAX_KEPT_CHARS or len(turns) > MAX_KEPT_TURNS:
        return None
    return Conversation(**{**row, "turns": tuple(turns)})


def _has_types(row: object, kind: type) -> bool:
    """Return True if a JSON object has the fields of a dataclass with values of their types; a tuple is a list."""
    defaults = {"key": "", "role": "", "content": ""}
    wanted = {field.name: type(defaults.get(field.name, field.default)) for field in dataclasses.fields(kind)}
    if not isinstance(row, dict) or row.keys() != wanted.keys():
        return False
    return all(
        type(row[name]) in ((list, tuple) if value is tuple else (value,)) for name, value in wanted.items()
    )


# ---- export


def to_jsonl(conversations: Sequence[Conversation]) -> str:
    """Return conversations as rows of `messages`, which data.py reads."""
    rows = [{"messages": conversation.messages} for conversation in conversations if conversation.turns]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def to_markdown(conversations: Sequence[Conversation]) -> str:
    """Return conversations for readers: each message under its speaker, a reply with its model and settings."""
    parts = []
    for conversation in conversations:
        parts.append(f"# {conversation.title}\n\n")
        if conversation.system.strip():
            parts.append(f"**System prompt**\n\n{conversation.system.strip()}\n\n")
        for turn in conversation.turns:
            speaker = "You"
            if turn.role == "assistant":
                speaker = " · ".join(part for part in (turn.model or "Model", turn.settings) if part)
            parts.append(f"**{speaker}**\n\n{turn.content.strip()}\n\n")
    return "".join(parts)
