"""Conversations: bounded and checked in the browser's store, exported as data.py reads them."""

import json

import pytest
from chat_history import (
    MAX_KEPT,
    MAX_KEPT_CHARS,
    Conversation,
    Turn,
    forget,
    keep,
    new_conversation,
    open_key,
    read_kept,
    to_jsonl,
    to_markdown,
)

from dataprep import conversations as rows_of

ASKED = Conversation("k", "sft", turns=(Turn("user", "Hi\nthere"),))
ANSWERED = ASKED.add(Turn("assistant", "Hello!", "S-toy/step_1", "temperature 0.8 · seed 1", "ended", (1, 2)))


def through_json(kept):
    """Return what comes back from a browser."""
    return json.loads(json.dumps(kept))


def test_a_conversation_comes_back_as_it_was():
    kept = through_json(keep(None, ANSWERED))
    assert read_kept(kept) == [ANSWERED] and open_key(kept) == "k"
    assert ANSWERED.title == "Hi there" and ASKED.waits and not ANSWERED.waits

    # An empty conversation is open, and not kept.
    empty = new_conversation()
    kept = through_json(keep(kept, empty))
    assert open_key(kept) == empty.key and read_kept(kept) == [ANSWERED]
    assert read_kept(forget(kept, "k")) == []


def test_only_the_last_reply_keeps_its_tokens():
    longer = ANSWERED.add(Turn("user", "And?"))
    assert [turn.ids for turn in longer.turns] == [(), (), ()] and ANSWERED.turns[-1].ids == (1, 2)
    assert longer.without_last(2) == ASKED
    assert ASKED.add(Turn("assistant", "He")).closed().turns[-1].end == "stopped"
    assert ASKED.closed() == ASKED and ANSWERED.closed() == ANSWERED


def test_what_is_kept_is_bounded():
    kept = None
    for number in range(MAX_KEPT + 5):
        kept = keep(kept, ANSWERED.replace(key=str(number)))
    assert [each.key for each in read_kept(kept)] == [str(n) for n in range(MAX_KEPT + 4, 4, -1)]

    for number in range(5):
        kept = keep(kept, Conversation(f"long {number}", turns=(Turn("user", "x" * (MAX_KEPT_CHARS // 3)),)))
    assert [each.key for each in read_kept(kept)][:2] == ["long 4", "long 3"]
    assert len(json.dumps(kept)) < MAX_KEPT_CHARS + 1000

    # One that is too long alone keeps its newest turns.
    turns = tuple(Turn(role, f"{n}" + "x" * 1000) for n in range(200) for role in ("user", "assistant"))
    newest = read_kept(keep(None, Conversation("huge", turns=turns)))[0]
    assert newest.turns[-1].content.startswith("199") and 100 < len(newest.turns) < 400


@pytest.mark.parametrize(
    "change",
    [
        {"key": 5},
        {"turns": "text"},
        {"turns": []},
        {"turns": [{"role": "user"}]},
        {"turns": [{**through_json(keep(None, ASKED))["conversations"][0]["turns"][0], "role": "system"}]},
        {"turns": [{**through_json(keep(None, ASKED))["conversations"][0]["turns"][0], "ids": ["x"]}]},
        {"used": True},
        {"more": 1},
        {"turns": through_json(keep(None, ANSWERED))["conversations"][0]["turns"] * 600},
    ],
)
def test_what_the_page_cannot_have_written_is_left_out(change):
    kept = through_json(keep(keep(None, ANSWERED.replace(key="good")), ANSWERED))
    kept["conversations"][0] |= change
    assert [each.key for each in read_kept(kept)] == ["good"]
    for nonsense in (None, 5, "x", [], {"conversations": 3, "open": 4}, {"conversations": [None, 1, "x"]}):
        assert read_kept(nonsense) == [] and open_key(nonsense) == ""


def test_the_export_is_read_by_data_py():
    conversation = ANSWERED.replace(system="Be brief.")
    row = json.loads(to_jsonl([conversation, new_conversation()]))
    roles = [message["role"] for message in row["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert rows_of.instruction(row, "row 1") == row["messages"]

    markdown = to_markdown([conversation])
    assert markdown.startswith("# Hi there\n") and "**You**\n\nHi\nthere" in markdown
    assert "**S-toy/step_1 · temperature 0.8 · seed 1**\n\nHello!" in markdown and "Be brief." in markdown
