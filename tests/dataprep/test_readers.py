"""Rows and texts of files: bad input is named with file and row."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_hub import texts
from examples import parquet

from config import EOS
from dataprep import readers
from dataprep.ranges import local_ranges
from runtime.errors import UserError
from tokenizer import load_tokenizer

BAD = {
    "not json": (b'{"text": "a"\n', "is not JSON"),
    "too deep": (b"[" * 100_000 + b"\n", "is not JSON"),
    "not utf-8": (b'{"text": "\xff"}\n', "is not UTF-8 text: convert it first"),
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
    refused(
        "latin.txt",
        b"caf\xe9 au lait",
        r"latin.txt is not UTF-8 text \(byte 3\).*iconv -f ISO-8859-1 -t UTF-8 ",
    )
    refused("comma.json", b'[{"text": "a"},\n]', r"comma.json is not JSON: Expecting value \(line 2\)$")
    refused(
        "cut.json",
        b'[{"text": "a"},\n{"text": "b',
        r"is not JSON: Unterminated string starting at \(line 2\)",
    )
    refused("a.parquet", b"not Parquet at all", "a.parquet is not a complete Parquet file")
    refused("a.arrow", b"not Arrow at all", "a.arrow is not a complete Arrow file")
    refused("cut.parquet", parquet(["a"] * 100)[:-20], "cut.parquet is not a complete Parquet file")
    refused("column.parquet", parquet(["a"], "body"), "has no column text; it has id, body")
    refused("column.csv", b"id,body\n1,a\n", "has no column text; it has id, body")
    refused("short.csv", b"id,text\n1,a\n2\n", "short.csv row 2 has 1 fields, but the first line 2")
    refused("quote.csv", b'id,text\n1,"a\n', "quote.csv row 1 is not CSV: unexpected end of data")
    refused("cut.txt.gz", gzip.compress(b"some words " * 1000)[:-20], "cannot read .*cut.txt.gz: ")
    refused("not.jsonl.zst", b'{"text": "a"}', "cannot read .*not.jsonl.zst: ")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt.gz", "a.jsonl.gz"]
)
def test_text_of_another_width_is_named_with_the_command_that_converts_it(
    tmp_path: Path, encoding: str, name: str
) -> None:
    content = '{"text": "some words, as they are"}\n'.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError) as error:
        local_ranges([str(path)], 1 << 20)
    assert f"{path} is UTF-{encoding[4:6]}" in str(error.value) and f"iconv -f UTF-{encoding[4:6]}" in str(
        error.value
    )
    assert f"{path.parent}/a.utf8{path.suffixes[0]}" in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt.gz", "a.jsonl.gz", "a.txt"])
def test_latin_1_is_refused_in_every_format(tmp_path: Path, name: str) -> None:
    content = 'text\n{"text": "café"}'.removeprefix("text\n" if ".csv" not in name else "").encode("latin-1")
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError, match=r"is not UTF-8 text|is not JSON: .*utf-8"):
        texts(local_ranges([str(path)], 1 << 20))


ROWS = ["one, two", 'with "quotes"', "two\nlines", "tab\there", "naïve 你好", " indented\n\n  code"]
TABLE = pa.table({"id": range(len(ROWS)), "text": ROWS})


def table_bytes(delimiter: str) -> bytes:
    """Return the rows as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerows([("id", "text"), *enumerate(ROWS)])
    return file.getvalue().encode()


def arrow_bytes(write: Callable) -> bytes:
    """Return the rows as an .arrow file of one layout, in batches of two."""
    sink = pa.BufferOutputStream()
    with write(sink, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)
    return sink.getvalue().to_pybytes()


def json_bytes(layout: str) -> bytes:
    """Return the rows as JSON of a layout."""
    rows = [{"text": text} for text in ROWS]
    return {
        "lines": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "array": json.dumps(rows, ensure_ascii=False),
        "pretty array": json.dumps(rows, indent=2),
        "pretty rows": "\n".join(json.dumps(row, indent=2) for row in rows),
    }[layout].encode()


CONTENTS = {
    "csv": table_bytes(","),
    "tsv": table_bytes("\t"),
    "parquet": parquet(ROWS),
    "file.arrow": arrow_bytes(pa.ipc.new_file),
    "stream.arrow": arrow_bytes(pa.ipc.new_stream),
    **{
        f"{layout}.{ending}": json_bytes(layout)
        for layout in ("lines", "array", "pretty array", "pretty rows")
        for ending in ("json", "jsonl", "ndjson")
    },
}


@pytest.mark.parametrize("target", [1, 1 << 20])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, target: int) -> None:
    path = tmp_path / f"rows.{name}"
    path.write_bytes(CONTENTS[name])
    assert texts(local_ranges([str(path)], target)) == ROWS


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: pa.compress(data, "zstd", asbytes=True)])
@pytest.mark.parametrize("name", [name for name in CONTENTS if "parquet" not in name and "arrow" not in name])
def test_a_compressed_file_gives_the_same_rows(tmp_path: Path, name: str, compress: Callable) -> None:
    ending = "gz" if compress is gzip.compress else "zst"
    path = tmp_path / f"rows.{name}.{ending}"
    path.write_bytes(compress(CONTENTS[name]))
    (file_range,) = local_ranges([str(path)], 1)
    assert texts([file_range]) == ROWS


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "a.jsonl", "a.json", "a.jsonl.gz", "a.csv"])
def test_line_ends_and_a_byte_order_mark_are_no_text(
    tmp_path: Path, name: str, bom: bytes, line_end: str
) -> None:
    lines = [f"line {n}" for n in range(40)]
    expected = ["\n".join(lines)]
    content = line_end.join(lines)
    if "json" in name:
        expected = lines
        content = line_end.join(json.dumps({"text": line}) for line in lines)
    elif "csv" in name:
        content = f'text{line_end}"{content}"{line_end}'
    data = bom + content.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    for target in (7, 50, 1 << 20):
        read = texts(local_ranges([str(path)], target))
        assert read == expected or (".txt" in name or ".md" in name) and "".join(read) == expected[0]


def test_a_compressed_text_is_read_in_pieces_without_changing_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "First, you know\r\nCaius  Marcius\n\n  is chief enemy. 你好 " * 50
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    (file_range,) = local_ranges([str(path)], 1)
    expected = text.replace("\r\n", "\n")
    encode = load_tokenizer("gpt2").encode
    for size in (1, 10, 100):
        monkeypatch.setattr(readers, "PIECE_CHARACTERS", size)
        pieces = list(readers.iter_texts(file_range))
        assert len(pieces) > 20 and "".join(piece for piece, _ in pieces) == expected
        assert [is_complete for _, is_complete in pieces] == [False] * (len(pieces) - 1) + [True]
        assert [token for piece, _ in pieces for token in encode(piece)] == encode(expected)


@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_separators_divide_a_compressed_text(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PIECE_CHARACTERS", size)
    path = tmp_path / "a.md.gz"
    path.write_bytes(gzip.compress(f"{EOS}\none two\r\n{EOS}\n{EOS}three\n\n3  {EOS} drei\n".encode()))
    assert texts(local_ranges([str(path)], 1)) == ["one two", "three\n\n3", "drei"]


def test_a_bare_list_on_each_line_is_a_row(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for count in (1, 3):
        path = tmp_path / f"{count}.jsonl"
        path.write_text((json.dumps(turns) + "\n") * count)
        (file_range,) = local_ranges([str(path)], 1 << 20)
        assert [row for row, _ in readers.iter_rows(file_range, ("messages",))] == [turns] * count
