"""Hub on this machine that serves one small corpus, for tests of reading from the hub."""

import time
from collections.abc import Iterator

import huggingface_hub
import pytest
from examples import parquet
from hub import REVISION, Hub

from dataprep import conversations, readers
from dataprep.files import parquet_footer
from dataprep.ranges import FileRange
from dataprep.sources import HubDataset, hub_ranges
from dataprep.turns import BadRow
from runtime import hub as runtime_hub
from runtime import hub_client


def texts(ranges: list[FileRange]) -> list[str]:
    """Return the texts of all ranges."""
    return [text for file_range in ranges for text, _ in text_documents(file_range)]


def text_documents(file_range: FileRange) -> Iterator[tuple[str, bool]]:
    """Yield what data.py makes documents of: the texts of .txt files, the column `text` of rows."""
    if file_range.format in ("txt", "part"):
        yield from readers.iter_texts(file_range)
        return
    for row, row_name in readers.iter_rows(file_range, ("text",)):
        if isinstance(row, BadRow):
            raise row
        yield conversations.text(row, row_name), True


ROWS = [f"document {n} " + "words " * 500 for n in range(100)]
DATASET = HubDataset("owner/corpus", {"train": "data/train-*.parquet", "val": "data/val-*.parquet"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a dataset of two training files and one for validation; waiting takes no time."""
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
        parquet_footer.cache_clear()
        huggingface_hub.HfFileSystem.clear_instance_cache()
        constants = huggingface_hub.constants
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        monkeypatch.setattr(hub_client, "TIME_LIMIT", 0.3)
        waiting = time.sleep  # the server needs it still
        monkeypatch.setattr(runtime_hub.time, "sleep", lambda seconds: naps.append(seconds) or waiting(0))
        yield hub
    runtime_hub.hub_filesystem.cache_clear()


def read(split: str | None = None) -> list[str]:
    """Return the rows of a split of the corpus, or of both."""
    ranges, provenance = hub_ranges(DATASET, 1, None)
    assert provenance == {"revision": REVISION} and len(ranges) == 10
    return texts([file_range for file_range in ranges if split in (None, file_range.split)])


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
