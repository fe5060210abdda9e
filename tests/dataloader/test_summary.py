"""Summary of a split: counts, turns, truncated and left out rows, and lengths, compared with the rows themselves."""

from pathlib import Path

import numpy as np
import pytest
from examples import MULTI
from toy import write_rows

from dataloader.summary import length_lines, summary
from dataprep.shards import TokenDataset, read_meta

INSTRUCT = [
    {"instruction": "Add", "input": "1 and 2", "output": "It is 3é"},
    {"messages": MULTI},
    {"instruction": "Say nothing", "output": "x" * 100},
]
PAIRS = [{"prompt": "Say hi", "chosen": "Hi!", "rejected": "Why should I?"}] * 2


def summarize(folder: Path, block_size: int | None, **changes: dict) -> list[str]:
    return summary(TokenDataset(folder, "train", read_meta(folder) | changes), block_size)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    texts = [[{"text": "one"}], [{"text": "threeé"}, {"text": "x" * 20}]]
    write_rows(folder / "text", "text", {"train": texts, "val": [[{"text": "two"}]]})
    write_rows(folder / "instruct", "instruct", {"train": [INSTRUCT[:1], INSTRUCT[1:]], "val": []})
    write_rows(folder / "preference", "preference", {"train": [PAIRS], "val": []})
    return folder


def test_texts(data: Path) -> None:
    counts, stream, quantiles, *bars = summarize(data / "text", 8)
    # 3, 7 and 20 bytes, each with an end-of-text token.
    assert counts == "train set: 3 documents, 33 tokens; 0.91 bytes of text a token"
    assert stream == "--block_size 8: texts are one stream of tokens, so nothing is truncated"
    assert quantiles.startswith("tokens of documents: shortest 4, ")
    assert quantiles.endswith("longest 21")
    assert [bar.split()[:4] for bar in bars] == [
        ["4", "-", "7", "1"],
        ["8", "-", "15", "1"],
        ["16", "-", "31", "1"],
    ]


def test_conversations(data: Path) -> None:
    answers = [len(turn["content"].encode()) for turn in MULTI if turn["role"] == "assistant"]
    learned = len("It is 3é".encode()) + 1 + sum(answers) + len(answers) + 101
    counts = summarize(data / "instruct", None)[0]
    assert counts.startswith("train set: 3 conversations, ")
    assert f"; loss on {learned} of them (" in counts
    assert f" in {2 + len(answers)} turns; " in counts
    assert counts.endswith(f"{(learned - 2 - len(answers)) / learned:.2f} bytes of text a token with loss")


def test_what_is_truncated_is_counted_as_training_does(data: Path) -> None:
    dataset = TokenDataset(data / "instruct", "train", read_meta(data / "instruct"))
    lengths = sorted(np.diff(dataset.document_bounds).tolist())
    for block_size, too_long in ((lengths[-1] - 1, 0), (lengths[-1] - 2, 1), (lengths[0] - 2, 3)):
        note = summarize(data / "instruct", block_size)[1]
        assert note.startswith(f"--block_size {block_size}: {too_long} of 3 conversations are truncated")
    assert summarize(data / "preference", 10)[1].startswith("--block_size 10: 4 of 4 answers are truncated")
    assert summarize(data / "preference", None)[0].startswith("train set: 2 pairs, ")


def test_rows_that_were_left_out_are_listed(data: Path) -> None:
    lines = summarize(data / "text", None, left_out={"marked bad": 1200, "malformed": 1})
    assert lines[1:3] == [
        "left out of both sets when prepared: 1,200 rows: marked bad",
        "left out of both sets when prepared: 1 rows: malformed",
    ]


def test_lengths_are_quantiles_and_a_histogram() -> None:
    lengths = np.array([1] * 60 + [3] * 15 + [100] * 24 + [5000])
    quantiles, *bars = length_lines(lengths, "documents")
    assert quantiles == "tokens of documents: shortest 1, 10% 1, half 1, 90% 100, 99% 100, longest 5,000"
    rows = [(bar.split()[3], bar.count("#")) for bar in bars]
    assert len(rows) == 13  # from 1 to 4,096 - 8,191
    assert rows[:3] == [("60", 40), ("15", 10), ("0", 0)]
    assert rows[6] == ("24", 16) and rows[-1] == ("1", 1)
