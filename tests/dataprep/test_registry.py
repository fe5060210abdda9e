"""Named datasets and settings of preparing: stable on disk, units of one split, and sizes within bounds."""

import hashlib
import json
from pathlib import Path

import pytest

from dataprep import registry
from dataprep.inputs import InputFile
from dataprep.ranges import FileRange
from dataprep.registry import PrepConfig, file_source, join_units, story_rows, story_sources, unit_bytes
from runtime.errors import UserError
from stories.examples import text_at


def test_units_are_a_hundredth_within_bounds() -> None:
    assert [unit_bytes(size) for size in (0, 1 << 30, 1 << 40)] == [1 << 20, (1 << 30) // 100, 32 << 20]


def test_units_join_neighbours_of_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "unit_bytes", lambda total: 10)
    sizes = [("train", 4), ("train", 6), ("train", 1), ("val", 2), ("val", 30), ("train", 1)]
    ranges = [FileRange("a", "jsonl", n, n + 1, size, split) for n, (split, size) in enumerate(sizes)]
    assert [[file_range.start for file_range in unit] for unit in join_units(ranges)] == [
        [0, 1],
        [2],
        [3],
        [4],
        [5],
    ]


def test_the_config_has_its_names_of_disk() -> None:
    ranges = [FileRange("a.txt", "part", 0, 9, 9, document="d")]
    config = PrepConfig("text", "template", {"name": "bytes"}, {"files": []}, 0.1, None, [ranges])
    unit = {
        "path": "a.txt",
        "form": "part",
        "start": 0,
        "stop": 9,
        "bytes": 9,
        "split": None,
        "document": "d",
    }
    assert json.dumps(config.to_json()) == json.dumps(
        {
            "kind": "text",
            "template": "template",
            "tokenizer": {"name": "bytes"},
            "source": {"files": []},
            "val_fraction": 0.1,
            "max_tokens": None,
            "rows": {"rename": [], "ignore": [], "skip_bad_rows": False},
            "units": [[unit]],
        }
    )


def test_the_story_world_is_cut_into_all_its_rows() -> None:
    for source in story_sources(seed=1):
        story_set = registry.STORIES[source.name]
        assert source.provenance["generator"] == "story_world.py" and source.kind == story_set.kind
        for split, count in story_set.rows.items():
            starts = [(each.start, each.stop) for each in source.ranges if each.split == split]
            assert [start for start, _ in starts] == [0, *(stop for _, stop in starts[:-1])]
            assert starts[-1][1] == count


def test_story_rows_are_named_by_their_number() -> None:
    file_range = FileRange("story world", "stories", 3, 5, 0, "val")
    assert list(story_rows(file_range, 7)) == [
        ({"text": text_at("val", n, 7)}, f"stories row {n + 1}") for n in (3, 4)
    ]


def test_a_source_of_files_lists_them(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some words")
    source = file_source("mine", "text", [InputFile(str(path), str(path))])
    (entry,) = source.provenance["files"]
    assert entry == {"path": str(path), "bytes": 10, "sha256": hashlib.sha256(b"some words").hexdigest()}
    with pytest.raises(UserError, match="a .txt file has no rows of kind instruct: give .jsonl, "):
        file_source("mine", "instruct", [InputFile(str(path), str(path))])
