"""tokenizer.py as a script: it learns the text of files of any format, and nothing of their syntax."""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from examples import parquet

from dataprep.tokenizer_script import main
from runtime.errors import run_cli
from tokenizer import load_tokenizer

TEXTS = [f"Größe und Gewicht: {n} Äpfel, <b>reif</b>\n" * 3 for n in range(50)]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Return a function that runs the script in a folder: flags -> (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*flags: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tokenizer.py", *flags])
        try:
            run_cli(main)
            code = 0
        except SystemExit as exit:
            code = exit.code
        return code, capsys.readouterr().err

    return call


def rows_of(texts: list[str]) -> str:
    """Return texts as JSONL with escapes."""
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


CONTENTS = {
    "a.jsonl": rows_of(TEXTS).encode(),
    "a.json": json.dumps([{"text": text} for text in TEXTS], indent=2).encode(),
    "a.jsonl.gz": gzip.compress(rows_of(TEXTS).encode()),
    "a.parquet": parquet(TEXTS),
    "a.csv": ("text\n" + "".join(f'"{text}"\n' for text in TEXTS)).encode(),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_tokenizer_of_its_text(script: Callable, tmp_path: Path, name: str) -> None:
    (tmp_path / "expected.txt").write_text("<|endoftext|>".join(TEXTS))
    (tmp_path / name).write_bytes(CONTENTS[name])
    for file, folder in (("expected.txt", "expected"), (name, "out")):
        assert script("--files", file, "--vocab_size", "300", "--to", folder)[0] == 0
    expected, tokenizer = (load_tokenizer(tmp_path / folder) for folder in ("expected", "out"))
    assert len(tokenizer.encode(TEXTS[7])) <= len(expected.encode(TEXTS[7])) + 3
    vocabulary = {tokenizer.decode([token]) for token in range(tokenizer.vocab_size)}
    assert not any(
        part in token for token in vocabulary for part in ('text"', '{"', "u00", "PAR1", "endoftext")
    )


def test_conversations_are_learned_as_the_template_renders_them(script: Callable, tmp_path: Path) -> None:
    rows = [{"instruction": f"Name {n}", "output": "a"} for n in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert script("--files", "a.jsonl", "--kind", "instruct", "--vocab_size", "300", "--to", "out")[0] == 0
    tokenizer = load_tokenizer(tmp_path / "out")
    assert len(tokenizer.encode("### Response:\n")) < 5


@pytest.mark.parametrize(
    "line, message",
    [
        ("--files none.txt --to x", "none.txt"),
        ("--files a --vocab_size 9 --to x", "--vocab_size 9 must lie between 257"),
        ("--files latin.txt --to x", "latin.txt is not UTF-8 text"),
        ("--files a.pdf --to x", "a.pdf: a file must end in"),
    ],
)
def test_a_mistake_is_one_line(script: Callable, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "a.pdf").write_bytes(b"x")
    code, err = script(*line.split())
    assert code == 2 and message in err and err.count("\n") == 1 and not (tmp_path / "x").exists()
