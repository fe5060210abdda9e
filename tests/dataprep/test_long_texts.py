"""Long texts: the tokens of the pieces are those of the text, for each way in which tokenizers treat blanks."""

import gzip
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from dataprep import long_texts
from dataprep.long_texts import encode_text
from dataprep.shards import TokenDataset, read_meta
from tokenizer import Tokenizer, load_tokenizer

inline, command = prepared.inline, prepared.command

TEXT = "First, you know\nCaius  Marcius\n\n  is chief enemy.\t\t 你好\u3000再见 we'll " * 40
SPECIAL = ["<unk>", "</s>"]


def foreign(kind: str) -> Tokenizer:
    """Return a tokenizer that the library tokenizers encodes with, trained on the text, or on its words alone."""
    hf = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    settings = {"special_tokens": SPECIAL, "initial_alphabet": sorted({*TEXT}), "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=400, **settings)
    content = TEXT.split() if kind in ("SentencePiece BPE", "Llama 2") else TEXT.splitlines(keepends=True)
    hf.pre_tokenizer, hf.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    if kind in ("NeoX", "RoBERTa"):
        hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "RoBERTa")
        hf.decoder = decoders.ByteLevel()
    elif kind == "Unigram":
        hf.model = models.Unigram()
        trainer = trainers.UnigramTrainer(vocab_size=100, unk_token="<unk>", **settings)
    elif kind == "across words":
        hf.pre_tokenizer = pre_tokenizers.Split("k", "isolated")
    hf.train_from_iterator(content, trainer)

    if kind in ("Llama 2", "across words"):  # the whole text goes through the merges
        hf.pre_tokenizer = None
        hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return Tokenizer(hf, {"eos_token": "</s>"}, None)


FOREIGN = ["NeoX", "RoBERTa", "SentencePiece BPE", "Unigram", "Llama 2", "across words"]


@pytest.mark.parametrize("size", [1, 10, 77, 500])
@pytest.mark.parametrize("name", ["gpt2", "bytes", *FOREIGN])
def test_the_tokens_do_not_depend_on_the_pieces(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = foreign(name) if name in FOREIGN else load_tokenizer(name)
    expected = tokenizer.encode(TEXT)
    lengths: list[int] = []
    encode = tokenizer.encode_after
    monkeypatch.setattr(
        tokenizer, "encode_after", lambda context, text: lengths.append(len(text)) or encode(context, text)
    )
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", size)
    assert encode_text(TEXT, tokenizer, ends=False).tolist() == expected
    assert encode_text(TEXT, tokenizer, ends=True).tolist() == [*expected, tokenizer.eos_id]
    assert len(lengths) > 2 * len(TEXT) / (size + 80) and max(lengths) < size + 160


def test_text_without_white_space_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", 10)
    assert encode_text("x" * 100, load_tokenizer("bytes"), ends=True).tolist() == [ord("x")] * 100 + [256]


def test_a_text_in_which_no_token_ends_is_cut_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_texts, "PIECE_CHARACTERS", 10)
    tokenizer = foreign("Llama 2")
    monkeypatch.setattr(tokenizer, "begins_token", lambda context, text: False)
    ids = encode_text("you know " * 20, tokenizer, ends=False)
    assert tokenizer.hf.decode(ids.tolist()).replace(" ", "").count("know") == 20


@pytest.mark.parametrize("name", ["RoBERTa", "SentencePiece BPE", "Unigram", "Llama 2"])
@pytest.mark.parametrize("ending", [".txt", ".txt.gz"])
def test_a_book_in_several_units_has_the_tokens_of_its_text(
    name: str, ending: str, inline: None, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / f"book{ending}"
    content = (TEXT * 5).encode()
    book.write_bytes(content if ending == ".txt" else gzip.compress(content))
    tokenizer = foreign(name)
    tokenizer.save(tmp_path)
    monkeypatch.setattr("dataprep.readers.PIECE_CHARACTERS", 3000)

    flags = (
        "--files",
        book,
        "--name",
        "book",
        "--kind",
        "text",
        "--tokenizer",
        tmp_path,
        "--val_fraction",
        0,
    )
    code, _, err = command(*flags)
    assert code == 0, err
    folder = tmp_path / "data" / "book"
    meta = read_meta(folder)
    dataset = TokenDataset(folder, "train", meta)
    assert len(meta["splits"]["train"]) > 2 or ending == ".txt.gz"
    assert dataset.read(0, len(dataset)).tolist() == [*tokenizer.encode(TEXT * 5), tokenizer.eos_id]
