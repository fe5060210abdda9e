"""The format on disk: what is written is read, and nothing half-written is ever seen."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from examples import documents

from dataprep.shards import FORMAT, ShardWriter, TokenDataset, id_dtype, read_meta, split_validation
from runtime.errors import UserError
from runtime.files import commit_folder, folder_lock, write_json


def write_shard(folder: Path, index: int, documents: list[list[int]], last_goes_on: bool = False) -> dict:
    """One training shard; each document has ten bytes."""
    writer = ShardWriter(folder, "train", index, np.uint16, with_keep=False)
    for number, ids in enumerate(documents, 1):
        writer.add(np.array(ids), None, 10, ended=number < len(documents) or not last_goes_on)
    return writer.close()


def store(folder: Path, split: str, shards: list[dict], vocab_size: int = 100) -> TokenDataset:
    return TokenDataset(folder, split, {"tokenizer": {"vocab_size": vocab_size}, "splits": {split: shards}})


def test_ids_take_the_fewest_bytes_that_hold_them() -> None:
    assert [id_dtype(size) for size in (257, 65_536, 65_537)] == [np.uint16, np.uint16, np.uint32]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path, 0, [[1, 2, 3], [4, 5]]), write_shard(tmp_path, 1, [[6, 7, 8, 9]])]
    data = store(tmp_path, "train", shards)
    assert (len(data), data.documents, data.bytes) == (9, 3, 30)
    assert data.read(0, 9).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert data.read(3, 4).tolist() == [4, 5, 6, 7]  # over the seam of two shards
    assert data.read(7, 5).tolist() == [8, 9, 1, 2, 3]  # past the end from the beginning
    assert data.read(0, 3).dtype == np.int64
    for shard in shards:
        for name, digest in shard["sha256"].items():
            assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_large_vocabularies_keep_their_ids(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", 0, id_dtype(100_000), with_keep=False)
    writer.add(np.array([70_000, 1]), None, 4, ended=True)
    assert store(tmp_path, "train", [writer.close()], 100_000).read(0, 2).tolist() == [70_000, 1]


def test_a_shard_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    first = ShardWriter(tmp_path, "val", 7, np.uint16, with_keep=True)
    first.add(np.array([1, 2]), np.array([0, 1]), 2, ended=True)
    assert not list(tmp_path.glob("*.bin"))
    second = ShardWriter(
        tmp_path, "val", 7, np.uint16, with_keep=True
    )  # a second try, while the first is still open
    second.add(np.array([3]), np.array([1]), 2, ended=True)
    entry = second.close()
    del first  # what it had not written yet must not reach the files of the second
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(entry["sha256"])
    assert np.fromfile(tmp_path / "val-00007.tokens.bin", np.uint16).tolist() == [3]
    assert np.fromfile(tmp_path / "val-00007.keep.bin", np.uint8).tolist() == [1]


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_damaged_shard_is_refused(tmp_path: Path, harm) -> None:
    shard = write_shard(tmp_path, 0, [[1, 2, 3]])
    assert len(store(tmp_path, "train", [shard])) == 3
    harm(tmp_path / "train-00000.tokens.bin")
    with pytest.raises(UserError, match="train-00000.tokens.bin is missing or was cut short"):
        store(tmp_path, "train", [shard])


def test_meta_is_read_or_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is prepared yet.*python data.py --stories"):
        read_meta(tmp_path / "mine")
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    write_json(
        tmp_path / "other" / "meta.json", {"format": FORMAT, "kind": "text", "tokenizer": {}, "splits": {}}
    )
    assert read_meta(tmp_path / "other")["kind"] == "text"
    with pytest.raises(UserError, match="there are: other"):
        read_meta(tmp_path / "mine")
    for broken in ("{", "{}", "[]", "5", json.dumps({"format": FORMAT + 1}), json.dumps({"format": FORMAT})):
        (tmp_path / "mine" / "meta.json").write_text(broken)
        with pytest.raises(UserError, match="prepare the dataset again"):
            read_meta(tmp_path / "mine")


def test_a_finished_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    for text in ("one", "two"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "file").write_text(text)
        (tmp_path / ".target.old").mkdir(exist_ok=True)  # as a kill may leave it
        commit_folder(tmp_path / "new", tmp_path / "target")
        assert [path.name for path in tmp_path.iterdir()] == ["target"]
        assert (tmp_path / "target" / "file").read_text() == text


def test_a_folder_is_claimed_by_one(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path),
        pytest.raises(UserError, match="another process is at work"),
        folder_lock(tmp_path),
    ):
        pass
    with folder_lock(tmp_path):
        pass


def test_the_tail_of_one_document_is_held_out(tmp_path: Path) -> None:
    parts = [
        write_shard(tmp_path, 0, [[*range(60)]], last_goes_on=True),
        write_shard(tmp_path, 1, [[*range(60, 100)]]),
    ]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    made = split_validation(tmp_path, parts, "text", 0.3, np.uint16, free=2, size=len)
    assert documents(tmp_path, made["train"]) == [list(range(70))]
    assert documents(tmp_path, made["val"]) == [list(range(70, 100))]
    assert [sum(shard["bytes"] for shard in made[split]) for split in ("train", "val")] == [70, 30]
    assert {
        name: (tmp_path / name).read_bytes() for name in before
    } == before  # a kill leaves the old shards whole


def test_a_cut_between_two_parts_ends_the_document(tmp_path: Path) -> None:
    parts = [write_shard(tmp_path, 0, [[1, 2, 3]], last_goes_on=True), write_shard(tmp_path, 1, [[4, 5, 6]])]
    made = split_validation(tmp_path, parts, "text", 0.5, np.uint16, free=2, size=len)
    assert [shard["documents"] for shard in made["train"]] == [1]
    assert documents(tmp_path, made["val"]) == [[4, 5, 6]]


def test_equal_documents_are_held_out_together(tmp_path: Path) -> None:
    a, b, c = [1] * 10, [2] * 10, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    shards = [write_shard(tmp_path, 0, [a, c, b]), write_shard(tmp_path, 1, [c, b, a])]
    made = split_validation(tmp_path, shards, "text", 0.5, np.uint16, free=2, size=len)
    # Of a, c, b: a and the head of c are trained on.
    assert documents(tmp_path, made["train"]) == [a, c[:5], c[:5], a]
    assert documents(tmp_path, made["val"]) == [c[5:], b, c[5:], b]
    assert [shard["tokens"] for shard in made["train"]] == [15, 15]


# A prompt of ids below 50, an answer of ids from 50 on, which is learned.
def write_talks(folder: Path, index: int, talks: list[list[int]]) -> dict:
    writer = ShardWriter(folder, "train", index, np.uint16, with_keep=True)
    for ids in talks:
        writer.add(np.array(ids), np.array(ids) >= 50, 10, ended=True)
    return writer.close()


def talks(folder: Path, shards: list[dict]) -> list[list[int]]:
    """The documents of shards as a store reads them, each with the keep-mask that write_talks gave it."""
    opened = store(folder, "train", shards)
    for number in range(opened.documents):
        ids, keep = opened.document(number)
        assert np.array_equal(keep, ids >= 50)
    return [opened.document(number)[0].tolist() for number in range(opened.documents)]


def test_documents_are_read_by_number_with_what_is_learned(tmp_path: Path) -> None:
    shards = [write_talks(tmp_path, 0, [[1, 50], [2, 3, 51, 52]]), write_talks(tmp_path, 1, [[4, 53]])]
    data = store(tmp_path, "train", shards)
    assert data.bounds.tolist() == [0, 2, 6, 8] and data.documents == 3
    assert talks(tmp_path, shards) == [[1, 50], [2, 3, 51, 52], [4, 53]]
    assert data.document(1)[1].tolist() == [False, False, True, True] and data.document(1)[1].dtype == bool
    text = store(tmp_path, "val", [write_shard(tmp_path, 2, [[1, 2, 3], [4]])])
    assert text.document(0)[1].tolist() == [True] * 3  # of texts all is learned


def test_a_document_is_read_across_shards_that_it_does_not_end_in(tmp_path: Path) -> None:
    shards = [
        write_shard(tmp_path, 0, [[1, 2], [3]], last_goes_on=True),
        write_shard(tmp_path, 1, [[4, 5]], last_goes_on=True),
        write_shard(tmp_path, 2, [[6], [7]]),
    ]
    data = store(tmp_path, "train", shards)
    assert data.documents == 3 and data.bounds.tolist() == [0, 2, 6, 7]
    assert [data.document(n)[0].tolist() for n in range(3)] == [[1, 2], [3, 4, 5, 6], [7]]


def test_conversations_are_held_out_whole(tmp_path: Path) -> None:
    made = [[n, n, 50 + n, 50, 50][: 3 + n % 3] for n in range(30)]
    shards = [write_talks(tmp_path, 0, made[:20]), write_talks(tmp_path, 1, made[20:])]
    held_out = split_validation(tmp_path, shards, "instruct", 0.25, np.uint16, free=2, size=len)
    assert talks(tmp_path, held_out["train"]) + talks(tmp_path, held_out["val"]) == made
    tokens = {split: sum(shard["tokens"] for shard in its) for split, its in held_out.items()}
    assert 0.25 <= tokens["val"] / 120 < 0.25 + 5 / 120  # the one at the cut is held out
    assert sum(shard["bytes"] for its in held_out.values() for shard in its) == sum(
        len(talk) - 2 for talk in made
    )


def test_a_pair_is_held_out_as_one(tmp_path: Path) -> None:
    made = [[n, turn, *range(50, 51 + length)] for n in range(12) for turn, length in ((20, n % 4), (21, 3))]
    for fraction in np.linspace(0.05, 0.9, 12):
        folder = tmp_path / str(fraction)
        folder.mkdir()
        shards = [write_talks(folder, 0, made[:10]), write_talks(folder, 1, made[10:])]
        held_out = split_validation(folder, shards, "preference", fraction, np.uint16, free=2, size=len)
        train, val = talks(folder, held_out["train"]), talks(folder, held_out["val"])
        assert train + val == made and len(train) % 2 == len(val) % 2 == 0 < len(val) < len(made)


@pytest.mark.parametrize("kind", ["instruct", "preference"])
def test_equal_prompts_are_held_out_together(tmp_path: Path, kind: str) -> None:
    answers = iter(range(50, 100))
    made = [
        [*[prompt] * 9, next(answers), *[60] * length]
        for length in range(3)
        for prompt in (1, 2, 3)
        for _ in range(1 + (kind == "preference"))
    ]
    for fraction in (0.05, 0.4, 0.6, 0.9):
        folder = tmp_path / str(fraction)
        folder.mkdir()
        held_out = split_validation(
            folder, [write_talks(folder, 0, made)], kind, fraction, np.uint16, free=1, size=len
        )
        train, val = talks(folder, held_out["train"]), talks(folder, held_out["val"])
        assert train and val and sorted(train + val) == sorted(made)
        assert not {ids[0] for ids in train} & {ids[0] for ids in val}
