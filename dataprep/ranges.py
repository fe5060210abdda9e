"""Ranges of files that can be read independently, in parallel and again after a failure.

A text or JSONL file is cut into byte ranges, a Parquet file into row groups.
"""

import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from config import EOS
from dataprep.files import HUB_PREFIX, parquet_footer
from runtime.errors import UserError
from runtime.hub import hub_filesystem, short_error

SEPARATOR = EOS.encode()
WHITESPACE = re.compile(rb"\s")
MAX_CHARACTER_BYTES = 4  # of a character in UTF-8


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
    footer = parquet_footer(path)
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
