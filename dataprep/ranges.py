"""Ranges of files that can be read independently, in parallel and again after a failure.

A text or JSONL file is cut into byte ranges, a Parquet file into row groups, an Arrow file into record batches. JSON
that is not one row a line, CSV and compressed files are one range, since they are read from front to back.
"""

import json
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from config import EOS
from dataprep.files import (
    TABLE_ERRORS,
    UTF8_BOM,
    arrow_batches,
    check_encoding,
    open_arrow,
    open_binary,
    parquet_footer,
    split_ending,
)
from dataprep.token_files import read_ends, read_tokens
from runtime.errors import UserError
from runtime.hub import hub_filesystem, short_error
from runtime.os_errors import in_words

SEPARATOR = EOS.encode()
WHITESPACE = re.compile(rb"\s")
MAX_CHARACTER_BYTES = 4  # of a character in UTF-8
SCAN_BYTES = 1 << 20  # read at once of a compressed file, and to see the layout of JSON


@dataclass(frozen=True)
class FileRange:
    """Part of one file that is read on its own: bytes, row groups, record batches, rows or documents start .. stop.

    format is jsonl, json, parquet, arrow, csv, tsv, txt (documents between separators), part (a file that is one
    document, or a piece of it), ds (token ids) or a dataset of the story world. `split` is None where documents are
    held out by hash.
    """

    path: str
    format: str
    start: int
    stop: int
    bytes: int
    split: str | None = None
    document: str | None = None  # name of the one document that is read in several pieces

    @classmethod
    def from_json(cls, stored: dict) -> "FileRange":
        """Return the range that plan.json stores."""
        values = {**stored, "format": stored["form"]}
        return cls(**{field.name: values.get(field.name) for field in fields(cls)})

    def to_json(self) -> dict:
        """Return the range as plan.json stores it."""
        return {
            "path": self.path,
            "form": self.format,
            "start": self.start,
            "stop": self.stop,
            "bytes": self.bytes,
            "split": self.split,
            "document": self.document,
        }


def local_ranges(paths: list[str], target: int) -> list[FileRange]:
    """Cut local files into ranges of about `target` bytes, in order. Raises UserError for an unusable file."""
    ranges: list[FileRange] = []
    for path in paths:
        ending, compression = split_ending(path)
        try:
            if Path(path).stat().st_size == 0:
                raise UserError(f"{path} is empty")
            if ending not in BINARY_ENDINGS:
                check_encoding(path)
            build_ranges = COMPRESSED_BUILDERS if compression else RANGE_BUILDERS
            ranges += build_ranges[ending](path, target)
        except FileNotFoundError:
            raise UserError(f"no such file: {path}") from None
        except OSError as error:
            raise UserError(f"cannot read {in_words(error, path)}") from None
        except TABLE_ERRORS as error:
            name = {".parquet": "Parquet", ".arrow": "Arrow"}.get(ending, "text")
            raise UserError(f"{path} is not a complete {name} file: {short_error(error)}") from None
    return ranges


def _text_ranges(path: str, target: int) -> list[FileRange]:
    """Cut after document separators, or, in a file without separators, inside its one document."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        has_separators = data.find(SEPARATOR) >= 0
        next_cut = _after_separator if has_separators else _before_whitespace

        cuts = [0]
        while cuts[-1] < len(data):
            cuts.append(next_cut(data, cuts[-1] + target))

    name = "txt" if has_separators else "part"
    document = path if name == "part" and len(cuts) > 2 else None
    return [
        FileRange(path, name, start, stop, stop - start, document=document)
        for start, stop in zip(cuts, cuts[1:], strict=False)
    ]


def _compressed_text_range(path: str, target: int) -> list[FileRange]:
    """Return one range: a document that is read in pieces, or several documents."""
    has_separators = False
    size = 0
    tail = b""
    with open_binary(path) as file:
        while block := file.read(SCAN_BYTES):
            has_separators = has_separators or SEPARATOR in tail + block
            tail = block[-len(SEPARATOR) :]
            size += len(block)
    if has_separators:
        return [FileRange(path, "txt", 0, size, size)]
    return [FileRange(path, "part", 0, size, size, document=path)]


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


def _json_ranges(path: str, target: int) -> list[FileRange]:
    """Cut a file of one row a line after line ends; any other JSON is one range."""
    size = Path(path).stat().st_size
    if not _has_row_on_each_line(path):
        return [FileRange(path, "json", 0, size, size)]

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


def _compressed_json_range(path: str, target: int) -> list[FileRange]:
    """Return one range of a compressed file, whose size is that on disk."""
    size = Path(path).stat().st_size
    name = "jsonl" if _has_row_on_each_line(path) else "json"
    return [FileRange(path, name, 0, size, size)]


def _has_row_on_each_line(path: str) -> bool:
    """Return False for JSON of another layout: an array, or rows over several lines.

    The content decides: both layouts exist under the names .json and .jsonl.
    """
    with open_binary(path) as file:
        head = file.read(SCAN_BYTES).removeprefix(UTF8_BOM).lstrip()
    first, line_end, rest = head.partition(b"\n")
    if b"\r" in first.rstrip():
        return False  # lines that end with CR alone are read as values one after the other
    if not line_end and len(head) > SCAN_BYTES // 2:
        return not first.startswith(b"[")  # a line that is longer than what was read

    try:
        row = json.loads(first)
    except json.JSONDecodeError as error:
        return error.pos < len(first.decode("utf-8", "replace").rstrip())  # at the end, the row continues
    except (UnicodeDecodeError, RecursionError):
        return True
    is_only_line = not rest.strip()
    return not (isinstance(row, list) and is_only_line and not _is_conversation(row))


def _is_conversation(row: list) -> bool:
    """Return True for a row that is a bare list of turns, and False for an array of rows."""
    return bool(row) and all(isinstance(turn, dict) and turn.keys() & {"role", "from"} for turn in row)


def _hub_json_range(path: str, target: int) -> list[FileRange]:
    """Return one range of a JSON file on the hub."""
    size = hub_filesystem().info(path)["size"]
    return [FileRange(path, "json", 0, size, size)]


def _table_range(path: str, target: int) -> list[FileRange]:
    """Return one range of a CSV or TSV file: a field may hold line ends, so no cut is safe."""
    size = Path(path).stat().st_size
    return [FileRange(path, split_ending(path)[0].removeprefix("."), 0, size, size)]


def _arrow_ranges(path: str, target: int) -> list[FileRange]:
    """Join record batches up to the target size."""
    ranges: list[FileRange] = []
    with open_arrow(path) as reader:
        _ = reader.schema.names  # which may be no UTF-8
        for number, batch in enumerate(arrow_batches(reader)):
            batch.validate()  # offsets of a damaged file point anywhere in memory
            if ranges and ranges[-1].bytes + batch.nbytes <= target:
                ranges[-1] = replace(ranges[-1], stop=number + 1, bytes=ranges[-1].bytes + batch.nbytes)
            else:
                ranges.append(FileRange(path, "arrow", number, number + 1, batch.nbytes))
    return ranges


def _parquet_ranges(path: str, target: int) -> list[FileRange]:
    """Join row groups up to the target size, by their uncompressed bytes."""
    ranges: list[FileRange] = []
    footer = parquet_footer(path)
    _ = footer.schema.to_arrow_schema().names  # which may be no UTF-8
    for group in range(footer.num_row_groups):
        size = footer.row_group(group).total_byte_size
        if ranges and ranges[-1].bytes + size <= target:
            ranges[-1] = replace(ranges[-1], stop=group + 1, bytes=ranges[-1].bytes + size)
        else:
            ranges.append(FileRange(path, "parquet", group, group + 1, size))
    return ranges


def _token_ranges(path: str, target: int) -> list[FileRange]:
    """Cut between documents."""
    ends = read_ends(path)
    width = read_tokens(path, ends).itemsize
    ranges = []
    start = 0
    while start < len(ends):
        first = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, first + target // width, side="right"))
        stop = max(stop, start + 1)
        ranges.append(FileRange(path, "ds", start, stop, (int(ends[stop - 1]) - first) * width))
        start = stop
    return ranges


Builder = Callable[[str, int], list[FileRange]]
BINARY_ENDINGS = (".parquet", ".arrow", ".ds")
RANGE_BUILDERS: dict[str, Builder] = {
    ".txt": _text_ranges,
    ".md": _text_ranges,
    ".jsonl": _json_ranges,
    ".ndjson": _json_ranges,
    ".json": _json_ranges,
    ".parquet": _parquet_ranges,
    ".arrow": _arrow_ranges,
    ".csv": _table_range,
    ".tsv": _table_range,
    ".ds": _token_ranges,
}
COMPRESSED_BUILDERS: dict[str, Builder] = {
    ".txt": _compressed_text_range,
    ".md": _compressed_text_range,
    ".jsonl": _compressed_json_range,
    ".ndjson": _compressed_json_range,
    ".json": _compressed_json_range,
    ".csv": _table_range,
    ".tsv": _table_range,
}
HUB_BUILDERS: dict[str, Builder] = {".json": _hub_json_range, ".parquet": _parquet_ranges}
