"""Rows and texts of files: bad input is named with file and row."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_hub import texts
from examples import parquet

from dataprep.ranges import local_ranges
from runtime.errors import UserError

BAD = {
    "not json": (b'{"text": "a"\n', "is not JSON"),
    "too deep": (b"[" * 100_000 + b"\n", "is not JSON"),
    "not utf-8": (b'{"text": "\xff"}\n', "is not JSON"),
    "array": (b'["text"]\n', "is a list, not an object with a column 'text'"),
    "null row": (b"null\n", "is a NoneType, not an object"),
    "missing": (b'{"body": "a", "id": 1}\n', "has no column 'text'; it has 'body', 'id'"),
    "empty row": (b"{}\n", "has no column 'text'; it has none"),
    "null": (b'{"text": null}\n', "column 'text' holds None, not text"),
    "number": (b'{"text": 3}\n', "column 'text' holds 3, not text"),
    "surrogate": (b'{"text": "\\ud800"}\n', "half a surrogate pair"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("target", [10, 10_000])
def test_a_bad_line_is_named(tmp_path: Path, bad: str, target: int) -> None:
    line, complaint = BAD[bad]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' * 10 + line + b'{"text": "b"}\n' * 5)
    with pytest.raises(UserError) as error:
        texts(local_ranges([str(path)], target))
    assert str(error.value).startswith(f"{path} row 21") and complaint in str(error.value)


def test_a_bad_row_of_an_array_or_of_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"text": []}]')
    (tmp_path / "a.parquet").write_bytes(parquet(["a"] * 25 + [None] + ["a"] * 10))
    for name, row in (("a.json", 2), ("a.parquet", 26)):
        ranges = local_ranges([str(tmp_path / name)], 1)
        with pytest.raises(UserError, match=rf"{name} row {row}: column 'text' holds"):
            texts(ranges)


def test_parquet_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    wrong = pa.Array.from_buffers(pa.string(), 301, pa.array([b"a"] * 300 + [b"\xff"]).buffers())
    pq.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet rows 257 to 301: text that is not UTF-8"):
        texts(local_ranges([str(tmp_path / "a.parquet")], 1 << 20))


def test_unusable_files_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None, words: str) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            texts(local_ranges([str(path)], 1 << 20))

    refused("none.txt", None, "no such file: .*none.txt")
    refused("empty.txt", b"", "empty.txt is empty")
    refused("a.csv", b"a", "must end in .json, .jsonl, .parquet, .txt")
    refused("latin.txt", b"caf\xe9 au lait", r"latin.txt is not UTF-8 text \(byte 3\)")
    refused("a.json", b'{"text": "a"}', "must hold an array of rows, not a dict")
    refused("b.json", b'{"text": "a"}\n{"text": "b"}', r"b.json is not JSON.*must end in .jsonl")
    refused("a.parquet", b"not Parquet at all", "a.parquet is not a complete Parquet file")
    refused("cut.parquet", parquet(["a"] * 100)[:-20], "cut.parquet is not a complete Parquet file")
    refused("column.parquet", parquet(["a"], "body"), "has no column text; it has id, body")
