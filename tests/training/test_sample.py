"""Prompt of the sample: from a flag, a preset, the resumed run, or the data."""

from pathlib import Path

import pytest
from toy import TINY, toy_dataset, write_rows

from config import ModelArgs
from dataprep.shards import TokenDataset, read_meta
from tokenizer import load_tokenizer
from training.sample import (
    MAX_QUESTION,
    default_prompt_remains,
    first_question,
    first_words,
    fitting_prompt,
)
from training.settings import resolve_run

ANSWER = {"role": "assistant", "content": "Yes."}


def conversations(folder: Path, *questions: str, system: str = "") -> TokenDataset:
    rows = []
    for question in questions:
        messages = [{"role": "user", "content": question}, ANSWER]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        rows.append({"messages": messages})
    folder = write_rows(folder, "instruct", {"val": [rows], "train": [rows]})
    return TokenDataset(folder, "val", read_meta(folder))


def question_of(documents: TokenDataset) -> str:
    return first_question(documents, load_tokenizer(documents.folder / "tokenizer"))


def test_the_first_short_question_is_the_prompt(tmp_path: Path) -> None:
    documents = conversations(
        tmp_path / "a", "word " * MAX_QUESTION, "Two\nlines?", "Is it red?", "Is it old?"
    )
    assert question_of(documents) == "Is it red?"
    assert question_of(conversations(tmp_path / "b", "word " * MAX_QUESTION)) == ""
    assert question_of(conversations(tmp_path / "c", "Is it red?", system="Be kind.")) == ""


@pytest.mark.parametrize(
    "text, prompt",
    [
        ("The old fox ran over the hill.", "The old fox ran over"),
        ("def  main():\n    pass\n", "def main(): pass"),
        ("a" * 100, "a" * 40),
        ("语言模型的训练" * 20, ("语言模型的训练" * 3)[:21]),  # 64 bytes
    ],
)
def test_a_text_is_continued_from_its_first_words(tmp_path: Path, text: str, prompt: str) -> None:
    folder = write_rows(tmp_path / "texts", "text", {"val": [[{"text": text}]], "train": [[{"text": text}]]})
    documents = TokenDataset(folder, "val", read_meta(folder))
    assert first_words(documents, load_tokenizer(folder / "tokenizer")) == prompt


def test_what_was_chosen_stays() -> None:
    assert default_prompt_remains({}, None)
    assert default_prompt_remains({"preset": "stories"}, None)
    assert not default_prompt_remains({"preset": "shakespeare"}, None)
    assert not default_prompt_remains({"prompt": ModelArgs.prompt}, None)
    assert not default_prompt_remains({}, {"args": {}})


@pytest.mark.parametrize("kind", ["text", "instruct", "preference"])
def test_the_prompt_is_of_the_data(tmp_path: Path, kind: str) -> None:
    folder = toy_dataset(tmp_path, "toy", 60, kind)
    meta = read_meta(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    prompt = fitting_prompt(folder, meta, tokenizer)
    assert prompt not in ("", ModelArgs.prompt)

    documents = TokenDataset(folder, "val", meta)
    texts = [tokenizer.decode(documents.document(number)[0]) for number in range(documents.documents)]
    assert any(prompt in text for text in texts)


def test_a_run_keeps_the_prompt_in_its_settings(tmp_path: Path) -> None:
    toy_dataset(tmp_path / "data", "toy", 60, "instruct")
    words = {name: value for name, value in TINY.items() if name != "prompt"}
    words |= {"train": "S", "block_size": 64, "data_dir": str(tmp_path / "data")}
    setup = resolve_run({**words, "save_checkpoint_dir": str(tmp_path / "runs")})
    assert setup.args.prompt.startswith("Say ")
    assert setup.prompt_ids == setup.tokenizer.render([{"role": "user", "content": setup.args.prompt}])[0]
