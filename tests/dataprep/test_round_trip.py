"""Tokenizers that cannot write a dataset: refused with the text that is lost, or a note for a small loss."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from dataprep import round_trip
from dataprep.inputs import InputFile
from dataprep.registry import Source, file_source, story_sources
from dataprep.round_trip import check_tokenizer, first_texts
from dataprep.turns import AS_IT_IS
from runtime.errors import UserError
from tokenizer import Tokenizer, gpt2

ROWS = {
    "text": {"text": "A fox, a boat\nand  a hill"},
    "instruct": {"instruction": "Name a fox", "output": "Reynard"},
    "preference": {"prompt": "Name a fox", "chosen": "Reynard", "rejected": "None"},
}


def source_of(kind: str, folder: Path, row: dict | None = None, rows: int = 20) -> Source:
    file = folder / "rows.jsonl"
    file.write_text((json.dumps(row or ROWS[kind]) + "\n") * rows)
    return file_source("rows", kind, [InputFile(str(file), str(file))])


def unigram(letters: str) -> Tokenizer:
    """Return a tokenizer of single letters with SentencePiece's blanks, in which every other letter is unknown."""
    words = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in "▁" + letters)]
    hf = tokenizers.Tokenizer(models.Unigram(words, unk_id=0))
    hf.pre_tokenizer = pre_tokenizers.Metaspace()
    hf.decoder = decoders.Metaspace()
    hf.add_special_tokens(["<unk>", "</s>"])
    return Tokenizer(hf, {"eos_token": "</s>"}, None)


ASCII = "".join(map(chr, range(33, 127)))


def test_what_the_template_needs(tmp_path: Path) -> None:
    for kind in ("instruct", "preference"):
        source = source_of(kind, tmp_path)
        check_tokenizer(unigram(ASCII + "\n"), "t", source, AS_IT_IS)
        with pytest.raises(
            UserError, match=r"^--tokenizer t cannot write '#': '### Instruction:.* is read back as "
        ):
            check_tokenizer(unigram(ASCII.replace("#", "") + "\n"), "t", source, AS_IT_IS)
        with pytest.raises(UserError, match=r"cannot write line ends: '.*Instruction:\\nName.*<unk>"):
            check_tokenizer(unigram(ASCII), "t", source, AS_IT_IS)


def test_words_without_blanks_are_refused(tmp_path: Path) -> None:
    hf = tokenizers.Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.decoder = decoders.Fuse()
    hf.train_from_iterator([ASCII], trainers.BpeTrainer(special_tokens=["</s>"], show_progress=False))
    with pytest.raises(UserError, match="cannot write line ends and blanks"):
        check_tokenizer(
            Tokenizer(hf, {"eos_token": "</s>"}, None), "t", source_of("text", tmp_path), AS_IT_IS
        )


def test_a_text_needs_what_it_has(tmp_path: Path) -> None:
    """A tokenizer of one alphabet is fine for texts in it, without '#', line ends or blanks."""
    source = source_of("text", tmp_path, {"text": "ACGTTGCA"})
    check_tokenizer(unigram("ACGT"), "dna", source, AS_IT_IS)
    with pytest.raises(UserError, match="cannot write 25% of the text: 'ACGTTGCA' is read back as"):
        check_tokenizer(unigram("ACG"), "dna", source, AS_IT_IS)


def test_a_small_loss_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = source_of("text", tmp_path, {"text": "One fox\nand a café in the far and wide hills"})
    check_tokenizer(unigram(ASCII + "\n"), "t", source, AS_IT_IS)
    line = capsys.readouterr().out
    assert (
        line.startswith("note: --tokenizer t loses 2.27% of the text, such as 'é': ")
        and line.count("\n") == 1
    )

    lower = unigram(ASCII + "\n")
    lower.hf.normalizer = normalizers.Lowercase()
    check_tokenizer(lower, "t", source, AS_IT_IS)
    assert "such as 'O', 'é': 'One fox" in capsys.readouterr().out


def test_letters_that_become_the_end_are_refused(tmp_path: Path) -> None:
    tokenizer = unigram(ASCII + "\n")
    # As if the model had a way to the token that is not known here.
    tokenizer.encode = lambda text: [tokenizer.eos_id]
    with pytest.raises(UserError, match="reads the letters </s> in a text as the end"):
        check_tokenizer(tokenizer, "t", source_of("text", tmp_path), AS_IT_IS)


def test_our_own_tokenizers_are_not_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(round_trip, "first_texts", None)
    check_tokenizer(gpt2(), "gpt2", source_of("text", tmp_path), AS_IT_IS)


def test_the_first_texts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trip, "SAMPLE", 60)
    texts = list(first_texts(source_of("text", tmp_path, {"text": "é" * 50}), AS_IT_IS))
    assert texts == ["é" * 50, "é" * 10]
    for source in story_sources(0):
        assert 50 < len("".join(first_texts(source, AS_IT_IS))) <= 60
