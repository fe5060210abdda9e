"""Examples of a unit: what is written is read, and groups are counted."""

import hashlib
from pathlib import Path

import numpy as np

from dataprep.documents import Document
from dataprep.examples import DTYPE, ExampleWriter, group, heavy_groups, read_examples
from dataprep.holdout import key_hash


def test_what_is_written_is_read(tmp_path: Path) -> None:
    writer = ExampleWriter(tmp_path, 7)
    writer.add("train", Document([(np.arange(5), None, 11)], "a", is_complete=False))
    writer.add("val", Document([(np.arange(3), None, 4), (np.arange(2), None, 2)], "b"))
    entry = writer.close(0.5)
    examples = read_examples(tmp_path, entry)
    assert examples.tolist() == [(key_hash("a"), 5, 11, False, False), (key_hash("b"), 5, 6, True, True)]
    assert entry["examples"] == {
        "unit-00007.examples.bin": hashlib.sha256(
            (tmp_path / "unit-00007.examples.bin").read_bytes()
        ).hexdigest()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["unit-00007.examples.bin"]


def test_groups_are_counted_and_large_ones_found() -> None:
    rows = [(5, 10, 0, False, False), (5, 20, 0, False, True), (3, 4, 0, False, True), (5, 1, 0, False, True)]
    examples = np.array(rows, DTYPE)
    groups = group(examples)
    assert (groups.keys.tolist(), groups.tokens.tolist(), groups.documents.tolist()) == (
        [3, 5],
        [4, 31],
        [1, 2],
    )
    assert heavy_groups(examples, 0.5) == [5] and heavy_groups(examples, 0.1) == [3, 5]
    assert heavy_groups(examples[:0], 0.1) == []
