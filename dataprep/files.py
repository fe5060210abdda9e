"""Files on this machine and on the hub: what their names say, and one way to open them."""

import functools
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import UserError
from runtime.hub import hub_filesystem

HUB_PREFIX = "hf://"  # of the path of a file on the hub
HUB_PATH = re.compile(r"hf://datasets/([^@]+)@([0-9a-f]{40})/(.+)")  # repository, revision, file
REMOTE_ENDINGS = (".parquet", ".json")  # of files on the hub that are read there
TEXT_ENDINGS = (".txt", ".md")
ROW_ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".csv", ".tsv")
TOKEN_ENDINGS = (".ds",)  # token ids, which another program has written (dataprep/token_files.py)
SEEKABLE_ENDINGS = (".parquet", ".arrow")  # files that cannot be read from front to back
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

# Of a damaged Parquet or Arrow file; the last three come from its schema, which may hold any bytes.
TABLE_ERRORS = (pa.ArrowException, UnicodeDecodeError, OverflowError, RecursionError)

UTF8_BOM = b"\xef\xbb\xbf"
# The longer ones first: UTF-32's begins with UTF-16's.
FOREIGN_BOMS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
HEAD_BYTES = 4096  # enough to see an encoding


def split_ending(path: str) -> tuple[str, str]:
    """Return the endings (".jsonl", ".gz") of a path in lower case; "" for a part that is not there."""
    name = Path(path).name.lower()
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    return Path(name.removesuffix(compression)).suffix, compression


def is_readable(path: str) -> bool:
    """Return True if the ending is one that data.py reads."""
    ending, compression = split_ending(path)
    return ending in TEXT_ENDINGS + ROW_ENDINGS or (ending in TOKEN_ENDINGS and not compression)


def local_path(path: str) -> str:
    """Return a path on this machine; a file of the hub is downloaded into the cache of its library, once."""
    if not path.startswith(HUB_PREFIX):
        return path
    repo, revision, name = HUB_PATH.fullmatch(path).groups()
    return huggingface_hub.hf_hub_download(repo, name, repo_type="dataset", revision=revision)


def open_binary(path: str) -> BinaryIO:
    """Open a file, decompressed; of a Parquet or JSON file on the hub only the bytes that are read are downloaded."""
    ending, compression = split_ending(path)
    if path.startswith(HUB_PREFIX) and ending in REMOTE_ENDINGS and not compression:
        return hub_filesystem().open(path, "rb", cache_type="none")
    if not compression:
        return open(local_path(path), "rb")
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(local_path(path)), COMPRESSIONS[compression]))


def open_text(path: str) -> io.TextIOWrapper:
    r"""Open a file as UTF-8 text without its byte order mark; line ends become \n."""
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline=None)


def check_encoding(path: str) -> None:
    """Raise UserError for a text file in UTF-16 or UTF-32, with the command that converts it."""
    with open_binary(path) as file:
        head = file.read(HEAD_BYTES)
    encoding = next((name for bom, name in FOREIGN_BOMS.items() if head.startswith(bom)), None)
    if encoding is None and b"\0" in head:
        # Without a mark: text that is mostly ASCII has a zero in every second byte.
        halves = {"UTF-16LE": head[1::2], "UTF-16BE": head[::2]}
        encoding = next((name for name, half in halves.items() if half.count(0) > 0.4 * len(half)), None)
    if encoding:
        raise UserError(
            f"{path} is {encoding} text, not UTF-8: convert it first: {convert_command(path, encoding)}"
        )


def not_utf8(path: str, position: int | None = None) -> UserError:
    """Return the error for a text that is not UTF-8; position is the byte of the file, if it is known."""
    where = "" if position is None else f" (byte {position})"
    return UserError(
        f"{path} is not UTF-8 text{where}: convert it first, from Latin-1 with: {convert_command(path, 'ISO-8859-1')}"
    )


def convert_command(path: str, encoding: str) -> str:
    """Return the command that converts a file to UTF-8."""
    ending, compression = split_ending(path)
    stem = path[: len(path) - len(ending + compression)]
    new = shlex.quote(f"{stem}.utf8{ending}")
    if not compression:
        return f"iconv -f {encoding} -t UTF-8 {shlex.quote(path)} > {new}"
    return f"{COMPRESSIONS[compression]} -dc {shlex.quote(path)} | iconv -f {encoding} -t UTF-8 > {new}"


@functools.lru_cache(maxsize=2)  # the large files of the hub have footers of megabytes, and many ranges each
def parquet_footer(path: str) -> pq.FileMetaData:
    """Return the footer of a Parquet file."""
    with open_binary(path) as file:
        return pq.read_metadata(file)


def open_arrow(path: str) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """Open an .arrow file of either layout: with an index of its record batches, or a stream of them."""
    source = pa.memory_map(local_path(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def arrow_batches(reader: pa.RecordBatchFileReader | pa.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of an .arrow file, which are read from the disk only where they are used."""
    if isinstance(reader, pa.RecordBatchFileReader):
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        yield from reader
