"""Rows of local text, JSONL, JSON and Parquet files, and of files on the Hugging Face hub.

A source is cut into ranges that can be read independently, in parallel and again after a failure: byte ranges of text
and JSONL files, row groups of Parquet files. Of a file on the hub only the bytes of a range are downloaded.
"""

import functools
import json
import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq

from config import EOS
from runtime.errors import UserError
from runtime.hub import READ_ERRORS, hub_errors, hub_filesystem, retry, short_error

HUB_PREFIX = "hf://"  # of the path of a file on the hub
SEPARATOR = EOS.encode()
WHITESPACE = re.compile(rb"\s")
MAX_CHARACTER_BYTES = 4  # of a character in UTF-8
ROWS_AT_ONCE = 256  # rows of a Parquet file in memory
LINE_COUNT_BYTES = 1 << 20  # read at once to count lines


@dataclass(frozen=True)
class FileRange:
    """Part of one file that is read on its own: bytes, row groups or rows start .. stop.

    format is jsonl, json, parquet, txt (documents between separators), part (a piece of a file that is one document)
    or a dataset of the story world. `split` is None where documents are held out by hash.
    """

    path: str
    format: str
    start: int
    stop: int
    bytes: int
    split: str | None = None
    is_single_document: bool = False  # the file is one document, cut into several ranges

    def to_json(self) -> dict:
        """Return the range as plan.json stores it."""
        return {
            "path": self.path,
            "form": self.format,
            "start": self.start,
            "stop": self.stop,
            "bytes": self.bytes,
            "split": self.split,
            "whole": not self.is_single_document,
        }


@dataclass(frozen=True)
class HubDataset:
    """Dataset on the hub: its repository, and the files of each split (None: documents are held out by hash)."""

    repo: str
    files: dict[str | None, str]
    kind: str = "text"


# --- local files -----------------------------------------------------------------------------------------------------


def local_ranges(paths: list[str], target: int) -> list[FileRange]:
    """Cut local files into ranges of about `target` bytes, in order. Raises UserError for an unusable file."""
    ranges = []
    for path in paths:
        build_ranges = RANGE_BUILDERS.get(Path(path).suffix.lower())
        if not Path(path).is_file():
            raise UserError(f"no such file: {path}")
        if build_ranges is None:
            raise UserError(f"{path}: a file must end in {', '.join(sorted(RANGE_BUILDERS))}")
        if Path(path).stat().st_size == 0:
            raise UserError(f"{path} is empty")

        try:
            ranges += build_ranges(path, target)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} is not a complete Parquet file: {short_error(error)}") from None
    return ranges


def _text_ranges(path: str, target: int) -> list[FileRange]:
    """Cut after document separators, or, in a file without separators, inside its one document."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        has_separators = data.find(SEPARATOR) >= 0
        next_cut = _after_separator if has_separators else _before_whitespace

        cuts = [0]
        while cuts[-1] < len(data):
            cuts.append(next_cut(data, cuts[-1] + target))

    return [
        FileRange(
            path,
            "txt" if has_separators else "part",
            start,
            stop,
            stop - start,
            is_single_document=not has_separators and len(cuts) > 2,
        )
        for start, stop in zip(cuts, cuts[1:], strict=False)
    ]


def _after_separator(data: mmap.mmap, position: int) -> int:
    """Return the position after the next document separator, or the end."""
    separator = data.find(SEPARATOR, position)
    if separator < 0:
        return len(data)
    return separator + len(SEPARATOR)


def _before_whitespace(data: mmap.mmap, position: int) -> int:
    """Return the next position where whitespace follows another character, or the end.

    The pre-tokenizer of our tokenizers cuts there whatever follows, so the pieces have the tokens of the full text.
    """
    for match in WHITESPACE.finditer(data, position):
        before = data[max(0, match.start() - MAX_CHARACTER_BYTES) : match.start()].decode("utf-8", "ignore")
        if before and not before[-1].isspace():
            return match.start()
    return len(data)


def _line_ranges(path: str, target: int) -> list[FileRange]:
    """Cut a JSONL file after line ends."""
    size = Path(path).stat().st_size
    cuts = [0]
    with open(path, "rb") as file:
        while cuts[-1] < size:
            file.seek(min(cuts[-1] + target, size))
            file.readline()
            cuts.append(file.tell())
    return [
        FileRange(path, "jsonl", start, stop, stop - start)
        for start, stop in zip(cuts, cuts[1:], strict=False)
    ]


def _json_range(path: str, target: int) -> list[FileRange]:
    """Return one range, since a JSON array must be parsed as one."""
    if path.startswith(HUB_PREFIX):
        size = hub_filesystem().info(path)["size"]
    else:
        size = Path(path).stat().st_size
    return [FileRange(path, "json", 0, 0, size)]


def _parquet_ranges(path: str, target: int) -> list[FileRange]:
    """Join row groups up to the target size, by their uncompressed bytes."""
    ranges: list[FileRange] = []
    footer = _footer(path)
    for group in range(footer.num_row_groups):
        size = footer.row_group(group).total_byte_size
        if ranges and ranges[-1].bytes + size <= target:
            ranges[-1] = replace(ranges[-1], stop=group + 1, bytes=ranges[-1].bytes + size)
        else:
            ranges.append(FileRange(path, "parquet", group, group + 1, size))
    return ranges


RANGE_BUILDERS: dict[str, Callable[[str, int], list[FileRange]]] = {
    ".txt": _text_ranges,
    ".jsonl": _line_ranges,
    ".json": _json_range,
    ".parquet": _parquet_ranges,
}


# --- the hub ---------------------------------------------------------------------------------------------------------


def hub_ranges(dataset: HubDataset, target: int, revision: str | None) -> tuple[list[FileRange], str]:
    """Return the ranges of a dataset on the hub and its revision (None as argument: the newest).

    Raises UserError when the hub refuses or fails.
    """
    repo = dataset.repo
    try:
        with hub_errors(f"datasets/{repo}"):
            info = retry(lambda: huggingface_hub.HfApi().dataset_info(repo, revision=revision), repo)
            ranges = [
                replace(file_range, split=split)
                for split, pattern in dataset.files.items()
                for path in _hub_files(repo, info.sha, pattern)
                for file_range in _hub_file_ranges(path, target)
            ]
            return ranges, info.sha
    except READ_ERRORS as error:  # no error of the hub's own, so an answer that was cut short
        raise UserError(
            f"the hub sent no complete answer about {repo} ({short_error(error)}): rerun later"
        ) from None


def _hub_files(repo: str, revision: str, pattern: str) -> list[str]:
    """Return the hf:// paths of the files that match a pattern, in order. Raises UserError if there is none."""
    names = retry(lambda: hub_filesystem().glob(f"datasets/{repo}@{revision}/{pattern}"), repo)
    if not names:
        raise UserError(f"{repo} on the hub holds no {pattern} any more")
    return [HUB_PREFIX + name for name in sorted(names)]


def _hub_file_ranges(path: str, target: int) -> list[FileRange]:
    """Return the ranges of one file on the hub. Raises UserError if it is damaged there."""
    build_ranges = RANGE_BUILDERS[Path(path).suffix]
    try:
        return retry(lambda: build_ranges(path, target), path)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} on the hub is not a complete Parquet file ({short_error(error)}): rerun later"
        ) from None


def _open(path: str) -> BinaryIO:
    """Open a local file or one on the hub (hf://datasets/...); of the latter only the bytes read are downloaded."""
    if path.startswith(HUB_PREFIX):
        return hub_filesystem().open(path, "rb", cache_type="none")
    return open(path, "rb")


@functools.lru_cache(maxsize=2)  # the large files of the hub have footers of megabytes, and many ranges each
def _footer(path: str) -> pq.FileMetaData:
    with _open(path) as file:
        return pq.read_metadata(file)


# --- rows ------------------------------------------------------------------------------------------------------------


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
    with _open(path) as file:
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
    footer = _footer(path)
    number = sum(footer.row_group(group).num_rows for group in range(file_range.start))

    names = footer.schema.to_arrow_schema().names
    wanted = [name for name in names if name in columns]
    if not wanted:
        raise UserError(f"{path} has no column {' or '.join(columns)}; it has {', '.join(names)}")

    with _open(path) as file:
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
