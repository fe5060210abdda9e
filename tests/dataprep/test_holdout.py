"""Validation split of few documents: the end is held out, and equal texts or prompts stay on one side."""

from pathlib import Path

import numpy as np
import pytest
from examples import documents
from shard_files import read_conversations, write_conversations, write_texts

from dataprep.holdout import split_validation


def split(folder: Path, shards: list[dict], kind: str, fraction: float) -> dict[str, list[dict]]:
    """Split shards of uint16 ids; the text of an id has one byte."""
    return split_validation(folder, shards, kind, fraction, 100, first_index=len(shards), text_bytes=len)


def test_the_end_of_one_document_is_held_out(tmp_path: Path) -> None:
    pieces = [
        write_texts(tmp_path, 0, [[*range(60)]], last_continues=True),
        write_texts(tmp_path, 1, [[*range(60, 100)]]),
    ]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    splits = split(tmp_path, pieces, "text", 0.3)
    assert documents(tmp_path, splits["train"]) == [list(range(70))]
    assert documents(tmp_path, splits["val"]) == [list(range(70, 100))]
    assert [sum(shard["bytes"] for shard in splits[name]) for name in ("train", "val")] == [70, 30]
    # A kill leaves the old shards complete.
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_boundary_between_two_pieces_ends_the_document(tmp_path: Path) -> None:
    pieces = [
        write_texts(tmp_path, 0, [[1, 2, 3]], last_continues=True),
        write_texts(tmp_path, 1, [[4, 5, 6]]),
    ]
    splits = split(tmp_path, pieces, "text", 0.5)
    assert [shard["documents"] for shard in splits["train"]] == [1]
    assert documents(tmp_path, splits["val"]) == [[4, 5, 6]]


def test_equal_documents_are_held_out_together(tmp_path: Path) -> None:
    a, b, c = [1] * 10, [2] * 10, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    shards = [write_texts(tmp_path, 0, [a, c, b]), write_texts(tmp_path, 1, [c, b, a])]
    splits = split(tmp_path, shards, "text", 0.5)
    # Of a, c, b: a and the head of c are trained on.
    assert documents(tmp_path, splits["train"]) == [a, c[:5], c[:5], a]
    assert documents(tmp_path, splits["val"]) == [c[5:], b, c[5:], b]
    assert [shard["tokens"] for shard in splits["train"]] == [15, 15]


def test_conversations_are_held_out_undivided(tmp_path: Path) -> None:
    conversations = [[n, n, 50 + n, 50, 50][: 3 + n % 3] for n in range(30)]
    shards = [
        write_conversations(tmp_path, 0, conversations[:20]),
        write_conversations(tmp_path, 1, conversations[20:]),
    ]
    splits = split(tmp_path, shards, "instruct", 0.25)
    train = read_conversations(tmp_path, splits["train"])
    assert train + read_conversations(tmp_path, splits["val"]) == conversations

    val_tokens = sum(shard["tokens"] for shard in splits["val"])
    assert 0.25 <= val_tokens / 120 < 0.25 + 5 / 120  # the one at the boundary is held out
    num_bytes = sum(shard["bytes"] for shards in splits.values() for shard in shards)
    assert num_bytes == sum(len(conversation) - 2 for conversation in conversations)


@pytest.mark.parametrize("fraction", np.linspace(0.05, 0.9, 12))
def test_a_pair_is_held_out_as_one(tmp_path: Path, fraction: float) -> None:
    answers = [
        [n, turn, *range(50, 51 + length)] for n in range(12) for turn, length in ((20, n % 4), (21, 3))
    ]
    shards = [write_conversations(tmp_path, 0, answers[:10]), write_conversations(tmp_path, 1, answers[10:])]
    splits = split(tmp_path, shards, "preference", fraction)
    train = read_conversations(tmp_path, splits["train"])
    val = read_conversations(tmp_path, splits["val"])
    assert train + val == answers
    assert len(train) % 2 == len(val) % 2 == 0 < len(val) < len(answers)


@pytest.mark.parametrize("kind", ["instruct", "preference"])
@pytest.mark.parametrize("fraction", [0.05, 0.4, 0.6, 0.9])
def test_equal_prompts_are_held_out_together(tmp_path: Path, kind: str, fraction: float) -> None:
    first_ids = iter(range(50, 100))
    copies = 2 if kind == "preference" else 1
    conversations = [
        [*[prompt] * 9, next(first_ids), *[60] * length]
        for length in range(3)
        for prompt in (1, 2, 3)
        for _ in range(copies)
    ]
    splits = split(tmp_path, [write_conversations(tmp_path, 0, conversations)], kind, fraction)
    train = read_conversations(tmp_path, splits["train"])
    val = read_conversations(tmp_path, splits["val"])
    assert train and val and sorted(train + val) == sorted(conversations)
    assert not {ids[0] for ids in train} & {ids[0] for ids in val}
