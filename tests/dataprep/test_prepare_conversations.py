"""Preparing conversations and pairs: the loss mask covers the responses, and equal prompts stay on one side."""

import json
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
from examples import files
from prepared import (
    INSTRUCTIONS,
    PAIRS,
    RESPONSES,
    ROWS,
    Killed,
    check_split,
    conversations,
    datasets,
    expected_conversations,
)

from dataprep import prepare
from dataprep.shards import read_meta

inline, command, small = prepared.inline, prepared.command, prepared.small


def all_conversations(kind: str) -> list[str]:
    """Return the conversations of all rows, in order."""
    return [text for n in range(len(INSTRUCTIONS)) for text in expected_conversations(kind, n)]


def prompt(text: str) -> str:
    """Return the part of a conversation before the response."""
    return text.partition("### Response:")[0]


@pytest.fixture(params=["instruct", "preference"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def answers(kind: str, tmp_path: Path) -> list[object]:
    """Write 120 conversations or pairs; return the flags that name their file."""
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
    return ["--files", path, "--kind", kind]


def test_every_conversation_is_prepared_once_and_equal_prompts_are_on_one_side(
    inline: None, command: Callable, kind: str, answers: list, small: Path, tmp_path: Path
) -> None:
    code, out, err = command(*answers, "--name", "mine", "--tokenizer", small, "--val_fraction", "0.3")
    assert (code, err) == (0, "") and ("conversations" if kind == "instruct" else "answers") in out
    meta = read_meta(tmp_path / "data" / "mine")
    assert meta["kind"] == kind and len(meta["splits"]["train"]) > 3

    train, val = conversations(tmp_path / "data" / "mine")
    check_split(all_conversations(kind), train, val, 0.3)
    assert not {prompt(text) for text in train} & {prompt(text) for text in val}
    learned = sum(len(row[column].strip()) for row in ROWS[kind] for column in RESPONSES[kind])
    assert sum(dataset.bytes for dataset in datasets(tmp_path / "data" / "mine")) == learned


def test_two_large_groups_stay_in_training(
    inline: None, command: Callable, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text("".join(json.dumps(ROWS[kind][number]) + "\n" for number in (0, 20, 0, 20, 1, 21)))
    flags = ("--files", path, "--kind", kind, "--name", "few", "--tokenizer", "bytes")
    code, out, err = command(*flags, "--val_fraction", "1e-2")
    assert code == 0, err
    train, val = conversations(tmp_path / "data" / "few")
    expected = [text for n in (0, 20, 0, 20, 1, 21) for text in expected_conversations(kind, n)]
    assert sorted(train + val) == sorted(expected)
    assert val == []  # two prompts of three rows: each is more than twice the share
    assert "holds 0.00% of the tokens" in out


def test_max_tokens_of_conversations_is_a_prefix_whether_or_not_it_was_killed(
    inline: None,
    command: Callable,
    kind: str,
    answers: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prepared_as(name: str, *flags: object) -> list[list[str]]:
        flags = (*answers, "--update", "--name", name, "--tokenizer", "bytes", "--val_fraction", 0.3, *flags)
        assert command(*flags)[0] == 0
        return conversations(tmp_path / "data" / name)

    expected = all_conversations(kind)
    exact = 0
    for limit in range(3_000, 4_400, 200):
        limited = prepared_as("some", "--max_tokens", limit)
        tokens = sum(map(len, datasets(tmp_path / "data" / "some")))
        assert limit - 500 < tokens <= limit
        # Nothing is skipped.
        train, val = limited
        check_split(expected[: len(train + val)], train, val, 0.3)
        assert kind == "instruct" or all(len(texts) % 2 == 0 for texts in limited)

        with monkeypatch.context() as patch:
            patch.setattr(prepare, "make_meta", prepared.kill)
            with pytest.raises(Killed):
                prepared_as("twin", "--max_tokens", limit)
        assert prepared_as("twin", "--max_tokens", limit, "--num_proc", 3) == limited
        exact += tokens == limit
    assert exact < 7


@pytest.mark.parametrize(
    "row, words",
    [
        ({"instruction": "Hi", "output": ""}, "the response in 'output' is empty"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "the last turn of 'messages' is the user's"),
        ({"prompt": "Hi", "chosen": "x", "rejected": "x"}, "chosen and rejected are the same"),
    ],
)
def test_a_bad_conversation_stops_before_anything_is_replaced(
    inline: None, command: Callable, tmp_path: Path, row: dict, words: str
) -> None:
    kind = "preference" if "prompt" in row else "instruct"
    good = PAIRS if kind == "preference" else INSTRUCTIONS
    path = tmp_path / "bad.jsonl"
    flags = ("--files", path, "--kind", kind, "--name", "mine", "--tokenizer", "bytes")
    path.write_text("".join(json.dumps(each) + "\n" for each in good[:80]))
    assert command(*flags)[0] == 0

    before = files(tmp_path / "data" / "mine")
    path.write_text("".join(json.dumps(each) + "\n" for each in [*good[:70], row]))
    code, _, err = command(*flags, "--update")
    assert code == 2 and err.startswith(f"error: {path} row 71") and words in err and err.count("\n") == 1
    assert files(tmp_path / "data" / "mine") == before
