"""Where rows come from: local text, JSONL, JSON and Parquet files, and Parquet files on the Hugging Face hub.

A source is cut into spans that can be read independently, in parallel and again after a failure: byte ranges of text and
JSONL files, row groups of Parquet files (read from the hub by range requests, so nothing is downloaded whole).
"""

import hashlib
import json
import mmap
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import httpx

from config import EOS, UserError

SEPARATOR = EOS.encode()
# Where a document without separators may be cut so that its parts have the tokens of the whole: before a line end
# that follows a printable character, since no pre-tokenizer of ours joins the two.
LINE_CUT = re.compile(rb"[!-~](?=\r?\n)")
NETWORK_ERRORS = (OSError, httpx.HTTPError)  # the hub's errors are one or the other; Parquet raises OSError on a cut file


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
    """A dataset on the hub: its repository and which Parquet files make which split (None: split by hash)."""

    repo: str
    files: dict[str | None, str]


def local_spans(paths: list[str], target: int) -> list[Span]:
    """Spans of about `target` bytes over local files, in order. Raises UserError for a file that cannot be used."""
    spans = []
    for path in paths:
        file = Path(path)
        if not file.is_file():
            raise UserError(f"no such file: {path}")
        if file.stat().st_size == 0:
            raise UserError(f"{path} is empty")
        cut = CUTTERS.get(file.suffix.lower())
        if cut is None:
            raise UserError(f"{path}: a file must end in {', '.join(sorted(CUTTERS))}")
        spans += cut(path, target)
    return spans


def _text_spans(path: str, target: int) -> list[Span]:
    """Cuts at document separators, or inside the one document that a file without separators is."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        separated = data.find(SEPARATOR) >= 0

        def next_cut(position: int) -> int:
            if separated:
                found = data.find(SEPARATOR, position)
                return found + len(SEPARATOR) if found >= 0 else len(data)
            match = LINE_CUT.search(data, position)
            return match.end() if match else len(data)

        cuts = [0]
        while cuts[-1] < len(data):
            cuts.append(next_cut(cuts[-1] + target) if cuts[-1] + target < len(data) else len(data))
    whole = separated or len(cuts) == 2
    return [Span(path, "txt", a, b, b - a, whole=whole) for a, b in zip(cuts, cuts[1:], strict=False)]


def _line_spans(path: str, target: int) -> list[Span]:
    size, cuts = Path(path).stat().st_size, [0]
    with open(path, "rb") as file:
        while cuts[-1] < size:
            file.seek(min(cuts[-1] + target, size))
            file.readline()
            cuts.append(file.tell())
    return [Span(path, "jsonl", a, b, b - a) for a, b in zip(cuts, cuts[1:], strict=False)]


def _json_span(path: str, target: int) -> list[Span]:
    return [Span(path, "json", 0, 0, Path(path).stat().st_size)]  # an array must be parsed whole


def _parquet_spans(path: str, target: int) -> list[Span]:
    """Row groups, joined up to the target size by their uncompressed bytes."""
    spans: list[Span] = []
    try:
        with _open(path) as file:
            metadata = pq.ParquetFile(file).metadata
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file: {error}") from None
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if spans and spans[-1].bytes + size <= target:
            last = spans.pop()
            spans.append(Span(path, "parquet", last.start, group + 1, last.bytes + size))
        else:
            spans.append(Span(path, "parquet", group, group + 1, size))
    return spans


CUTTERS: dict[str, Callable[[str, int], list[Span]]] = {
    ".txt": _text_spans, ".jsonl": _line_spans, ".json": _json_span, ".parquet": _parquet_spans}


def hub_spans(dataset: HubDataset, target: int) -> tuple[list[Span], str]:
    """Spans of a dataset on the hub, and the revision that they belong to. Raises UserError when it cannot be had."""
    api = huggingface_hub.HfApi()
    try:
        revision = retrying(lambda: api.dataset_info(dataset.repo).sha, f"{dataset.repo}: dataset info")
        spans = []
        for split, pattern in dataset.files.items():
            names = retrying(lambda p=pattern: huggingface_hub.HfFileSystem().glob(f"datasets/{dataset.repo}@{revision}/{p}"),
                             f"{dataset.repo}: file list")
            if not names:
                raise UserError(f"{dataset.repo} on the hub holds no {pattern} any more")
            for name in sorted(names):
                found = retrying(lambda n=name: _parquet_spans(f"hf://{n}", target), f"{name}: row groups")
                spans += [Span(s.path, s.form, s.start, s.stop, s.bytes, split) for s in found]
    except RepositoryNotFoundError:
        raise UserError(f"{dataset.repo} is not on the hub at {api.endpoint}, or needs a login (hf auth login)") from None
    except NETWORK_ERRORS as error:
        raise UserError(f"the hub at {api.endpoint} cannot be reached ({_short(error)}): try again later; "
                        "what is prepared so far is kept") from None
    return spans, revision


def retrying(action: Callable[[], object], what: str, tries: int = 6, wait: float = 1.0) -> object:
    """The action's result, tried again after 1, 2, 4 ... seconds when the network or the hub stumbles."""
    for attempt in range(tries):
        try:
            return action()
        except NETWORK_ERRORS as error:
            if attempt == tries - 1 or not _passing(error):
                raise
            print(f"{what}: {_short(error)}; trying again in {wait:.0f} s ({attempt + 1} of {tries - 1})", flush=True)
            time.sleep(wait)
            wait *= 2


def _passing(error: Exception) -> bool:
    """Whether a second try may succeed: not after an answer that the request itself is wrong."""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return error.response.status_code in (408, 425, 429) or error.response.status_code >= 500
    return not isinstance(error, (FileNotFoundError, PermissionError))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}" if str(error) else type(error).__name__


def _open(path: str):
    """A local file or one on the hub (hf://datasets/...), for reading bytes."""
    if path.startswith("hf://"):
        return huggingface_hub.HfFileSystem().open(path, "rb", block_size=4 << 20)
    return open(path, "rb")


def text_documents(span: Span) -> Iterator[tuple[str, bool]]:
    """(text, ended) of each document in the span; only the last part of a long one has ended.

    Raises UserError with file and row for a row that is not usable.
    """
    if span.form != "txt":
        for row, where in _rows(span):
            yield _column(row, "text", where), True
        return
    with open(span.path, "rb") as file:
        file.seek(span.start)
        data = file.read(span.stop - span.start)
        at_end = not file.read(1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{span.path} is not UTF-8 text (byte {span.start + error.start}): convert it first") from None
    if span.whole and SEPARATOR in data:
        for document in text.split(EOS):
            if document.strip():
                yield document.strip(), True
    else:
        yield text, at_end


def _rows(span: Span) -> Iterator[tuple[dict, str]]:
    """The rows of a span as dictionaries, with the words that name each row in an error."""
    if span.form == "jsonl":
        yield from _jsonl_rows(span)
    elif span.form == "json":
        yield from _json_rows(span)
    else:
        yield from _parquet_rows(span)


def _jsonl_rows(span: Span) -> Iterator[tuple[dict, str]]:
    with open(span.path, "rb") as file:
        file.seek(span.start)
        while file.tell() < span.stop:
            position, line = file.tell(), file.readline()
            if not line.strip():
                continue
            where = _LineName(span.path, position)
            try:
                yield json.loads(line), where
            except ValueError as error:
                raise UserError(f"{where} is not JSON: {error}") from None


class _LineName:
    """Names a line of a file; counts the lines before it only when somebody asks."""

    def __init__(self, path: str, position: int):
        self.path, self.position = path, position

    def __str__(self) -> str:
        with open(self.path, "rb") as file:
            blocks = iter(lambda: file.read(min(1 << 20, self.position - file.tell())), b"")
            number = 1 + sum(block.count(b"\n") for block in blocks)
        return f"{self.path} row {number}"


def _json_rows(span: Span) -> Iterator[tuple[dict, str]]:
    try:
        rows = json.loads(Path(span.path).read_bytes())
    except ValueError as error:
        raise UserError(f"{span.path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{span.path} must hold an array of rows, not {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        yield row, f"{span.path} row {number}"


def _parquet_rows(span: Span) -> Iterator[tuple[dict, str]]:
    with _open(span.path) as file:
        parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        number = sum(parquet.metadata.row_group(group).num_rows for group in range(span.start))
        wanted = [name for name in parquet.schema_arrow.names if name in COLUMNS]
        if not wanted:
            raise UserError(f"{span.path} has none of the columns {', '.join(COLUMNS)}; it has "
                            f"{', '.join(parquet.schema_arrow.names)}")
        for batch in parquet.iter_batches(256, row_groups=range(span.start, span.stop), columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield row, f"{span.path} row {number}"


COLUMNS = ("text",)


def _column(row: object, name: str, where: object) -> str:
    """A text column of a row. Raises UserError when it is not there or not text."""
    if not isinstance(row, dict):
        raise UserError(f"{where} is a {type(row).__name__}, not an object with a column {name!r}")
    if name not in row:
        raise UserError(f"{where} has no column {name!r}; it has {', '.join(map(repr, row)) or 'none'}")
    if not isinstance(row[name], str):
        raise UserError(f"{where}: column {name!r} holds {json.dumps(row[name])[:40]}, not text")
    return row[name]


def in_validation(text: str, fraction: float) -> bool:
    """Whether a document is for validation: by its hash, so that equal documents are never on both sides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") < fraction * 2**64
