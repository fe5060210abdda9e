"""Command line of data.py: typed and checked, mistakes in one line, rows shown."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
import tokenizers
from prepared import ROWS, expected_conversations

import data
from config import EOS
from dataprep.machine_shares import MachineShare

inline, command, rows = prepared.inline, prepared.command, prepared.rows


def parsed(monkeypatch: pytest.MonkeyPatch, *flags: str) -> data.DataArgs:
    """Return the typed command line of some flags."""
    monkeypatch.setattr(sys, "argv", ["data.py", *flags])
    return data.parse()


def test_the_command_line_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    args = parsed(monkeypatch, "--fw", "--shard", "2/8", "--data_dir", "elsewhere")
    assert (args.named, args.name, args.kind, args.val_fraction) == ("fw", "fw", "text", 0.2)
    assert args.share == MachineShare(2, 8) and args.data_dir == Path("elsewhere")

    args = parsed(monkeypatch, "--files", "a.txt", "b.txt", "--name", "mine", "--val_fraction", "0.5")
    assert (args.files, args.name, args.val_fraction) == (["a.txt", "b.txt"], "mine", 0.5)
    assert args.share is args.max_tokens is args.tokenizer is args.named is None

    args = parsed(monkeypatch, "--show", "mine", "--row", "3", "--split", "val", "--block_size", "20")
    assert (args.show, args.name, args.row, args.split, args.block_size) == ("mine", "mine", 3, "val", 20)


@pytest.mark.parametrize("share", ["0/2", "3/2", "2", "a/b"])
def test_a_wrong_share_is_one_line(command: Callable, share: str) -> None:
    code, _, err = command("--fw", "--shard", share)
    assert code == 2 and f"--shard {share} must be like 2/8" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--files", "none.txt", "--name", "mine"), "no such file or folder: none.txt"),
        (("--files", "{rows}"), "--files needs --name"),
        (("--files", "{rows}", "--name", "../mine"), "must be a plain folder name"),
        (("--files", "{rows}", "--name", "mine", "--val_fraction", "1"), "must be 0 or more and below 1"),
        (("--files", "{rows}", "--name", "mine", "--max_tokens", "0"), "--max_tokens 0 must be 1 or more"),
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
            ("--files", "{rows}", "{rows}.TXT", "--name", "mine", "--kind", "instruct"),
            "rows.jsonl.TXT: a .txt file has no rows of kind",
        ),
        (("--stories", "--name", "mine"), "--name goes with --files"),
        (("--stories", "--val_files", "{rows}"), "--val_files goes with --files"),
        (
            ("--files", "{rows}", "--name", "m", "--val_files", "{rows}", "--val_fraction", "0"),
            "drop one of them",
        ),
        (("--files", "{rows}", "--name", "m", "--val_files", "none.txt"), "no such file or folder: none.txt"),
        (("--fw", "--shard", "1/2", "--max_tokens", "5"), "does not go with --shard"),
        (("--stories", "--fw"), "not allowed with"),
        ((), "required"),
    ],
)
def test_a_mistake_gets_one_line(
    inline: None, command: Callable, rows: Path, tmp_path: Path, flags: tuple, words: str
) -> None:
    (tmp_path / f"{rows.name}.TXT").write_text("words")
    code, _, err = command(*(flag.format(rows=rows) for flag in flags))
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert re.search(words, err), err
    assert not (tmp_path / "data" / "mine").exists()


@pytest.mark.parametrize("kind", ["instruct", "preference"])
def test_a_row_is_shown(
    inline: None, command: Callable, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
    assert command("--files", path, "--kind", kind, "--name", "mine", "--tokenizer", "bytes")[0] == 0
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, err = command("--show", "mine", "--row", 1)
    assert (code, err) == (0, "") and all(text + EOS in out for text in expected_conversations(kind, 0))
    assert "[... " in command("--show", "mine", "--split", "val", "--block_size", 20)[1]

    code, _, err = command("--show", "mine", "--row", 10_000)
    assert code == 2 and "--row 10000: the train set of " in err
    code, _, err = command("--show", "other")
    assert code == 2 and "no prepared dataset" in err and "(there are: mine)" in err


def test_a_tokenizer_that_loses_the_template_is_refused(
    inline: None, command: Callable, tmp_path: Path
) -> None:
    hf = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"</s>": 0, "<unk>": 1, "Hi": 2}, unk_token="<unk>")
    )
    hf.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    hf.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS["instruct"]))
    code, _, err = command("--files", path, "--kind", "instruct", "--name", "mine", "--tokenizer", tmp_path)
    assert code == 2 and len(err.splitlines()) == 1 and "cannot write '#' and line ends" in err
    assert not [*(tmp_path / "data").glob("*mine*")]
