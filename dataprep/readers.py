"""Texts and rows of a range of a file."""

import json
from collections.abc import Iterator

import pyarrow.parquet as pq

from dataprep.files import open_binary, parquet_footer
from dataprep.ranges import FileRange
from runtime.errors import UserError

ROWS_AT_ONCE = 256  # rows of a Parquet file in memory
LINE_COUNT_BYTES = 1 << 20  # read at once to count lines


def read_text(file_range: FileRange) -> tuple[str, bool]:
    """Return the text of a range of a .txt file, and True if the file ends with it.

    Raises UserError for a file that is not UTF-8.
    """
    with open(file_range.path, "rb") as file:
        file.seek(file_range.start)
        data = file.read(file_range.stop - file_range.start)
        is_at_end = not file.read(1)
    try:
        return data.decode("utf-8"), is_at_end
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file_range.path} is not UTF-8 text (byte {file_range.start + error.start}): convert it first"
        ) from None


def iter_rows(file_range: FileRange, columns: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    """Yield (row, its name in error messages) of a range; of a Parquet file, only these columns are read.

    Raises UserError with file and row for an unreadable row.
    """
    readers = {"jsonl": _jsonl_rows, "json": _json_rows, "parquet": _parquet_rows}
    yield from readers[file_range.format](file_range, columns)


def _jsonl_rows(file_range: FileRange, _: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    with open(file_range.path, "rb") as file:
        file.seek(file_range.start)
        while (position := file.tell()) < file_range.stop:
            line = file.readline()
            if not line.strip():
                continue

            name = _LineName(file_range.path, position)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{name} is not JSON: {error}") from None
            yield row, name


class _LineName:
    """Name of a line in error messages; the lines before it are counted only when it is printed."""

    def __init__(self, path: str, position: int):
        self.path = path
        self.position = position

    def __str__(self) -> str:
        number = 1
        with open(self.path, "rb") as file:
            while block := file.read(min(LINE_COUNT_BYTES, self.position - file.tell())):
                number += block.count(b"\n")
        return f"{self.path} row {number}"


def _json_rows(file_range: FileRange, _: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    path = file_range.path
    with open_binary(path) as file:
        content = file.read()
    if len(content) != file_range.bytes:
        # The download was cut short: a fault that may pass, not a broken file.
        raise ConnectionError(f"{len(content)} of {file_range.bytes} bytes came")

    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON: {error} (a file with one object on each line must end in .jsonl)"
        ) from None
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold an array of rows, not a {type(rows).__name__}")

    for number, row in enumerate(rows, 1):
        yield row, f"{path} row {number}"


def _parquet_rows(file_range: FileRange, columns: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    path = file_range.path
    footer = parquet_footer(path)
    number = sum(footer.row_group(group).num_rows for group in range(file_range.start))

    names = footer.schema.to_arrow_schema().names
    wanted = [name for name in names if name in columns]
    if not wanted:
        raise UserError(f"{path} has no column {' or '.join(columns)}; it has {', '.join(names)}")

    with open_binary(path) as file:
        parquet = pq.ParquetFile(file, metadata=footer, pre_buffer=False, page_checksum_verification=True)
        row_groups = range(file_range.start, file_range.stop)
        for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=row_groups, columns=wanted):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} rows {number + 1} to {number + len(batch)}: text that is not UTF-8 ({error})"
                ) from None
            for row in rows:
                number += 1
                yield row, f"{path} row {number}"
