"""Files of prepared data: what is written is read, and nothing half-written is ever seen."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from shard_files import open_split, read_conversations, write_conversations, write_texts

from dataprep.shards import (
    FORMAT,
    ShardWriter,
    SplitWriter,
    check_replaceable,
    id_dtype,
    read_meta,
    require_name,
)
from runtime.errors import UserError
from runtime.files import write_json


def test_ids_take_the_fewest_bytes_that_hold_them() -> None:
    assert [id_dtype(size) for size in (257, 65_536, 65_537)] == [np.uint16, np.uint16, np.uint32]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shards = [write_texts(tmp_path, 0, [[1, 2, 3], [4, 5]]), write_texts(tmp_path, 1, [[6, 7, 8, 9]])]
    dataset = open_split(tmp_path, "train", shards)
    assert (len(dataset), dataset.documents, dataset.bytes) == (9, 3, 30)
    assert dataset.read(0, 9).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert dataset.read(3, 4).tolist() == [4, 5, 6, 7]  # across two shards
    assert dataset.read(7, 5).tolist() == [8, 9, 1, 2, 3]  # past the end, from the beginning
    assert dataset.read(0, 3).dtype == np.int64
    for shard in shards:
        for name, digest in shard["sha256"].items():
            assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_large_vocabularies_keep_their_ids(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "train", 0, id_dtype(100_000), with_loss_mask=False)
    writer.add(np.array([70_000, 1]), None, 4, is_complete=True)
    dataset = open_split(tmp_path, "train", [writer.close()], 100_000)
    assert dataset.read(0, 2).tolist() == [70_000, 1]


def test_a_unit_writes_one_shard_of_each_split(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path, 3, vocab_size=100, kind="instruct")
    writer.add("val", np.array([1, 50]), np.array([False, True]), 1, True)
    entries = writer.close()
    assert [entries[split]["tokens"] for split in ("train", "val")] == [0, 2]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{split}-00003.{part}.bin" for split in ("train", "val") for part in ("tokens", "ends", "keep")
    }


def test_a_shard_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    first = ShardWriter(tmp_path, "val", 7, np.uint16, with_loss_mask=True)
    first.add(np.array([1, 2]), np.array([0, 1]), 2, is_complete=True)
    assert not list(tmp_path.glob("*.bin"))

    # A second try, while the first is still open: what the first has not written yet must not reach its files.
    second = ShardWriter(tmp_path, "val", 7, np.uint16, with_loss_mask=True)
    second.add(np.array([3]), np.array([1]), 2, is_complete=True)
    entry = second.close()
    del first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(entry["sha256"])
    assert np.fromfile(tmp_path / "val-00007.tokens.bin", np.uint16).tolist() == [3]
    assert np.fromfile(tmp_path / "val-00007.keep.bin", np.uint8).tolist() == [1]


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_damaged_shard_is_refused(tmp_path: Path, harm) -> None:
    shard = write_texts(tmp_path, 0, [[1, 2, 3]])
    assert len(open_split(tmp_path, "train", [shard])) == 3
    harm(tmp_path / "train-00000.tokens.bin")
    with pytest.raises(UserError, match="train-00000.tokens.bin is missing or was cut short"):
        open_split(tmp_path, "train", [shard])


def test_documents_are_read_by_number_with_their_loss_mask(tmp_path: Path) -> None:
    shards = [
        write_conversations(tmp_path, 0, [[1, 50], [2, 3, 51, 52]]),
        write_conversations(tmp_path, 1, [[4, 53]]),
    ]
    dataset = open_split(tmp_path, "train", shards)
    assert dataset.document_bounds.tolist() == [0, 2, 6, 8]
    assert (dataset.documents, dataset.num_loss_tokens) == (3, 4)
    assert read_conversations(tmp_path, shards) == [[1, 50], [2, 3, 51, 52], [4, 53]]
    _, loss_mask = dataset.document(1)
    assert loss_mask.tolist() == [False, False, True, True] and loss_mask.dtype == bool


def test_every_token_of_a_text_is_learned(tmp_path: Path) -> None:
    dataset = open_split(tmp_path, "val", [write_texts(tmp_path, 2, [[1, 2, 3], [4]])])
    assert dataset.document(0)[1].tolist() == [True] * 3 and dataset.num_loss_tokens == 4


def test_a_document_is_read_across_shards_that_it_does_not_end_in(tmp_path: Path) -> None:
    shards = [
        write_texts(tmp_path, 0, [[1, 2], [3]], last_continues=True),
        write_texts(tmp_path, 1, [[4, 5]], last_continues=True),
        write_texts(tmp_path, 2, [[6], [7]]),
    ]
    dataset = open_split(tmp_path, "train", shards)
    assert dataset.documents == 3 and dataset.document_bounds.tolist() == [0, 2, 6, 7]
    assert [dataset.document(n)[0].tolist() for n in range(3)] == [[1, 2], [3, 4, 5, 6], [7]]


def test_meta_is_read_or_the_message_has_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is prepared yet.*python data.py --stories"):
        read_meta(tmp_path / "mine")
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    tokenizer = {"name": "bytes", "hash": "0" * 64, "vocab_size": 257, "eos_id": 256}
    meta = {
        "format": FORMAT,
        "name": "other",
        "kind": "text",
        "source": {},
        "tokenizer": tokenizer,
        "splits": {},
    }
    write_json(tmp_path / "other" / "meta.json", meta)
    assert read_meta(tmp_path / "other")["kind"] == "text"
    with pytest.raises(UserError, match="there are: other"):
        read_meta(tmp_path / "mine")
    for broken in ("{", "{}", "[]", "5", json.dumps({"format": FORMAT + 1}), json.dumps({"format": FORMAT})):
        (tmp_path / "mine" / "meta.json").write_text(broken)
        with pytest.raises(UserError, match="prepare the dataset again"):
            read_meta(tmp_path / "mine")


def test_only_datasets_and_empty_folders_are_replaceable(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    check_replaceable(target, [])
    target.mkdir()
    check_replaceable(target, [])
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a prepared dataset, and would be replaced"):
        check_replaceable(target, [])
    (target / "meta.json").write_text("{}")
    check_replaceable(target, [])
    with pytest.raises(UserError, match="holds .*notes.txt, and would be replaced"):
        check_replaceable(target, [str(target / "notes.txt")])


def test_a_thousand_shards_need_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr("dataprep.shards.open_files", lambda: 64)
    shards = [write_conversations(tmp_path, n, [[n % 50, 50, 51]]) for n in range(1000)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        splits = [open_split(tmp_path, "train", shards) for _ in range(2)]
        for dataset in splits:
            assert dataset.num_loss_tokens == 2000 and dataset.documents == 1000
            for n in range(1000):
                ids, loss_mask = dataset.document(n)
                assert ids.tolist() == [n % 50, 50, 51] and loss_mask.tolist() == [False, True, True]
            assert dataset.read(0, 3000).tolist() == [id for n in range(1000) for id in (n % 50, 50, 51)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    "path, remedy",
    [
        ("data/mine", "give --dataset mine"),
        ("mine/", "give --dataset mine --data_dir ."),
        ("/mnt/x/mine", "give --dataset mine --data_dir /mnt/x"),
    ],
)
def test_a_path_in_place_of_a_name_is_refused_with_the_flags(path: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        require_name(path, Path("data"))
    assert str(error.value) == f"{path} is a path, not the name of a dataset: {remedy}"
    assert require_name("mine", Path("data")) == "mine"
