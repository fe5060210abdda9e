"""Paths of --files: folders, globs and pipes become files, in an order that does not depend on the machine."""

import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
from examples import TEXTS, parquet
from prepared import split_texts

from dataprep.inputs import InputFile, check_endings, content_digests, find_inputs, remove_copies
from runtime.errors import UserError

inline, command = prepared.inline, prepared.command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of several kinds of files, some in folders of their own."""
    folder = tmp_path / "corpus"
    for name in (
        "b/2.txt",
        "b/10.txt",
        "a.jsonl",
        "B.MD",
        "c.txt.gz",
        "code.py",
        ".hidden.txt",
        ".git/x.txt",
        "empty.txt",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "empty.txt" else "words")
    return folder


def names(paths: list[object], folder: Path, kind: str = "text") -> list[str]:
    """Return the files that paths name, relative to a folder."""
    inputs = find_inputs(list(map(str, paths)), kind, folder / ".copies")
    assert all(file.path == file.name for file in inputs)
    return [os.path.relpath(file.path, folder) for file in inputs]


def test_a_folder_is_read_to_its_depth_and_sorted(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert names([folder], folder) == ["B.MD", "a.jsonl", "b/10.txt", "b/2.txt", "c.txt.gz"]
    assert (
        capsys.readouterr().out == f"{folder}: 1 .jsonl, 1 .md, 3 .txt (not read: 1 .py, 1 .txt, 1 empty)\n"
    )
    assert names([folder], folder, "instruct") == ["a.jsonl"]
    with pytest.raises(UserError, match="holds no file with rows of kind instruct.*they end in .jsonl, "):
        names([folder / "b"], folder, "instruct")


def test_globs_and_files_keep_their_order(folder: Path) -> None:
    assert names([folder / "b" / "*.txt", folder / "a.jsonl"], folder) == ["b/10.txt", "b/2.txt", "a.jsonl"]
    assert names([folder / "**" / "2.*"], folder) == ["b/2.txt"]
    assert names([folder / "[b]"], folder) == ["b/10.txt", "b/2.txt"]
    (folder / "x[1].txt").write_text("words")
    assert names([folder / "x[1].txt"], folder) == ["x[1].txt"]  # a file of that name comes first
    for path in ("none", "*.none"):
        with pytest.raises(UserError, match=f"no such file or folder: .*{path.replace('*', '.')}"):
            names([folder / path], folder)


def test_a_linked_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "link").symlink_to(folder / "b")
    assert names([tmp_path / "outer"], tmp_path) == ["outer/link/10.txt", "outer/link/2.txt"]


def test_a_wrong_ending_is_refused() -> None:
    for name, kind, words in (
        ("a.pdf", "text", r"a.pdf: a file must end in .txt, .md, .*each also with .gz or .zst"),
        ("a.gz", "text", "a.gz: a file must end in"),
        ("a.md.gz", "instruct", "a.md.gz: a .md file has no rows of kind instruct"),
    ):
        with pytest.raises(UserError, match=words):
            check_endings([InputFile(name, name)], kind)
    check_endings([InputFile("a.csv.gz", "a.csv.gz")], "preference")


def test_digests_are_those_of_the_content(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a", "b", "c")]
    for path, content in zip(paths, ("x", "y", "x"), strict=True):
        Path(path).write_text(content)
    digests = content_digests(paths)
    assert digests[paths[0]] == digests[paths[2]] != digests[paths[1]]


CONTENTS = {
    ".txt": "\n".join(TEXTS[:40]).encode(),
    ".json": "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:40]).encode(),
    ".parquet": parquet(TEXTS[:40]),
}


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("ending", CONTENTS)
@pytest.mark.parametrize("where", ["stdin", "fifo"])
def test_a_pipe_is_read_as_a_file_of_its_content(
    inline: None, command: Callable, tmp_path: Path, where: str, ending: str, is_compressed: bool, monkeypatch
) -> None:
    content = gzip.compress(CONTENTS[ending]) if is_compressed else CONTENTS[ending]
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def piped(name: str) -> tuple[int, str, str]:
        path = "-" if where == "stdin" else fifo
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        if where == "fifo":
            threading.Thread(target=fifo.write_bytes, args=(content,)).start()
        return command("--files", path, "--name", name, "--tokenizer", "bytes")

    code, out, err = piped("mine")
    assert (code, err) == (0, "")
    (tmp_path / f"a{ending}").write_bytes(CONTENTS[ending])
    assert command("--files", tmp_path / f"a{ending}", "--name", "other", "--tokenizer", "bytes")[0] == 0
    assert split_texts(tmp_path / "data" / "mine") == split_texts(tmp_path / "data" / "other")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"mine", "other"}

    inode = (tmp_path / "data" / "mine").stat().st_ino
    assert "already prepared" in piped("mine")[1] and (tmp_path / "data" / "mine").stat().st_ino == inode


def test_a_pipe_without_content_is_refused(command: Callable, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, _, err = command("--files", "-", "--name", "mine")
    assert code == 2 and "nothing came through the pipe" in err
    assert list((tmp_path / "data").iterdir()) == []


def test_a_compressed_table_is_read(inline: None, command: Callable, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(parquet(TEXTS[:60])))
    assert command("--files", path, "--name", "mine", "--tokenizer", "bytes")[0] == 0
    texts = split_texts(tmp_path / "data" / "mine")
    assert sorted(texts["train"] + texts["val"]) == sorted(TEXTS[:60])
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]

    path.write_bytes(path.read_bytes()[:-30])
    code, _, err = command("--files", path, "--name", "cut", "--tokenizer", "bytes")
    assert code == 2 and "a.parquet.gz cannot be decompressed" in err and "test it with gzip -t" in err


def test_only_copies_are_removed(tmp_path: Path) -> None:
    for name in (".mine.input-1.txt", ".mine.input-2.json", ".mine.inputs", "other"):
        (tmp_path / name).write_text("x")
    remove_copies(tmp_path / ".mine.input")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.inputs", "other"]
