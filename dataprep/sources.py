"""Where rows come from: local text, JSONL, JSON and Parquet files, and Parquet files on the Hugging Face hub.

A source is cut into spans that can be read independently, in parallel and again after a failure: byte ranges of text
and JSONL files, row groups of Parquet files (read from the hub by range requests, so nothing is downloaded whole).
"""

import functools
import hashlib
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
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from config import EOS
from runtime.errors import UserError
from runtime.hub import READ_ERRORS, hub_filesystem, is_retryable, retry, short_error

SEPARATOR = EOS.encode()
WHITESPACE = re.compile(rb"\s")


@dataclass(frozen=True)
class Span:
    """Rows or bytes start .. stop of one file. `split` is None where validation documents are chosen by hash."""

    path: str
    form: str
    start: int
    stop: int
    bytes: int
    split: str | None = None
    whole: bool = True  # False: a part of one long document


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the hub: its repository and which Parquet or JSON files make which split (None: split by hash)."""

    repo: str
    files: dict[str | None, str]
    kind: str = "text"


# --- local files -----------------------------------------------------------------------------------------------------


def local_spans(paths: list[str], target: int) -> list[Span]:
    """Spans of about `target` bytes over local files, in order. Raises UserError for a file that cannot be used."""
    spans = []
    for path in paths:
        cut = CUTTERS.get(Path(path).suffix.lower())
        if not Path(path).is_file():
            raise UserError(f"no such file: {path}")
        if cut is None:
            raise UserError(f"{path}: a file must end in {', '.join(sorted(CUTTERS))}")
        if Path(path).stat().st_size == 0:
            raise UserError(f"{path} is empty")
        try:
            spans += cut(path, target)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} is not a complete Parquet file: {short_error(error)}") from None
    return spans


def _text_spans(path: str, target: int) -> list[Span]:
    """Cuts after document separators, or inside the one document that a file without separators is."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        separated = data.find(SEPARATOR) >= 0
        next_cut = _after_separator if separated else _before_whitespace
        cuts = [0]
        while cuts[-1] < len(data):
            cuts.append(next_cut(data, cuts[-1] + target))
    form, whole = "txt" if separated else "part", separated or len(cuts) == 2
    return [Span(path, form, a, b, b - a, whole=whole) for a, b in zip(cuts, cuts[1:], strict=False)]


def _after_separator(data: mmap.mmap, position: int) -> int:
    found = data.find(SEPARATOR, position)
    return found + len(SEPARATOR) if found >= 0 else len(data)


def _before_whitespace(data: mmap.mmap, position: int) -> int:
    """The next place where whitespace follows another character.

    The pre-tokenizer of our tokenizers cuts there whatever follows, so the parts have the tokens of the whole.
    """
    for match in WHITESPACE.finditer(data, position):
        before = data[max(0, match.start() - 4) : match.start()].decode("utf-8", "ignore")
        if before and not before[-1].isspace():
            return match.start()
    return len(data)


def _line_spans(path: str, target: int) -> list[Span]:
    size, cuts = Path(path).stat().st_size, [0]
    with open(path, "rb") as file:
        while cuts[-1] < size:
            file.seek(min(cuts[-1] + target, size))
            file.readline()
            cuts.append(file.tell())
    return [Span(path, "jsonl", a, b, b - a) for a, b in zip(cuts, cuts[1:], strict=False)]


def _json_span(path: str, target: int) -> list[Span]:
    size = hub_filesystem().info(path)["size"] if path.startswith("hf://") else Path(path).stat().st_size
    return [Span(path, "json", 0, 0, size)]  # an array must be parsed whole


def _parquet_spans(path: str, target: int) -> list[Span]:
    """Row groups, joined up to the target size by their uncompressed bytes."""
    spans: list[Span] = []
    footer = _footer(path)
    for group in range(footer.num_row_groups):
        size = footer.row_group(group).total_byte_size
        if spans and spans[-1].bytes + size <= target:
            spans[-1] = replace(spans[-1], stop=group + 1, bytes=spans[-1].bytes + size)
        else:
            spans.append(Span(path, "parquet", group, group + 1, size))
    return spans


CUTTERS: dict[str, Callable[[str, int], list[Span]]] = {
    ".txt": _text_spans,
    ".jsonl": _line_spans,
    ".json": _json_span,
    ".parquet": _parquet_spans,
}


# --- the hub ---------------------------------------------------------------------------------------------------------


def hub_spans(dataset: HubDataset, target: int, revision: str | None) -> tuple[list[Span], str]:
    """Spans of a dataset on the hub at a revision (None: the newest), and that revision.

    Raises UserError when it cannot be had.
    """
    files, spans, api = hub_filesystem(), [], huggingface_hub.HfApi()
    try:
        revision = retry(lambda: api.dataset_info(dataset.repo, revision=revision), dataset.repo).sha
        for split, pattern in dataset.files.items():
            names = retry(
                lambda p=f"datasets/{dataset.repo}@{revision}/{pattern}": files.glob(p), dataset.repo
            )
            if not names:
                raise UserError(f"{dataset.repo} on the hub holds no {pattern} any more")
            for name in sorted(names):
                cut = CUTTERS[Path(name).suffix]
                found = retry(lambda n=name, cut=cut: cut(f"hf://{n}", target), name)
                spans += [replace(span, split=split) for span in found]
    except GatedRepoError:
        raise UserError(
            f"{dataset.repo} is gated: accept its terms at {files.endpoint}/datasets/{dataset.repo}, "
            "then log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{dataset.repo} is not on the hub at {files.endpoint}, or it is private: "
            "log in with `hf auth login`"
        ) from None
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{name} on the hub is not a complete Parquet file ({short_error(error)}): try again later"
        ) from None
    except READ_ERRORS as error:
        login = "" if is_retryable(error) else "log in with `hf auth login`, or "
        raise UserError(
            f"{dataset.repo} cannot be had from the hub at {files.endpoint} ({short_error(error)}): "
            f"{login}try again later; what is prepared so far is kept"
        ) from None
    return spans, revision


def _open(path: str) -> BinaryIO:
    """A local file or one on the hub (hf://datasets/...), for reading bytes; of the hub's, just what is asked for."""
    return (
        hub_filesystem().open(path, "rb", cache_type="none") if path.startswith("hf://") else open(path, "rb")
    )


@functools.lru_cache(maxsize=2)  # the large files of the hub have footers of megabytes, and many spans each
def _footer(path: str) -> pq.FileMetaData:
    with _open(path) as file:
        return pq.read_metadata(file)


# --- rows ------------------------------------------------------------------------------------------------------------


def plain_text(span: Span) -> tuple[str, bool]:
    """The text of a span of a .txt file, and whether the file ends with it. Raises UserError when it is not UTF-8."""
    with open(span.path, "rb") as file:
        file.seek(span.start)
        data = file.read(span.stop - span.start)
        at_end = not file.read(1)
    try:
        return data.decode("utf-8"), at_end
    except UnicodeDecodeError as error:
        raise UserError(
            f"{span.path} is not UTF-8 text (byte {span.start + error.start}): convert it first"
        ) from None


def rows(span: Span, columns: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    """The rows of a span, each with the words that name it in an error; of a Parquet file, just these columns.

    Raises UserError with file and row for what cannot be read.
    """
    return {"jsonl": _jsonl_rows, "json": _json_rows, "parquet": _parquet_rows}[span.form](span, columns)


def _jsonl_rows(span: Span, _: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    with open(span.path, "rb") as file:
        file.seek(span.start)
        while (position := file.tell()) < span.stop:
            line, where = file.readline(), _LineName(span.path, position)
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{where} is not JSON: {error}") from None
                yield row, where


class _LineName:
    """Names a line of a file; counts the lines before it only when somebody asks."""

    def __init__(self, path: str, position: int):
        self.path, self.position = path, position

    def __str__(self) -> str:
        with open(self.path, "rb") as file:
            blocks = iter(lambda: file.read(min(1 << 20, self.position - file.tell())), b"")
            number = 1 + sum(block.count(b"\n") for block in blocks)
        return f"{self.path} row {number}"


def _json_rows(span: Span, _: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    with _open(span.path) as file:
        content = file.read()
    if len(content) != span.bytes:  # cut off on the way: a fault that passes, not a broken file
        raise ConnectionError(f"{len(content)} of {span.bytes} bytes came")
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{span.path} is not JSON: {error} (a file with one object on each line must end in .jsonl)"
        ) from None
    if not isinstance(rows, list):
        raise UserError(f"{span.path} must hold an array of rows, not a {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        yield row, f"{span.path} row {number}"


def _parquet_rows(span: Span, columns: tuple[str, ...]) -> Iterator[tuple[object, object]]:
    footer = _footer(span.path)
    number = sum(footer.row_group(group).num_rows for group in range(span.start))
    there = footer.schema.to_arrow_schema().names
    wanted = [name for name in there if name in columns]
    if not wanted:
        raise UserError(f"{span.path} has no column {' or '.join(columns)}; it has {', '.join(there)}")
    with _open(span.path) as file:
        parquet = pq.ParquetFile(file, metadata=footer, pre_buffer=False, page_checksum_verification=True)
        for batch in parquet.iter_batches(256, row_groups=range(span.start, span.stop), columns=wanted):
            try:
                found = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{span.path} rows {number + 1} to {number + len(batch)}: text that is not UTF-8 "
                    f"({error})"
                ) from None
            for row in found:
                number += 1
                yield row, f"{span.path} row {number}"


def in_validation(text: str, fraction: float) -> bool:
    """Whether a document is for validation: by its hash, so that equal documents are never on both sides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") < fraction * 2**64
