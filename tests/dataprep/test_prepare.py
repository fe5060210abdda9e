"""Preparing texts: the right tokens, in order, once each, and exactly as many as --max_tokens allows."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
from examples import TEXTS, files, parquet
from prepared import check_split, datasets, split_texts

from config import EOS
from dataprep import registry
from dataprep.shards import TokenDataset, read_meta
from stories.examples import text_at
from tokenizer import load_tokenizer

inline, command, rows, small = prepared.inline, prepared.command, prepared.rows, prepared.small


def test_every_document_is_prepared_once_and_in_order(
    inline: None, command: Callable, rows: Path, small: Path, tmp_path: Path
) -> None:
    code, out, err = command("--files", rows, "--name", "mine", "--tokenizer", small)
    assert (code, err) == (0, "") and "done" in out
    check_split(TEXTS, **split_texts(tmp_path / "data" / "mine"), fraction=0.1)

    meta = read_meta(tmp_path / "data" / "mine")
    assert sum(shard["bytes"] for split in meta["splits"].values() for shard in split) == sum(map(len, TEXTS))
    assert len(meta["splits"]["train"]) > 5
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]

    checksums = files(tmp_path / "data" / "mine")
    for split, shards in meta["splits"].items():
        dataset = TokenDataset(tmp_path / "data" / "mine", split, meta)
        assert len(dataset) == sum(shard["tokens"] for shard in shards)
        for shard in shards:
            assert shard["sha256"].items() <= checksums.items()


def test_files_of_all_formats_make_one_dataset(inline: None, command: Callable, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{TEXTS[0]}\n{EOS}\n{TEXTS[1]}")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[2:60]))
    (tmp_path / "c.json").write_text(json.dumps([{"text": text} for text in TEXTS[60:120]]))
    (tmp_path / "d.parquet").write_bytes(parquet(TEXTS[120:]))
    assert command("--files", *sorted(tmp_path.glob("?.*")), "--name", "mine", "--tokenizer", "bytes")[0] == 0

    texts = split_texts(tmp_path / "data" / "mine")
    check_split(TEXTS, **texts, fraction=0.1)


def test_a_special_token_in_a_row_stays_text_and_empty_rows_are_counted(
    inline: None, command: Callable, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    text = f"before{EOS}after "
    path.write_text("".join(json.dumps({"text": text * (n % 7)}) + "\n" for n in range(70)))
    code, out, _ = command("--files", path, "--name", "mine", "--tokenizer", "bytes", "--val_fraction", "0.5")
    assert code == 0 and "left out 10 rows: nothing to learn" in out

    texts = split_texts(tmp_path / "data" / "mine")
    assert sorted(texts["train"] + texts["val"]) == sorted(text * (n % 7) for n in range(70) if n % 7)
    assert not set(texts["train"]) & set(texts["val"])


@pytest.mark.parametrize("copies, distinct", [(1, 2), (30, 1), (30, 2), (30, 12)])
def test_equal_documents_are_never_on_both_sides(
    inline: None, command: Callable, tmp_path: Path, copies: int, distinct: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": TEXTS[n] * 4}) + "\n" for n in range(distinct)) * copies)
    size = copies * sum(len(TEXTS[n]) * 4 for n in range(distinct))
    flags = ("--files", path, "--name", "m", "--tokenizer", "bytes")
    for fraction in (0.05, 0.9):
        assert command(*flags, "--val_fraction", fraction, "--update")[0] == 0
        texts = split_texts(tmp_path / "data" / "m")
        assert texts["train"] and texts["val"] and not set(texts["train"]) & set(texts["val"])
        assert sum(map(len, texts["train"] + texts["val"])) == size


def test_of_one_long_text_the_end_is_held_out(
    inline: None, command: Callable, small: Path, tmp_path: Path
) -> None:
    text = "\r\n".join(TEXTS) + "\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert command("--files", tmp_path / "a.txt", "--name", "mine", "--tokenizer", small)[0] == 0

    tokenizer = load_tokenizer(small)
    text = text.replace("\r\n", "\n")
    expected = [*tokenizer.encode(text), tokenizer.eos_id]
    splits = datasets(tmp_path / "data" / "mine")
    assert [token for split in splits for token in split.read(0, len(split)).tolist()] == expected
    assert len(splits[1]) == round(0.1 * len(expected))
    assert len(splits[0].meta["splits"]["train"]) > 3
    assert [split.documents for split in splits] == [1, 1]
    assert [split.bytes for split in splits] == [
        tokenizer.text_bytes(split.read(0, len(split))) for split in splits
    ]
    # The boundary may divide a character.
    assert abs(sum(split.bytes for split in splits) - len(text.encode())) < 8


@pytest.mark.parametrize("limit", [8_000, 8_001, 12_345])
def test_max_tokens_is_exact_and_a_prefix_of_all(
    inline: None, command: Callable, rows: Path, tmp_path: Path, limit: int
) -> None:
    def prepared_as(name: str, *flags: object) -> list[str]:
        assert command("--files", rows, "--name", name, "--tokenizer", "bytes", *flags)[0] == 0
        splits = datasets(tmp_path / "data" / name)
        return [
            bytes(ids if ids < 256 else 0 for ids in split.read(0, len(split))).decode() for split in splits
        ]

    limited = prepared_as("some", "--max_tokens", limit)
    assert sum(map(len, limited)) == limit
    # The documents are those that come first; the last one is truncated.
    expected = "".join(f"{text}\0" for text in TEXTS)[:limit].split("\0")
    split = [text for ids in limited for text in ids.split("\0")]
    assert sorted(filter(None, split)) == sorted(filter(None, expected))
    assert limit / 20 <= len(limited[1]) <= limit / 5
    assert prepared_as("twin", "--max_tokens", limit, "--num_proc", 7) == limited


def test_a_limit_counts_a_split_of_its_own(
    inline: None, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(registry.STORIES["stories"], rows={"train": 60, "val": 20})
    monkeypatch.setattr(registry, "STORIES", {"stories": few})
    for limit, val in ((5_000, 500), (20_000, 2_000)):
        assert command("--stories", "--tokenizer", "bytes", "--max_tokens", limit, "--update")[0] == 0
        assert [len(split) for split in datasets(tmp_path / "data" / "stories")] == [limit - val, val]


def test_stories_have_their_own_tokenizer(
    inline: None, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "TOKENIZER_STORIES", 200)
    few = dataclasses.replace(registry.STORIES["stories"], rows={"train": 30, "val": 10})
    monkeypatch.setattr(registry, "STORIES", {"stories": few})
    assert command("--stories")[0] == 0

    folder = tmp_path / "data" / "stories"
    assert split_texts(folder) == {
        split: [text_at(split, index, 1337) for index in range(count)] for split, count in few.rows.items()
    }
    assert 300 < read_meta(folder)["tokenizer"]["vocab_size"] <= registry.STORY_VOCABULARY


def test_own_validation_files_are_the_validation_set(inline: None, command: Callable, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:60]))
    (tmp_path / "v.json").write_text(json.dumps([{"text": text} for text in TEXTS[58:70]]))
    flags = ("--files", tmp_path / "a.jsonl", "--val_files", tmp_path / "v.json", "--tokenizer", "bytes")
    code, out, _ = command(*flags, "--name", "mine")
    assert code == 0 and "note: 2 documents of --val_files are in --files too" in out
    assert split_texts(tmp_path / "data" / "mine") == {"train": TEXTS[:60], "val": TEXTS[58:70]}
    assert read_meta(tmp_path / "data" / "mine")["source"].keys() == {"files", "val_files"}

    (tmp_path / "v.json").write_text(json.dumps([{"text": text} for text in TEXTS[60:70]]))
    assert "note: " not in command(*flags, "--name", "other")[1]


def test_without_a_share_everything_is_trained_on(
    inline: None, command: Callable, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = command("--files", rows, "--name", "mine", "--tokenizer", "bytes", "--val_fraction", 0)
    assert code == 0 and "note" not in out
    assert split_texts(tmp_path / "data" / "mine") == {"train": TEXTS, "val": []}

    few = dataclasses.replace(registry.STORIES["stories"], rows={"train": 10, "val": 5})
    monkeypatch.setattr(registry, "STORIES", {"stories": few})
    assert command("--stories", "--tokenizer", "bytes", "--val_fraction", 0)[0] == 0
    assert [split.documents for split in datasets(tmp_path / "data" / "stories")] == [10, 0]


@pytest.mark.parametrize("num_proc", [1, 3, 10**20])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_book_beside_notes_gives_its_last_part_and_shares_of_machines_agree(
    inline: None, command: Callable, tmp_path: Path, name: str, num_proc: int
) -> None:
    book = " ".join(f"word{n}" for n in range(5000))
    (tmp_path / name).write_text(json.dumps({"text": book}) if name == "a.jsonl" else book)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:30]))
    flags = ("--files", tmp_path / name, tmp_path / "b.jsonl", "--name", "mine", "--tokenizer", "bytes")
    assert command(*flags, "--num_proc", num_proc)[0] == 0
    texts = split_texts(tmp_path / "data" / "mine")
    (head,) = [text for text in texts["train"] if text.startswith("word0 ")]
    (tail,) = [text for text in texts["val"] if text.startswith("word") or "word4999" in text]
    assert head + tail == book and 0.08 < len(tail) / len(book) < 0.12

    expected = files(tmp_path / "data" / "mine")
    shutil.rmtree(tmp_path / "data" / "mine")
    for number in (1, 2, 3):
        assert command(*flags, "--shard", f"{number}/3")[0] == 0
    assert command(*flags)[0] == 0 and files(tmp_path / "data" / "mine") == expected


def test_a_log_says_the_share_that_is_done(
    inline: None, command: Callable, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.progress.LINE_SECONDS", 0)
    code, out, err = command("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert code == 0
    tokens = sum(int(number.replace(",", "")) for number in re.findall(r"([\d,]+) tokens", out))
    lines = [line for line in err.splitlines() if line.startswith("preparing ")]
    assert re.fullmatch(rf"preparing (\S+)/\1 MB: 100%, {tokens:,} tokens", lines[-1]), lines[-1]
    assert "\r" not in err


@pytest.mark.parametrize("error", [EOFError(), ConnectionRefusedError(111, "Connection refused")], ids=repr)
def test_a_server_of_workers_that_is_killed_is_one_line(
    error: Exception,
    inline: None,
    command: Callable,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So multiprocessing says it, if the server ends while a worker is being started."""

    def end(*_: object) -> None:
        raise error

    monkeypatch.setattr("dataprep.prepare._prepare_splits", end)
    code, _, err = command("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert code == 2 and re.fullmatch(
        r"error: a worker process was killed .*: run the same command .*\n", err
    )
