"""Shards with another split: every token once, loss masks kept, documents cut where they should be."""

import os
from pathlib import Path

import numpy as np
import pytest
from examples import documents
from shard_files import read_conversations

from dataprep.documents import Document
from dataprep.examples import ExampleWriter
from dataprep.holdout import in_validation
from dataprep.resplit import repeated_keys, split_units
from dataprep.shards import SplitWriter

FRACTION = 0.1
Example = tuple[str, list[list[int]], bool]  # key, ids of one document or two, complete or not


def write_unit(
    folder: Path, index: int, kind: str, examples: list[Example], in_val: bool | None = None
) -> dict:
    """Write a unit, split by hash or as told; a token of an answer is 50 or more, and each has one byte."""
    writer, listed = SplitWriter(folder, index, 100, kind), ExampleWriter(folder, index)
    for key, parts, is_complete in examples:
        split = "val" if (in_validation(key, FRACTION) if in_val is None else in_val) else "train"
        token_parts = []
        for ids in map(np.array, parts):
            loss_mask = None if kind == "text" else ids >= 50
            token_parts.append((ids.astype(np.uint32), loss_mask, len(ids)))
            writer.add(split, *token_parts[-1], is_complete)
        listed.add(split, Document(token_parts, key, is_complete))
    return {"shards": writer.close(), **listed.close(FRACTION)}


def texts(*sizes: int, start: int = 0) -> list[Example]:
    """Return documents of these lengths; the ids count up over all of them, modulo 100."""
    starts = np.cumsum([start, *sizes])
    return [
        (f"text {first}", [[n % 100 for n in range(first, first + size)]], True)
        for first, size in zip(starts.tolist(), sizes, strict=False)
    ]


def split(folder: Path, entries: list[dict], kind: str = "text", fraction: float = FRACTION) -> dict:
    """Split units of uint16 ids; a token has one byte."""
    return split_units(folder, entries, kind, fraction, 100, first_index=len(entries), text_bytes=len)


def test_the_end_of_one_document_in_pieces_is_held_out_and_nothing_else_is_written(tmp_path: Path) -> None:
    ids = [n % 100 for n in range(1000)]
    pieces = [("book", [ids[start : start + 50]], start == 950) for start in range(0, 1000, 50)]
    entries = [write_unit(tmp_path, n, "text", [piece], in_val=False) for n, piece in enumerate(pieces)]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for fraction, written in ((0.1, 3), (0.13, 3)):
        splits = split(tmp_path, entries, fraction=fraction)
        assert documents(tmp_path, splits["train"]) == [ids[: round(1000 * (1 - fraction))]]
        assert documents(tmp_path, splits["val"]) == [ids[round(1000 * (1 - fraction)) :]]
        assert sum(shard["bytes"] for shards in splits.values() for shard in shards) == 1000
        new = {path.name for path in tmp_path.iterdir()} - before.keys()
        assert len({name[-16:] for name in new if "tokens" in name}) <= 2 * written
    # A kill leaves the old shards complete.
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_units_that_go_to_validation_are_linked_or_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [n % 100 for n in range(1000)]
    pieces = [("book", [ids[start : start + 10]], start == 990) for start in range(0, 1000, 10)]
    entries = [write_unit(tmp_path, n, "text", [piece], in_val=False) for n, piece in enumerate(pieces)]
    splits = split(tmp_path, entries)
    last = splits["val"][-1]
    assert next(iter(last["sha256"].values())) == next(
        iter(entries[-1]["shards"]["train"]["sha256"].values())
    )
    name = next(iter(last["sha256"]))
    assert (tmp_path / name).stat().st_nlink == 2

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert split(tmp_path, entries) == splits and (tmp_path / name).stat().st_nlink == 1
    assert documents(tmp_path, splits["val"]) == [ids[900:]]


@pytest.mark.parametrize("book_in_val", [False, True])
def test_a_book_beside_notes_gives_its_last_part(tmp_path: Path, book_in_val: bool) -> None:
    book = texts(5000)
    notes = texts(*[3] * 40, start=5000)
    entries = [
        write_unit(tmp_path, 0, "text", [*notes[:20], *book], in_val=book_in_val),
        write_unit(tmp_path, 1, "text", notes[20:]),
    ]
    splits = split(tmp_path, entries)
    (ids,) = book[0][1]
    train, val = (documents(tmp_path, splits[name]) for name in ("train", "val"))
    assert ids[:4500] in train and ids[4500:] in val
    short = [document for document in train + val if len(document) == 3]
    assert sorted(short) == sorted(parts[0] for _, parts, _ in notes)
    tokens = sum(map(len, val))
    assert 0.05 < tokens / 5120 < 0.2


def test_pieces_of_one_document_may_lie_in_one_unit(tmp_path: Path) -> None:
    ids = [n % 100 for n in range(1000)]
    pieces = [("book", [ids[start : start + 40]], start == 960) for start in range(0, 1000, 40)]
    entries = [write_unit(tmp_path, n, "text", pieces[n * 5 : n * 5 + 5], in_val=False) for n in range(5)]
    splits = split(tmp_path, entries)
    assert documents(tmp_path, splits["train"]) == [ids[:900]]
    assert documents(tmp_path, splits["val"]) == [ids[900:]]


def test_equal_documents_are_cut_at_the_same_place(tmp_path: Path) -> None:
    (book,) = texts(100)
    splits = split(tmp_path, [write_unit(tmp_path, n, "text", [book] * 2) for n in range(2)])
    (ids,) = book[1]
    assert documents(tmp_path, splits["train"]) == [ids[:90]] * 4
    assert documents(tmp_path, splits["val"]) == [ids[90:]] * 4


@pytest.mark.parametrize("kind", ["instruct", "preference"])
@pytest.mark.parametrize("in_val", [None, False, True])
def test_conversations_move_undivided_with_their_loss_mask(
    tmp_path: Path, kind: str, in_val: bool | None
) -> None:
    parts = 2 if kind == "preference" else 1
    examples = [
        (f"prompt {n % 30}", [[n % 30, *[50 + n % 7] * (1 + n % 3 + part)] for part in range(parts)], True)
        for n in range(60)
    ]
    entries = [write_unit(tmp_path, n, kind, examples[n * 20 : n * 20 + 20], in_val) for n in range(3)]
    splits = split(tmp_path, entries, kind)
    train, val = (read_conversations(tmp_path, splits[name]) for name in ("train", "val"))
    assert sorted(train + val) == sorted(ids for _, parts, _ in examples for ids in parts)
    assert not {ids[0] for ids in train} & {ids[0] for ids in val}
    assert len(train) % parts == len(val) % parts == 0
    total = sum(map(len, train + val))
    assert 0.05 <= sum(map(len, val)) / total <= 0.2 and len(val) / parts <= 6
    assert sum(shard["bytes"] for shards in splits.values() for shard in shards) == total


def test_of_one_prompt_the_last_conversations_are_held_out(tmp_path: Path) -> None:
    examples = [("joke", [[1, 50 + n, 50]], True) for n in range(40)]
    entries = [write_unit(tmp_path, n, "instruct", examples[n * 20 : n * 20 + 20]) for n in range(2)]
    splits = split(tmp_path, entries, "instruct")
    assert read_conversations(tmp_path, splits["val"]) == [parts[0] for _, parts, _ in examples[36:]]
    assert len(read_conversations(tmp_path, splits["train"])) == 36


def test_a_good_split_by_hash_is_kept(tmp_path: Path) -> None:
    entries = [write_unit(tmp_path, n, "text", texts(*[5] * 1500, start=n * 7500)) for n in range(2)]
    before = sorted(path.name for path in tmp_path.iterdir())
    expected = {name: [entry["shards"][name] for entry in entries] for name in ("train", "val")}
    assert split(tmp_path, entries) == expected and sorted(path.name for path in tmp_path.iterdir()) == before
    # One large document among many is seen, in whatever unit its size shows.
    entries.append(write_unit(tmp_path, 2, "text", texts(3000, start=50_000)))
    splits = split(tmp_path, entries)
    assert [len(document) for document in documents(tmp_path, splits["val"][-1:])] == [300]


def test_nothing_is_held_out_where_nothing_is_asked(tmp_path: Path) -> None:
    entries = [write_unit(tmp_path, 0, "text", texts(*[5] * 10), in_val=False)]
    assert split(tmp_path, entries, fraction=0.0)["val"] == []


def test_keys_in_both_files_are_counted(tmp_path: Path) -> None:
    train = [write_unit(tmp_path, n, "text", texts(3, 4, start=n * 7), in_val=False) for n in range(2)]
    val = [write_unit(tmp_path, 2, "text", [*texts(3, start=7), *texts(3, 3, start=100)], in_val=True)]
    assert repeated_keys(tmp_path, train, val) == 1 and repeated_keys(tmp_path, train, []) == 0
