"""Units in a worker process: within the budget of tokens, and the same shards however often they are prepared."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from examples import TEXTS, files
from prepared import INSTRUCTIONS

from dataprep import worker
from dataprep.documents import Document, row_documents
from dataprep.prepare import WORKERS
from dataprep.ranges import local_ranges
from dataprep.registry import PrepConfig, join_units
from dataprep.worker import TokenBudget, prepare_unit, start_worker
from runtime.errors import UserError
from tokenizer import Tokenizer, load_tokenizer


def text_documents(*texts: str) -> list[tuple[str, Document]]:
    """Return texts as training documents."""
    rows = [({"text": text}, "row") for text in texts]
    return [("train", document) for document in row_documents(rows, "text", load_tokenizer("bytes"))]


def lengths(budget: TokenBudget, documents: list, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of each document within the budget."""
    return [document.num_tokens for _, document in budget.within_budget(documents, tokenizer)]


def test_texts_are_truncated_to_the_budget(tokenizer: Tokenizer) -> None:
    documents = text_documents("one", "three", "four")  # 4, 6 and 5 tokens
    for tokens, expected in (
        (math.inf, [4, 6, 5]),
        (100, [4, 6, 5]),
        (15, [4, 6, 5]),
        (12, [4, 6, 2]),
        (10, [4, 6]),
        (4, [4]),
        (3, [3]),
    ):
        budget = TokenBudget(tokens)
        assert lengths(budget, documents, tokenizer) == expected
        assert budget.remaining == tokens - sum(expected)


def test_a_unit_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = SimpleNamespace(path="hf://datasets/a/b@0/c.parquet")
    monkeypatch.setattr(worker, "_worker", SimpleNamespace(config=SimpleNamespace(units=[[unit]])))

    def fail(action: object, name: str) -> None:
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(worker, "retry", fail)
    with pytest.raises(
        UserError, match=r"^unit 0 \(hf://.*c.parquet\) failed after all retries \(Connection.*peer\)"
    ):
        prepare_unit(0, math.inf)


def test_conversations_are_not_truncated_and_end_the_budget(tokenizer: Tokenizer) -> None:
    rows = [(row, "row") for row in INSTRUCTIONS[:3]]
    documents = [("train", document) for document in row_documents(rows, "instruct", tokenizer)]
    first, second, _ = (document.num_tokens for _, document in documents)
    budget = TokenBudget(first + second - 1)
    assert lengths(budget, documents, tokenizer) == [first] and budget.remaining == 0


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes this process the worker for a file: path -> folder of its shards."""
    monkeypatch.setattr(worker, "_end_with_main", lambda: None)
    monkeypatch.setattr(worker, "_worker", None)

    def call(path: Path) -> Path:
        tokenizer = load_tokenizer("bytes")
        units = join_units(local_ranges([str(path)], 1 << 20))
        config = PrepConfig("text", "", {}, {}, 0.1, None, units)
        folder = tmp_path / "shards"
        folder.mkdir()
        start_worker(folder, config, tokenizer, WORKERS.Value("q", 0))
        return folder

    return call


def test_a_unit_prepared_twice_has_the_same_files(start, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, ""]))
    folder = start(path)
    entry = prepare_unit(0, math.inf)
    before = files(folder)
    assert sum(shard["tokens"] for shard in entry["shards"].values()) == sum(len(text) + 1 for text in TEXTS)
    assert entry["left_out"] == {"nothing to learn": 1} and not entry["full"] and len(before) == 5
    assert worker._worker.counter.value == sum(len(text) + 1 for text in TEXTS)

    limited = prepare_unit(0, 1_000)
    assert limited["full"] and sum(shard["tokens"] for shard in limited["shards"].values()) == 1_000
    assert prepare_unit(0, math.inf) == entry and files(folder) == before


def test_a_file_that_vanishes_is_named(start, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "some"}) + "\n")
    start(path)
    path.unlink()
    with pytest.raises(
        UserError, match=r"unit 0 \(.*rows.jsonl\) cannot be read .*FileNotFoundError.* to resume"
    ):
        prepare_unit(0, math.inf)
