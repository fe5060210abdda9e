"""Preview of a prepared row: complete text, loss in green, ends and truncation visible."""

import re
from pathlib import Path

import numpy as np
import pytest
from examples import MULTI
from toy import write_rows

from config import EOS
from dataloader.preview import GRAY, GREEN, PLAIN, RED, show, visible_text
from runtime.errors import UserError
from tokenizer import byte_level

INSTRUCT = [{"instruction": "Add", "input": "1 and 2", "output": "It is 3é"}, {"messages": MULTI}]
PAIR = {"prompt": "Say hi to all of them", "chosen": "Hi!", "rejected": "Why should I?"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_rows(
        folder / "text",
        "text",
        {"train": [[{"text": "one"}], [{"text": "two"}]], "val": [[{"text": "three"}]]},
    )
    write_rows(folder / "instruct", "instruct", {"train": [INSTRUCT], "val": [INSTRUCT[:1]]})
    write_rows(folder / "preference", "preference", {"train": [[PAIR]], "val": [[PAIR]]})
    return folder


def colored_parts(shown: str) -> list[tuple[str, str]]:
    """Return (color, text) of each colored part."""
    return re.findall(r"(\x1b\[\d\dm)(.*?)\x1b\[0m", shown, re.DOTALL)


def plain(shown: str) -> str:
    """Return the text without its colors."""
    return re.sub(r"\x1b\[\d+m", "", shown)


def test_tokens_with_loss_are_green_and_the_others_gray(data: Path) -> None:
    shown = show(data / "instruct", "train", 1, None)
    assert shown.startswith(
        f"row 1 of 2, train set of {data / 'instruct'} (instruct)\n66 tokens, loss on 10 of those below"
    )
    assert colored_parts(shown) == [
        (GRAY, "### Instruction:\nAdd\n\n### Input:\n1 and 2\n\n### Response:\n"),
        (GREEN, f"It is 3é{EOS}"),
    ]
    colors = [color for color, _ in colored_parts(show(data / "instruct", "train", 2, None))]
    assert colors == [GRAY, GREEN, GRAY, GREEN]


def test_every_kind_and_split_is_shown(data: Path) -> None:
    assert colored_parts(show(data / "text", "train", 2, None)) == [(GREEN, f"two{EOS}")]
    assert colored_parts(show(data / "text", "val", 1, 2)) == [
        (GREEN, f"three{EOS}")
    ]  # texts are not truncated
    assert "row 1 of 1, val set" in show(data / "instruct", "val", 1, None)
    shown = show(data / "preference", "train", 1, None)
    prompt = (GRAY, "### Instruction:\nSay hi to all of them\n\n### Response:\n")
    assert "\nchosen: 58 tokens, loss on 4 " in shown
    assert "\nrejected: 68 tokens, loss on 14 " in shown
    assert colored_parts(shown) == [prompt, (GREEN, f"Hi!{EOS}"), prompt, (GREEN, f"Why should I?{EOS}")]


def test_truncation_is_marked(data: Path) -> None:
    complete = show(data / "instruct", "train", 1, 200)
    assert RED not in complete
    assert (
        complete.split("\n\ntrain set:")[0]
        == show(data / "instruct", "train", 1, None).split("\n\ntrain set:")[0]
    )

    # 41 tokens and labels: ten of the response, 31 of the prompt.
    shown = show(data / "instruct", "train", 1, 40)
    assert colored_parts(shown)[0] == (RED, "[... 25 tokens ...]")
    assert colored_parts(shown)[-1] == (GREEN, f"It is 3é{EOS}")
    assert colored_parts(shown)[1] == (GRAY, " Input:\n1 and 2\n\n### Response:\n")

    # 16 = 8 of the prompt, and 8 of the longer answer.
    shown = show(data / "preference", "train", 1, 15)
    assert [text for color, text in colored_parts(shown) if color == RED] == [
        "[... 46 tokens ...]",
        "[... 46 tokens ...]",
        "[... 6 tokens ...]",
    ]
    assert [text for color, text in colored_parts(shown) if color == GREEN] == [f"Hi!{EOS}", "Why shou"]


def test_without_colors_the_text_is_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colored = show(data / "instruct", "train", 1, 40)
    monkeypatch.setenv("NO_COLOR", "1")
    assert show(data / "instruct", "train", 1, 40) == plain(colored) != colored and PLAIN in colored


def test_a_row_past_the_end_is_refused(data: Path) -> None:
    for name, rows in (("text", 2), ("instruct", 2), ("preference", 1)):
        with pytest.raises(UserError, match=f"--row {rows + 1}: the train set of .*{name} has {rows} rows"):
            show(data / name, "train", rows + 1, None)


def visible(text: str, *, ends: bool = False) -> str:
    """Return what is shown of the bytes of a text, with the end-of-text token after them."""
    tokenizer = byte_level()
    ids = tokenizer.encode(text) + [tokenizer.eos_id] * ends
    return visible_text(np.array(ids), tokenizer)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\x1b[2J\x07\r", r"a\x1b[2J\x07\x0d"),
        ("in \u202eorder\u202c", r"in \u202eorder\u202c"),
        ("no\u200bspace\u00ad\ufeff\u2028", r"no\u200bspace\xad\ufeff\u2028"),
        ("\U000e0041 tag", r"\U000e0041 tag"),
        ("naïve 你好 😀\n\tline \\alpha \\n \\x", "naïve 你好 😀\n\tline \\alpha \\n \\x"),
        (r"letters \x1b and \\u202e", r"letters \\x1b and \\\\u202e"),
    ],
)
def test_hidden_characters_are_escapes(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(text, ends=True) == shown + EOS


def test_letters_that_spell_the_end_are_not_the_token() -> None:
    assert visible(f"{EOS} and {EOS}", ends=True) == rf"\x3c|endoftext|> and \x3c|endoftext|>{EOS}"
    assert visible("", ends=True) == EOS
    both = visible_text(np.array([256, 256, ord("a"), 256]), byte_level())
    assert both == f"{EOS}{EOS}a{EOS}"


def test_the_summary_follows_the_row(data: Path) -> None:
    lines = show(data / "preference", "train", 1, 15).splitlines()
    summary = lines[lines.index("") + 1 :] if "" in lines else []
    assert any(line.startswith("train set: 1 pairs, 126 tokens") for line in summary)
    assert any(line.startswith("--block_size 15: 2 of 2 answers are truncated") for line in summary)
