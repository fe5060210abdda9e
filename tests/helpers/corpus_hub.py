"""A hub on this machine that serves one small corpus, for tests of reading from the hub."""

import time
from collections.abc import Iterator

import huggingface_hub
import pytest
from examples import parquet
from hub import REVISION, Hub

from dataprep import conversations, documents, sources
from dataprep.sources import HubDataset, hub_spans
from runtime import hub as runtime_hub


def texts(spans: list[sources.Span]) -> list[str]:
    return [text for span in spans for text, _ in text_documents(span)]


def text_documents(span: sources.Span) -> Iterator[tuple[str, bool]]:
    """What data.py makes documents of: the texts of .txt files, the column `text` of rows."""
    if span.form in ("txt", "part"):
        return documents.texts(span)
    return ((conversations.text(row, "text", where), True) for row, where in sources.rows(span, ("text",)))


ROWS = [f"document {n} " + "words " * 500 for n in range(100)]
DATASET = HubDataset("owner/corpus", {"train": "data/train-*.parquet", "val": "data/val-*.parquet"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a dataset of two training files and one for validation; waiting takes no time."""
    files = {
        "README.md": b"",
        "data/train-1.parquet": parquet(ROWS[40:80]),
        "data/val-0.parquet": parquet(ROWS[80:]),
        "data/train-0.parquet": parquet(ROWS[:40]),
        "other/train-2.parquet": parquet(["other"]),
    }
    naps: list[float] = []
    with Hub({DATASET.repo: files}) as hub:
        hub.naps = naps
        runtime_hub.hub_filesystem.cache_clear()
        sources._footer.cache_clear()
        huggingface_hub.HfFileSystem.clear_instance_cache()
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        monkeypatch.setattr(runtime_hub, "TIME_LIMIT", 0.3)
        waiting = time.sleep  # the server needs it still
        monkeypatch.setattr(runtime_hub.time, "sleep", lambda seconds: naps.append(seconds) or waiting(0))
        yield hub
    runtime_hub.hub_filesystem.cache_clear()


def read(split: str | None = None) -> list[str]:
    spans, revision = hub_spans(DATASET, 1, None)
    assert revision == REVISION and len(spans) == 10
    return texts([span for span in spans if split in (None, span.split)])


FAULTS = {
    "503 on the info": ("/api/datasets/owner/corpus", {"times": 2, "status": 503}),
    "503 on the list": ("/tree/", {"times": 2, "status": 503}),
    "503 on files": ("/resolve/", {"times": 2, "status": 503}),
    "a cut": ("/resolve/", {"times": 2, "cut": 100}),
    "no answer of the hub's": ("/api/datasets/owner/corpus", {"status": 200}),
    "a short info": ("/api/datasets/owner/corpus", {"cut": 5}),
    "silence at the info": ("/api/datasets/owner/corpus", {"stall": 0.8}),
    "silence at the list": ("/tree/", {"stall": 0.8}),
    "silence at a file": ("/resolve/", {"stall": 0.8}),
}
