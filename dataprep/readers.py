"""Texts and rows of a range of a file."""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from config import EOS
from dataprep.files import (
    HUB_PREFIX,
    arrow_batches,
    local_path,
    not_utf8,
    open_arrow,
    open_binary,
    open_text,
    parquet_footer,
    split_ending,
)
from dataprep.json_stream import iter_values
from dataprep.ranges import FileRange
from dataprep.turns import BadRow
from runtime.errors import UserError
from runtime.hub import short_error

ROWS_AT_ONCE = 256  # rows of a Parquet or Arrow file in memory
LINE_COUNT_BYTES = 1 << 20  # read at once to count lines
PIECE_CHARACTERS = 1 << 20  # of a compressed document in memory
MAX_FIELD_CHARACTERS = 1 << 30  # of a CSV file; the library's own limit is 128 KB
BOM = "\ufeff"
LAST_CUT = re.compile(
    r".*\S(?=\s)", re.DOTALL
)  # up to the last place where white space follows another character

Rows = Iterator[tuple[object, object]]
Columns = tuple[str, ...] | None  # of a table; None: all


# --- texts -----------------------------------------------------------------------------------------------------------


def iter_texts(file_range: FileRange) -> Iterator[tuple[str, bool]]:
    r"""Yield (text, is_complete) of a range of a text file; of a document in pieces only the last one is complete.

    Line ends become \n, and a byte order mark is dropped. Raises UserError for a file that is not UTF-8.
    """
    if split_ending(file_range.path)[1]:
        texts = _compressed_pieces(file_range)
    else:
        texts = iter([_read_text(file_range)])
    if file_range.format == "part":
        yield from texts
        return

    for document in _between_separators(text for text, _ in texts):
        if document.strip():
            yield document.strip(), True


def _read_text(file_range: FileRange) -> tuple[str, bool]:
    """Return the text of a byte range, and True if the file ends with it."""
    with open(local_path(file_range.path), "rb") as file:
        file.seek(file_range.start)
        data = file.read(file_range.stop - file_range.start)
        is_at_end = not file.read(1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(file_range.path, file_range.start + error.start) from None

    if file_range.start == 0:
        text = text.removeprefix(BOM)
    if "\r" in text:
        # No range begins between the two: cuts are before white space that follows another character, or after a
        # separator.
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text, is_at_end


def _compressed_pieces(file_range: FileRange) -> Iterator[tuple[str, bool]]:
    """Yield a compressed text in pieces, cut before white space, and True with the last one."""
    text = ""
    with open_text(file_range.path) as file:
        try:
            while block := file.read(PIECE_CHARACTERS):
                text += block
                if cut := LAST_CUT.match(text, max(0, len(text) - len(block) - 1)):
                    yield text[: cut.end()], False
                    text = text[cut.end() :]
        except UnicodeDecodeError:
            raise not_utf8(file_range.path) from None
    yield text, True


def _between_separators(pieces: Iterator[str]) -> Iterator[str]:
    """Yield the documents of a text that comes in pieces."""
    pending: list[str] = []  # pieces of the document that has begun
    for piece in pieces:
        # A separator holds no white space, so no piece ends inside one.
        first, *others = piece.split(EOS)
        pending.append(first)
        for document in others:
            yield "".join(pending)
            pending = [document]
    yield "".join(pending)


# --- rows ------------------------------------------------------------------------------------------------------------


def iter_rows(file_range: FileRange, columns: Columns) -> Rows:
    """Yield (row, its name in error messages) of a range; of a table, only these columns are read (None: all).

    A line that cannot be read is a BadRow. Raises UserError with file and row where the rows after it are lost, too.
    """
    readers: dict[str, Callable[[FileRange, Columns], Rows]] = {
        "jsonl": _jsonl_rows,
        "json": _json_rows,
        "parquet": _parquet_rows,
        "arrow": _arrow_rows,
        "csv": _table_rows,
        "tsv": _table_rows,
    }
    yield from readers[file_range.format](file_range, columns)


def _jsonl_rows(file_range: FileRange, _: Columns) -> Rows:
    is_compressed = split_ending(file_range.path)[1]
    with open_binary(file_range.path) as file:
        position = file_range.start
        if position:
            file.seek(position)
        while is_compressed or position < file_range.stop:
            line = file.readline()
            if not line:
                return
            name = _LineName(file_range.path, position)
            position += len(line)
            if not line.strip():
                continue

            try:
                row = json.loads(line)
            except UnicodeDecodeError:
                row = BadRow(f"{name}: {not_utf8(file_range.path)}")
            except (ValueError, RecursionError) as error:
                row = BadRow(f"{name} is not JSON: {error}")
            yield row, name


class _LineName:
    """Name of a line in error messages; the lines before it are counted only when it is printed."""

    def __init__(self, path: str, position: int):
        self.path = path
        self.position = position

    def __str__(self) -> str:
        number = 1
        left = self.position
        with open_binary(self.path) as file:
            while block := file.read(min(LINE_COUNT_BYTES, left)):
                number += block.count(b"\n")
                left -= len(block)
        return f"{self.path} row {number}"


def _json_rows(file_range: FileRange, _: Columns) -> Rows:
    path = file_range.path
    is_on_hub = path.startswith(HUB_PREFIX) and path.endswith(".json")
    with _downloaded(file_range) if is_on_hub else open_text(path) as file:
        try:
            for number, row in enumerate(iter_values(file, path), 1):
                yield row, f"{path} row {number}"
        except UnicodeDecodeError:
            raise not_utf8(path) from None


def _downloaded(file_range: FileRange) -> TextIO:
    """Return a file of the hub. Raises ConnectionError if it was cut short: a fault that may pass."""
    with open_binary(file_range.path) as file:
        content = file.read()
    if len(content) != file_range.bytes:
        raise ConnectionError(f"{len(content)} of {file_range.bytes} bytes came")
    return io.StringIO(content.decode("utf-8-sig"))


def _table_rows(file_range: FileRange, columns: Columns) -> Rows:
    path = file_range.path
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    delimiter = "\t" if file_range.format == "tsv" else ","
    with open_text(path) as file:
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        number = 0
        try:
            names = next(lines, [])
            _wanted_columns(names, columns, path)
            for number, fields in enumerate(filter(None, lines), 1):
                if len(fields) != len(names):
                    yield (
                        BadRow(
                            f"{path} row {number} has {len(fields)} fields, but the first line {len(names)}"
                        ),
                        path,
                    )
                    continue
                yield dict(zip(names, fields, strict=True)), f"{path} row {number}"
        except csv.Error as error:
            raise UserError(f"{path} row {number + 1} is not {file_range.format.upper()}: {error}") from None
        except UnicodeDecodeError:
            raise not_utf8(path) from None


def _wanted_columns(names: list[str], columns: Columns, path: str) -> list[str]:
    """Return the columns of a table that are read. Raises UserError if there is none."""
    if columns is None:
        return names
    wanted = [name for name in names if name in columns]
    if not wanted:
        raise UserError(
            f"{path} has no column {' or '.join(columns)}; it has {', '.join(names) or 'none'}: "
            f"--rename COLUMN={columns[0]} says which to read"
        )
    return wanted


def _parquet_rows(file_range: FileRange, columns: Columns) -> Rows:
    path = file_range.path
    footer = parquet_footer(path)
    first = sum(footer.row_group(group).num_rows for group in range(file_range.start))
    wanted = _wanted_columns(footer.schema.to_arrow_schema().names, columns, path)

    with open_binary(path) as file:
        parquet = pq.ParquetFile(file, metadata=footer, pre_buffer=False, page_checksum_verification=True)
        row_groups = range(file_range.start, file_range.stop)
        yield from _batch_rows(parquet.iter_batches(ROWS_AT_ONCE, row_groups, wanted), path, first)


def _arrow_rows(file_range: FileRange, columns: Columns) -> Rows:
    path = file_range.path
    with open_arrow(path) as reader:
        wanted = _wanted_columns(reader.schema.names, columns, path)
        batches = arrow_batches(reader)
        first = sum(batch.num_rows for batch in itertools.islice(batches, file_range.start))
        chosen = itertools.islice(batches, file_range.stop - file_range.start)
        slices = (
            batch.select(wanted).slice(start, ROWS_AT_ONCE)
            for batch in chosen
            for start in range(0, batch.num_rows, ROWS_AT_ONCE)
        )
        yield from _batch_rows(slices, path, first)


def _batch_rows(batches: Iterator[pa.RecordBatch], path: str, number: int) -> Rows:
    """Yield the rows of batches; `number` rows of the file come before them."""
    for batch in batches:
        try:
            batch.validate(full=True)  # offsets of a damaged file point anywhere in memory
            rows = batch.to_pylist()
        except (ValueError, OverflowError, LookupError, TypeError) as error:
            fault = "text that is not UTF-8" if "UTF8" in str(error) else "values that cannot be read"
            raise UserError(
                f"{path} rows {number + 1} to {number + len(batch)}: {fault} ({short_error(error)})"
            ) from None
        for row in rows:
            number += 1
            yield row, f"{path} row {number}"
