"""data.py --tokenizer bpe: a size that suits the text, trained on training documents of any kind, not twice."""

import json
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest

from dataprep import trained_tokenizer
from dataprep.inputs import InputFile
from dataprep.registry import file_source
from dataprep.shards import TokenDataset, read_meta
from dataprep.trained_tokenizer import is_trained, spread, train, training_texts, vocabulary_size
from runtime.errors import UserError
from tokenizer import load_tokenizer

inline, command = prepared.inline, prepared.command

WORDS = "the fox saw a small boat and the boat saw the fox "


def test_the_size_follows_the_amount_of_text() -> None:
    sizes = [vocabulary_size("bpe", size) for size in (1, 10**5, 10**6, 2 * 10**7, 10**9, 10**12)]
    assert sizes == [512, 512, 2048, 8192, 32768, 32768]
    assert vocabulary_size("bpe:1000", 10**9) == 1000


@pytest.mark.parametrize("name", ["bpe:", "bpe:many", "bpe:256", "bpe:-5", "bpe:99999999999"])
def test_a_wrong_size_is_refused(name: str) -> None:
    assert is_trained(name)
    with pytest.raises(UserError, match="needs a number of tokens from 257"):
        vocabulary_size(name, 10**6)


def test_names_of_other_tokenizers() -> None:
    assert not any(map(is_trained, (None, "gpt2", "bytes", "my/bpe")))


def test_the_held_out_end_of_a_book_is_not_read(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(WORDS * 40 + "zebra " * 400)
    source = file_source("book", "text", [InputFile(str(book), str(book))])
    texts = list(training_texts(source.ranges, "text", val_fraction=0.6))
    assert len("".join(texts)) == pytest.approx(0.4 * book.stat().st_size, abs=2)
    assert "zebra" not in "".join(texts)


def test_rows_are_read_as_the_template_renders_them(tmp_path: Path) -> None:
    rows = [{"instruction": f"Name {n}.", "output": f"The fox number {n}."} for n in range(200)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = file_source("rows", "instruct", [InputFile(str(file), str(file))])
    texts = list(training_texts(source.ranges, "instruct", val_fraction=0.2))
    assert texts[0].startswith("### Instruction:\nName ") and "### Response:\nThe fox number" in texts[0]
    assert 120 < len(texts) < 190  # without those that are held out

    tokenizer = train("bpe:300", source.ranges, "instruct", 0.2)
    assert tokenizer.vocab_size == 300
    assert tokenizer.decode(tokenizer.encode("The fox, naïve.")) == "The fox, naïve."


def test_large_corpora_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": f"{n} {WORDS}"}) + "\n" for n in range(1000)))
    ranges = file_source("lines", "text", [InputFile(str(lines), str(lines))]).ranges
    assert spread(ranges) == ranges
    monkeypatch.setattr(trained_tokenizer, "MAX_TRAINING_BYTES", ranges[0].bytes * len(ranges) // 4)
    assert spread(ranges * 8) == (ranges * 8)[::32]


def test_a_corpus_without_training_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.write_text("\n \n<|endoftext|> ")
    with pytest.raises(UserError, match="--tokenizer bpe has no text"):
        train("bpe", file_source("empty", "text", [InputFile(str(file), str(file))]).ranges, "text", 0.1)


def jsonl(rows: list[dict], folder: Path) -> list[Path]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [folder / "rows.jsonl"]


def books(count: int, folder: Path) -> list[Path]:
    """Write books without a word in common; of each the end is held out where there are few."""
    for n in range(count):
        (folder / f"{n}.txt").write_text(" ".join(f"b{n}w{word}" for word in range(2000)))
    return [folder / f"{n}.txt" for n in range(count)]


CORPORA = {
    "eight rows": (
        "text",
        lambda folder: jsonl([{"text": f"row {n} " + WORDS * 3} for n in range(8)], folder),
    ),
    "many rows": ("text", lambda folder: jsonl([{"text": f"row {n:04}"} for n in range(1500)], folder)),
    "one prompt": (
        "instruct",
        lambda folder: jsonl([{"prompt": "Say it", "completion": f"number {n}"} for n in range(40)], folder),
    ),
    "few prompts": (
        "instruct",
        lambda folder: jsonl([{"prompt": f"Say {n % 7}", "completion": f"{n}!"} for n in range(40)], folder),
    ),
    "pairs": (
        "preference",
        lambda folder: jsonl(
            [{"prompt": f"Say {n}", "chosen": "a", "rejected": "b"} for n in range(12)], folder
        ),
    ),
    "one book": ("text", lambda folder: books(1, folder)),
    "three books": ("text", lambda folder: books(3, folder)),
    "thirty books": ("text", lambda folder: books(30, folder)),
}


@pytest.mark.parametrize("name", CORPORA)
def test_nothing_of_the_validation_set_is_read(
    name: str, inline: None, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, write = CORPORA[name]
    texts: list[str] = []
    real = trained_tokenizer.train_bpe
    monkeypatch.setattr(
        trained_tokenizer, "train_bpe", lambda given, size: real((texts.append(t) or t for t in given), size)
    )
    flags = ("--name", "mine", "--kind", kind, "--tokenizer", "bpe:300", "--val_fraction", 0.2)
    code, _, err = command("--files", *write(tmp_path), *flags)
    assert code == 0, err

    folder = tmp_path / "data" / "mine"
    tokenizer = load_tokenizer(folder / "tokenizer")
    trained_on = "\n".join(texts)
    for split in ("train", "val"):
        dataset = TokenDataset(folder, split, read_meta(folder))
        documents = [tokenizer.decode(dataset.document(n)[0].tolist()) for n in range(dataset.documents)]
        words = {word for text in documents for word in (text.split() if "book" in name else [text])}
        share = sum(word in trained_on for word in words) / len(words)
        # A book's cut by bytes is not quite where that by tokens is.
        assert share < 0.05 if split == "val" else share > 0.95
