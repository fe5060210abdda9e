"""Preparing data: the right tokens, the same files however it is run or broken off, and errors that say what to do."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import TEXTS, Inline, documents, files, parquet
from hub import REVISION, Hub

import data
from config import EOS
from dataprep import registry, worker
from dataprep.shards import TokenDataset, read_meta, verify_dataset
from dataprep.sources import in_validation
from runtime.errors import UserError, run_cli
from runtime.files import folder_lock
from stories.world import stories
from tokenizer import load_tokenizer, train_bpe

ROOT = Path(__file__).parent.parent.parent
TALKS = [
    {"instruction": f"Say {n // 2}", "input": "", "output": f"{n} is it. " * (1 + n * 7 % 17)}
    for n in range(120)
]  # every prompt twice
PAIRS = [
    {"prompt": talk["instruction"], "chosen": talk["output"], "rejected": "no, " * (1 + n * 3 % 7)}
    for n, talk in enumerate(TALKS)
]


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a few documents, made in this process, and not synced."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(data, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(worker, "_end_with_main", lambda: None)
    for module in (data, registry):
        monkeypatch.setattr(module, "unit_bytes", lambda total: 3_000)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Runs data.py's main in this process: (exit code, stdout, stderr)."""

    def call(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["data.py", "--data_dir", str(tmp_path / "data"), *map(str, flags)])
        try:
            run_cli(data.main)
            code = 0
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A corpus of many short documents."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose tokens are longer than bytes, and that loads faster than GPT-2's."""
    folder = tmp_path_factory.mktemp("small")
    train_bpe(TEXTS, 400).save(folder)
    return folder


def split_texts(folder: Path) -> dict[str, list[str]]:
    """The texts of both splits, decoded; every token is accounted for."""
    meta, tokenizer = read_meta(folder), load_tokenizer(folder / "tokenizer")
    found = {split: documents(folder, meta["splits"][split]) for split in ("train", "val")}
    assert all(ids[-1] == tokenizer.eos_id and tokenizer.eos_id not in ids[:-1] for ids in found["val"])
    return {split: [tokenizer.decode(ids) for ids in its] for split, its in found.items()}


# --- the right tokens ------------------------------------------------------------------------------------------------


def test_every_document_is_there_once_and_in_order(
    inline, command, rows: Path, small: Path, tmp_path: Path
) -> None:
    code, out, err = command("--files", rows, "--name", "mine", "--tokenizer", small)
    assert (code, err) == (0, "") and "done" in out
    held_out = [in_validation(text, 0.1) for text in TEXTS]
    assert split_texts(tmp_path / "data" / "mine") == {
        "train": [text for text, held in zip(TEXTS, held_out, strict=True) if not held],
        "val": [text for text, held in zip(TEXTS, held_out, strict=True) if held],
    }
    assert 10 < sum(held_out) < 80
    meta = read_meta(tmp_path / "data" / "mine")
    assert sum(shard["bytes"] for split in meta["splits"].values() for shard in split) == sum(map(len, TEXTS))
    assert len(meta["splits"]["train"]) > 5
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]
    for split, shards in meta["splits"].items():
        assert len(TokenDataset(tmp_path / "data" / "mine", split, meta)) == sum(
            shard["tokens"] for shard in shards
        )
        for shard in shards:
            for name, digest in shard["sha256"].items():
                assert files(tmp_path / "data" / "mine")[name] == digest


def test_files_of_all_forms_make_one_dataset(inline, command, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{TEXTS[0]}\n{EOS}\n{TEXTS[1]}")
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[2:60]))
    (tmp_path / "c.json").write_text(json.dumps([{"text": text} for text in TEXTS[60:120]]))
    (tmp_path / "d.parquet").write_bytes(parquet(TEXTS[120:]))
    assert command("--files", *sorted(tmp_path.glob("?.*")), "--name", "mine", "--tokenizer", "bytes")[0] == 0
    found = split_texts(tmp_path / "data" / "mine")
    assert [text for text in TEXTS if not in_validation(text, 0.1)] == found["train"]
    assert [text for text in TEXTS if in_validation(text, 0.1)] == found["val"] != []


def test_a_special_token_in_a_row_stays_text_and_empty_rows_are_counted(
    inline, command, tmp_path: Path
) -> None:
    path, text = tmp_path / "a.jsonl", f"before{EOS}after "
    path.write_text("".join(json.dumps({"text": text * (n % 7)}) + "\n" for n in range(70)))
    code, out, _ = command("--files", path, "--name", "mine", "--tokenizer", "bytes", "--val_fraction", "0.5")
    assert code == 0 and "10 rows with nothing to learn left out" in out
    found = split_texts(tmp_path / "data" / "mine")
    assert sorted(found["train"] + found["val"]) == sorted(text * (n % 7) for n in range(70) if n % 7)
    assert not set(found["train"]) & set(found["val"])


@pytest.mark.parametrize("copies, distinct", [(1, 2), (30, 1), (30, 2), (30, 12)])
def test_equal_documents_are_never_on_both_sides(
    inline, command, tmp_path: Path, copies: int, distinct: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": TEXTS[n] * 4}) + "\n" for n in range(distinct)) * copies)
    for fraction in (0.05, 0.9):
        assert (
            command("--files", path, "--name", "m", "--tokenizer", "bytes", "--val_fraction", fraction)[0]
            == 0
        )
        found = split_texts(tmp_path / "data" / "m")
        assert found["train"] and found["val"] and not set(found["train"]) & set(found["val"])
        assert sum(map(len, found["train"] + found["val"])) == copies * sum(
            len(TEXTS[n]) * 4 for n in range(distinct)
        )


def test_one_long_text_is_the_text_with_its_tail_held_out(
    inline, command, small: Path, tmp_path: Path
) -> None:
    text = "\r\n".join(TEXTS) + "\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert command("--files", tmp_path / "a.txt", "--name", "mine", "--tokenizer", small)[0] == 0
    meta, encoded = read_meta(tmp_path / "data" / "mine"), load_tokenizer(small)
    stores = [TokenDataset(tmp_path / "data" / "mine", split, meta) for split in ("train", "val")]
    whole = [*encoded.encode(text), encoded.eos_id]
    assert [token for store in stores for token in store.read(0, len(store)).tolist()] == whole
    assert len(stores[1]) == round(0.1 * len(whole)) and len(meta["splits"]["train"]) > 3
    assert [store.documents for store in stores] == [1, 1]
    assert [store.bytes for store in stores] == [
        encoded.text_bytes(store.read(0, len(store))) for store in stores
    ]
    assert (
        abs(sum(store.bytes for store in stores) - len(text.encode())) < 8
    )  # a character may be cut through


@pytest.mark.parametrize("limit", [8_000, 8_001, 12_345])
def test_max_tokens_is_exact_and_a_prefix_of_all(
    inline, command, rows: Path, tmp_path: Path, limit: int
) -> None:
    def tokens(name: str, *flags: object) -> list[list[int]]:
        assert command("--files", rows, "--name", name, "--tokenizer", "bytes", *flags)[0] == 0
        meta = read_meta(tmp_path / "data" / name)
        stores = [TokenDataset(tmp_path / "data" / name, split, meta) for split in ("train", "val")]
        return [store.read(0, len(store)).tolist() for store in stores]

    some, all_ = tokens("some", "--max_tokens", limit), tokens("all")
    assert sum(map(len, some)) == limit < sum(map(len, all_))
    assert [ids[: len(part)] for ids, part in zip(all_, some, strict=True)] == some
    assert tokens("twin", "--max_tokens", limit, "--num_proc", 7) == some


def test_a_limit_counts_a_split_of_its_own(
    inline, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(registry.STORIES["stories"], rows={"train": 60, "val": 20})
    monkeypatch.setattr(registry, "STORIES", {"stories": few})
    for limit, val in ((5_000, 500), (20_000, 2_000)):
        assert command("--stories", "--tokenizer", "bytes", "--max_tokens", limit)[0] == 0
        splits = read_meta(tmp_path / "data" / "stories")["splits"]
        found = {split: sum(shard["tokens"] for shard in shards) for split, shards in splits.items()}
        assert found == {"train": limit - val, "val": val}


def test_stories_have_their_own_tokenizer(
    inline, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "TOLD", 200)
    few = dataclasses.replace(registry.STORIES["stories"], rows={"train": 30, "val": 10})
    monkeypatch.setattr(registry, "STORIES", {"stories": few})
    assert command("--stories")[0] == 0
    folder = tmp_path / "data" / "stories"
    assert split_texts(folder) == {
        split: [row["text"] for row in stories(split, count, 1337)] for split, count in few.rows.items()
    }
    assert 300 < read_meta(folder)["tokenizer"]["vocab_size"] <= registry.STORY_VOCABULARY


# --- conversations and pairs -----------------------------------------------------------------------------------------


def stores(folder: Path) -> list[TokenDataset]:
    """Both splits of a dataset."""
    meta = read_meta(folder)
    return [TokenDataset(folder, split, meta) for split in ("train", "val")]


def talks(folder: Path) -> list[list[str]]:
    """The conversations of both splits, decoded; exactly what follows the prompt is learned."""
    tokenizer, found = load_tokenizer(folder / "tokenizer"), []
    for store in stores(folder):
        found.append([])
        for ids, keep in map(store.document, range(store.documents)):
            prompt = int(keep.argmax())
            assert keep[prompt:].all() and ids[-1] == tokenizer.eos_id
            assert tokenizer.decode(ids[:prompt]).endswith("### Response:\n")
            found[-1].append(tokenizer.decode(ids))
    return found


def expected_talks(kind: str, number: int) -> list[str]:
    """The conversations that a row should make."""
    head = f"### Instruction:\n{TALKS[number]['instruction']}\n\n### Response:\n"
    row = TALKS[number] if kind == "instruct" else PAIRS[number]
    return [
        head + row[name].strip() for name in (("output",) if kind == "instruct" else ("chosen", "rejected"))
    ]


@pytest.fixture(params=["instruct", "preference"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def answers(kind: str, tmp_path: Path) -> list[object]:
    """The flags that name a file of 120 conversations or pairs."""
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (TALKS if kind == "instruct" else PAIRS)))
    return ["--files", path, "--kind", kind]


def test_every_conversation_is_there_once_and_equal_prompts_on_one_side(
    inline, command, kind: str, answers: list, small: Path, tmp_path: Path
) -> None:
    code, out, err = command(*answers, "--name", "mine", "--tokenizer", small, "--val_fraction", "0.3")
    assert (code, err) == (0, "") and ("conversations" if kind == "instruct" else "answers") in out
    meta = read_meta(tmp_path / "data" / "mine")
    assert meta["kind"] == kind and len(meta["splits"]["train"]) > 3
    sides = [
        in_validation(json.dumps([{"role": "user", "content": talk["instruction"]}]), 0.3) for talk in TALKS
    ]
    assert sides[::2] == sides[1::2] and 12 < sum(sides) < 60
    assert talks(tmp_path / "data" / "mine") == [
        [talk for n, side in enumerate(sides) if side is held_out for talk in expected_talks(kind, n)]
        for held_out in (False, True)
    ]
    learned = sum(
        len(row[name].strip())
        for row in (TALKS if kind == "instruct" else PAIRS)
        for name in (("output",) if kind == "instruct" else ("chosen", "rejected"))
    )
    assert sum(store.bytes for store in stores(tmp_path / "data" / "mine")) == learned


def test_a_small_set_is_held_out_whole(inline, command, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    rows = [
        row for number in (0, 20, 0, 20, 1, 21) for row in [(TALKS if kind == "instruct" else PAIRS)[number]]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = command(
        "--files", path, "--kind", kind, "--name", "few", "--tokenizer", "bytes", "--val_fraction", "1e-2"
    )
    assert code == 0, err
    train, val = talks(tmp_path / "data" / "few")
    assert train == [talk for n in (0, 0, 1) for talk in expected_talks(kind, n)]
    assert val == [talk for n in (20, 20, 21) for talk in expected_talks(kind, n)]


def test_max_tokens_of_conversations_is_a_prefix_however_it_is_broken_off(
    inline, command, kind: str, answers: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, *flags: object) -> list[list[str]]:
        assert (
            command(*answers, "--name", name, "--tokenizer", "bytes", "--val_fraction", 0.3, *flags)[0] == 0
        )
        return talks(tmp_path / "data" / name)

    whole, exact = made("whole"), 0
    for limit in range(3_000, 4_400, 200):
        some = made("some", "--max_tokens", limit)
        tokens = sum(map(len, stores(tmp_path / "data" / "some")))
        assert limit - 500 < tokens <= limit
        assert some == [its[: len(part)] for its, part in zip(whole, some, strict=True)]  # nothing is skipped
        assert kind == "instruct" or all(len(part) % 2 == 0 for part in some)
        with monkeypatch.context() as patch:
            patch.setattr(data, "make_meta", lambda *_: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                made("twin", "--max_tokens", limit)
        assert made("twin", "--max_tokens", limit, "--num_proc", 3) == some
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
    inline, command, tmp_path: Path, row: dict, words: str
) -> None:
    kind, path = "preference" if "prompt" in row else "instruct", tmp_path / "bad.jsonl"
    good = TALKS if kind == "instruct" else PAIRS
    flags = ("--files", path, "--kind", kind, "--name", "mine", "--tokenizer", "bytes")
    path.write_text("".join(json.dumps(each) + "\n" for each in good[:80]))
    assert command(*flags)[0] == 0
    before = files(tmp_path / "data" / "mine")
    path.write_text("".join(json.dumps(each) + "\n" for each in [*good[:70], row]))
    code, _, err = command(*flags)
    assert code == 2 and err.startswith(f"error: {path} row 71") and words in err and err.count("\n") == 1
    assert files(tmp_path / "data" / "mine") == before


def test_a_row_is_shown(inline, command, answers: list, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*answers, "--name", "mine", "--tokenizer", "bytes")[0] == 0
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, err = command("--show", "mine", "--row", 1)
    assert (code, err) == (0, "") and all(talk + EOS in out for talk in expected_talks(kind, 0))
    assert "[... " in command("--show", "mine", "--split", "val", "--block_size", 20)[1]
    code, _, err = command("--show", "mine", "--row", 10_000)
    assert code == 2 and "--row 10000: the train set of " in err
    code, _, err = command("--show", "other")
    assert code == 2 and "no prepared dataset" in err and "(there are: mine)" in err


# --- broken off, repeated, refused -----------------------------------------------------------------------------------


def test_a_prepared_dataset_is_left_alone_unless_it_is_damaged(
    inline, command, rows: Path, tmp_path: Path
) -> None:
    flags, folder = ("--files", rows, "--name", "mine", "--tokenizer", "bytes"), tmp_path / "data" / "mine"
    assert command(*flags)[0] == 0
    before, made = files(folder), folder.stat().st_ino
    assert "already prepared" in command(*flags)[1] and folder.stat().st_ino == made
    (folder / "train-00001.tokens.bin").unlink()
    code, out, _ = command(*flags)
    assert code == 0 and "train-00001.tokens.bin is missing" in out and files(folder) == before


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the project knows it."""


@pytest.mark.parametrize("form", ["jsonl", "txt"])
def test_broken_off_anywhere_it_goes_on_to_the_same_end(
    inline, command, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename and each deletion in turn is the last thing that a run does."""
    path, target = tmp_path / f"a.{form}", tmp_path / "data" / "mine"
    path.write_text("\n".join(json.dumps({"text": text}) if form == "jsonl" else text for text in TEXTS[:30]))
    flags = ["--files", path, "--name", "mine", "--tokenizer", "bytes"]
    flags += ["--max_tokens", 4_000, "--val_fraction", 0.3] if form == "jsonl" else []
    left = done = 10_000

    def limited(action: Callable) -> Callable:
        def limited_action(*arguments, **options) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return action(*arguments, **options)

        return limited_action

    for name in ("rename", "unlink"):
        monkeypatch.setattr(Path, name, limited(getattr(Path, name)))
    assert command(*flags)[0] == 0
    whole, done = files(tmp_path / "data"), done - left
    assert done > 20 and any("plan.json" in name for name in whole)
    for left in range(done):
        shutil.rmtree(tmp_path / "data")
        with pytest.raises(Killed):
            command(*flags)
        assert not target.exists() or files(target) == {
            name.removeprefix("mine/"): whole[name] for name in whole
        }
        left = 10_000
        assert command(*flags)[0] == 0 and files(tmp_path / "data") == whole


def test_another_plan_starts_over(
    inline, command, rows: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "data" / ".mine.partial"
    with monkeypatch.context() as patch:
        patch.setattr(data, "make_meta", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            command("--files", rows, "--name", "mine", "--tokenizer", small)
    assert len(list(partial.glob("unit-*.json"))) > 5
    assert command("--files", rows, "--name", "mine", "--tokenizer", "bytes")[0] == 0
    assert command("--files", rows, "--name", "twin", "--tokenizer", "bytes")[0] == 0
    named = {"meta.json", "SHA256SUMS"}  # in which the names of the two stand
    shards = {
        name: {file: digest for file, digest in files(tmp_path / "data" / name).items() if file not in named}
        for name in ("mine", "twin")
    }
    assert shards["mine"] == shards["twin"] and not partial.exists()


@pytest.mark.parametrize("killed_at", [0, 1, 5, 30])
def test_shards_made_apart_become_the_dataset_made_at_once(
    inline, command, rows: Path, tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, folder = ("--files", rows, "--name", "mine", "--tokenizer", "bytes"), tmp_path / "data"
    assert command(*flags)[0] == 0
    whole = files(folder / "mine")
    shutil.rmtree(folder / "mine")
    for number in (3, 1, 2):
        code, out, _ = command(*flags, "--shard", f"{number}/3")
        assert code == 0 and f".mine.shard-{number}-of-3: done" in out
    assert not (folder / "mine").exists()
    moved, rename = [], Path.rename

    def counted(path: Path, target: Path) -> Path:
        moved.append(path)
        if len(moved) == killed_at:
            raise Killed
        return rename(path, target)

    def read_again(*_) -> None:
        raise AssertionError("a unit was made again")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted)
        if killed_at:
            with pytest.raises(Killed):
                command(*flags)
    monkeypatch.setattr(worker, "_make_unit", read_again)
    assert command(*flags)[0] == 0
    assert files(folder / "mine") == whole and [path.name for path in folder.iterdir()] == ["mine"]


def test_shards_that_do_not_fit_or_were_damaged_are_refused(
    inline, command, rows: Path, tmp_path: Path
) -> None:
    flags, folder = ("--files", rows, "--name", "mine", "--tokenizer", "bytes"), tmp_path / "data"
    assert command(*flags, "--shard", "1/2", "--val_fraction", "0.3")[0] == 0
    code, _, err = command(*flags)
    assert code == 2 and ".mine.shard-1-of-2 was made by another plan" in err
    assert command(*flags, "--shard", "1/2")[0] == 0
    tokens = next((folder / ".mine.shard-1-of-2").glob("train-*.tokens.bin"))
    data = bytearray(tokens.read_bytes())
    data[0] ^= 1
    tokens.write_bytes(data)
    assert command(*flags)[0] == 0  # it is not read again
    with pytest.raises(UserError, match=f"{tokens.name} is damaged"):
        verify_dataset(folder / "mine")
    for wrong in ("0/2", "3/2", "2", "a/b"):
        code, _, err = command(*flags, "--shard", wrong)
        assert code == 2 and "must be like 2/8" in err
    assert "does not go with --shard" in command(*flags, "--shard", "1/2", "--max_tokens", 5)[2]


def test_two_at_once_do_not_mix(inline, command, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / ".mine.partial").mkdir(parents=True)
    with folder_lock(tmp_path / "data" / ".mine.partial"):
        code, _, err = command("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert code == 2 and "another process is at work" in err
    assert not list((tmp_path / "data" / ".mine.partial").iterdir())


def test_a_failure_leaves_what_was_prepared_before(inline, command, rows: Path, tmp_path: Path) -> None:
    assert command("--files", rows, "--name", "mine", "--tokenizer", "bytes")[0] == 0
    before = files(tmp_path / "data" / "mine")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(rows.read_text() + '{"text": 1}\n')
    code, _, err = command("--files", bad, "--name", "mine", "--tokenizer", "bytes")
    assert code == 2 and err == f"error: {bad} row 401: column 'text' holds 1, not text\n"
    assert files(tmp_path / "data" / "mine") == before


def test_what_is_no_dataset_is_not_replaced(inline, command, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True)
    (folder / "book.txt").write_text("Once upon a time. " * 50)
    for source in folder / "book.txt", rows:
        code, _, err = command("--files", source, "--name", "raw", "--tokenizer", "bytes")
        assert code == 2 and "would be replaced: choose another --name" in err and len(err.splitlines()) == 1
        assert [path.name for path in folder.iterdir()] == ["book.txt"]
    (folder / "book.txt").rename(tmp_path / "book.txt")
    assert (
        command("--files", tmp_path / "book.txt", "--name", "raw", "--tokenizer", "bytes")[0] == 0
    )  # it is empty
    assert command("--files", rows, "--name", "raw", "--tokenizer", "bytes")[0] == 0  # a dataset is replaced


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--files", "none.txt", "--name", "mine"), "no such file: none.txt"),
        (("--files", "{rows}"), "--files needs --name"),
        (("--files", "{rows}", "--name", "../mine"), "must be a plain folder name"),
        (("--files", "{rows}", "--name", "mine", "--val_fraction", "1"), "must lie between 0 and 1"),
        (("--files", "{rows}", "--name", "mine", "--max_tokens", "0"), "--max_tokens 0 must be 1 or more"),
        (
            ("--files", "{rows}", "--name", "mine", "--tokenizer", "bytes", "--val_fraction", "1e-9"),
            ".* and 0 held out",
        ),
        (
            ("--files", "{rows}", "--name", "mine", "--tokenizer", "bytes", "--max_tokens", "1"),
            "too little text",
        ),
        (("--files", "{rows}", "--name", "mine", "--tokenizer", "nothing"), "no tokenizer in nothing"),
        (("--files", "{rows}", "--name", "mine", "--data_dir", "{rows}"), "cannot write to .*File exists"),
        (
            ("--files", "{rows}", "--name", "mine", "--data_dir", "{rows}/data"),
            "cannot write to .*another --data_dir",
        ),
        (
            ("--files", "{rows}", "a.TXT", "--name", "mine", "--kind", "instruct"),
            "a.TXT: a .txt file has no rows of kind",
        ),
        (("--stories", "--fw"), "not allowed with"),
        ((), "required"),
    ],
)
def test_a_mistake_gets_one_line(
    inline, command, rows: Path, tmp_path: Path, flags: tuple, words: str
) -> None:
    code, _, err = command(*(flag.format(rows=rows) for flag in flags))
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert re.search(words, err), err
    assert not (tmp_path / "data" / "mine").exists()


# --- the command itself, with its worker processes -------------------------------------------------------------------


def script(*flags: object, **environment: str) -> subprocess.Popen:
    """data.py in a process group of its own, two workers."""
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "data.py"), *map(str, flags), "--num_proc", "2"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def workers_of(process: subprocess.Popen) -> list[int]:
    """The worker processes, when there are two: the children of the forkserver."""

    def children(pid: int) -> dict[int, str]:
        found = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True
        )
        return {
            int(number): args
            for number, args in (line.split(maxsplit=1) for line in found.stdout.splitlines())
        }

    while process.poll() is None:
        pids = [
            pid
            for server, args in children(process.pid).items()
            if "forkserver" in args
            for pid in children(server)
        ]
        if len(pids) == 2:
            return pids
        time.sleep(0.02)
    raise AssertionError(f"it ended before it had workers: {process.communicate()}")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A corpus of some dozen units, seconds of work, and the files that an unbroken run makes of it."""
    folder = tmp_path_factory.mktemp("large")
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {text}"}) + "\n" for n in range(170) for text in TEXTS))
    assert path.stat().st_size > 11 << 20
    flags = ("--files", path, "--name", "mine", "--tokenizer", "bytes", "--data_dir", folder / "data")
    code, _, err = finished(script(*flags))
    assert (code, err) == (0, "")
    return path, files(folder / "data")


def test_workers_run_our_modules_in_any_folder(
    large: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dataprep.py").write_text("raise SystemExit('the wrong dataprep.py')")
    monkeypatch.chdir(tmp_path)
    process = script("--files", large[0], "--name", "mine", "--tokenizer", "bytes", "--data_dir", tmp_path)
    (server,) = {
        int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in workers_of(process)
    }
    assert "pyarrow" in Path(f"/proc/{server}/maps").read_text()  # it has imported what they need
    assert finished(process)[::2] == (0, "")
    assert files(tmp_path / "mine").keys() == {name.removeprefix("mine/") for name in large[1]}


def test_killed_again_and_again_it_goes_on_to_the_same_end(
    large: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    path, whole = large
    flags = ("--files", path, "--name", "mine", "--tokenizer", "bytes", "--data_dir", tmp_path)
    codes = []
    for how in ("a worker", "Ctrl-C", "the main process", "everything"):
        process = script(*flags)
        workers = workers_of(process)
        while how == "a worker" and not list(tmp_path.glob(".mine.partial/unit-*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        if how == "a worker":
            os.kill(workers[0], signal.SIGKILL)
        elif how == "the main process":
            process.kill()
        elif how == "Ctrl-C":
            for worker in workers:
                os.kill(worker, signal.SIGINT)
            time.sleep(0.3)  # in which they could complain
            process.send_signal(signal.SIGINT)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        code, _, err = finished(process)  # which is when the workers have ended too: they hold its stderr
        codes.append(code)
        if how == "a worker":
            assert re.fullmatch("error: a worker process was killed.* run the same command again.*\n", err), (
                err
            )
        elif how == "Ctrl-C":
            assert err == "interrupted\n"
        done = sorted(tmp_path.glob(".mine.partial/unit-*.json"))
        assert 1 <= len(done) < 11 and not (tmp_path / "mine").exists()
        for unit in done[1:]:  # so that there is work left for the next round, however fast the machine
            unit.unlink()
    assert codes == [2, 130, -signal.SIGKILL, -signal.SIGKILL]
    assert finished(script(*flags))[0] == 0 and files(tmp_path) == whole


def test_the_named_datasets_come_from_the_hub(tmp_path: Path) -> None:
    fineweb = {f"sample/10BT/00{n}_00000.parquet": parquet(TEXTS[n * 100 : n * 100 + 100]) for n in range(3)}
    tinystories = {
        "data/train-00000-of-00001-a.parquet": parquet(TEXTS[:80]),
        "data/validation-00000-of-00001-b.parquet": parquet(TEXTS[80:100]),
    }
    with Hub({"HuggingFaceFW/fineweb": fineweb, "roneneldan/TinyStories": tinystories}) as hub:
        for match, what in (
            ("/api/datasets/HuggingFaceFW/fineweb", {"status": 503}),
            ("/resolve/", {"cut": 50}),
        ):
            hub.fault(match, **what)
        runs = [
            script(
                flag,
                "--tokenizer",
                "bytes",
                "--data_dir",
                tmp_path,
                HF_ENDPOINT=hub.url,
                HF_HOME=str(tmp_path),
            )
            for flag in ("--fw", "--tinystories")
        ]
        for process in runs:
            code, out, err = finished(process)
            assert code == 0 and "error" not in err, err
        assert hub.faults == []
    assert split_texts(tmp_path / "fw") == {
        "train": [text for text in TEXTS[:300] if not in_validation(text, 0.2)],
        "val": [text for text in TEXTS[:300] if in_validation(text, 0.2)],
    }
    assert split_texts(tmp_path / "tinystories") == {"train": TEXTS[:80], "val": TEXTS[80:100]}
    assert read_meta(tmp_path / "fw")["source"] == {"repo": "HuggingFaceFW/fineweb", "revision": REVISION}


def test_instructions_and_preferences_come_from_the_hub(tmp_path: Path) -> None:
    """A JSON array and Parquet files of message lists; rows that teach nothing are left out and counted."""

    def pair(row: dict) -> dict:
        turns = {
            name: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[name]}]
            for name in ("chosen", "rejected")
        }
        return {**turns, "score_chosen": 8.0}

    def table(rows: list[dict]) -> bytes:
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=20)
        return file.getvalue()

    empty, equal = {**TALKS[0], "output": " "}, {**PAIRS[0], "rejected": PAIRS[0]["chosen"]}
    alpaca = json.dumps([*TALKS[:50], empty, *TALKS[50:], empty]).encode()
    train, val = (
        table([pair(row) for row in [*PAIRS[:30], equal, *PAIRS[30:80]]]),
        table(list(map(pair, PAIRS[80:]))),
    )
    with Hub(
        {
            "yahma/alpaca-cleaned": {"README.md": b"", "alpaca_data_cleaned.json": alpaca},
            "trl-lib/ultrafeedback_binarized": {
                "data/train-00000-of-00001.parquet": train,
                "data/test-00000-of-00001.parquet": val,
            },
        }
    ) as hub:
        for match, what in (("/api/datasets/yahma", {"status": 503}), ("/resolve/", {"cut": 50, "times": 2})):
            hub.fault(match, **what)
        runs = [
            script(
                flag,
                "--tokenizer",
                "bytes",
                "--data_dir",
                tmp_path,
                HF_ENDPOINT=hub.url,
                HF_HOME=str(tmp_path),
            )
            for flag in ("--alpaca", "--dpo")
        ]
        for process, left_out in zip(runs, (2, 1), strict=True):
            code, out, err = finished(process)
            assert code == 0 and "error" not in err, err
            assert f"; {left_out} rows with nothing to learn left out" in out
        assert hub.faults == []
    alpaca, dpo = talks(tmp_path / "alpaca"), talks(tmp_path / "dpo")
    held_out = [
        in_validation(json.dumps([{"role": "user", "content": row["instruction"]}]), 0.1) for row in TALKS
    ]
    assert alpaca == [
        [talk for n, side in enumerate(held_out) if side is val for talk in expected_talks("instruct", n)]
        for val in (False, True)
    ]
    assert dpo == [
        [talk for n in numbers for talk in expected_talks("preference", n)]
        for numbers in (range(80), range(80, 120))
    ]
    assert read_meta(tmp_path / "dpo")["source"] == {
        "repo": "trl-lib/ultrafeedback_binarized",
        "revision": REVISION,
    }


def test_a_refusal_of_the_hub_in_a_worker_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    rows = [*TEXTS[:150], None, *TEXTS[151:200]]
    with Hub({"HuggingFaceFW/fineweb": {"sample/10BT/000_00000.parquet": parquet(rows)}}) as hub:
        code, _, err = finished(
            script(
                "--fw",
                "--tokenizer",
                "bytes",
                "--data_dir",
                tmp_path,
                HF_ENDPOINT=hub.url,
                HF_HOME=str(tmp_path),
            )
        )
    assert code == 2 and re.fullmatch(
        "error: hf://.*000_00000.parquet row 151: column 'text' holds None.*\n", err
    )
    assert not (tmp_path / "fw").exists()
