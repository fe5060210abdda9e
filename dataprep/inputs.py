"""Paths of --files as files: folders, globs and pipes."""

import glob
import hashlib
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dataprep.files import (
    COMPRESSIONS,
    ROW_ENDINGS,
    SEEKABLE_ENDINGS,
    TEXT_ENDINGS,
    TOKEN_ENDINGS,
    UTF8_BOM,
    is_readable,
    open_binary,
    split_ending,
)
from dataprep.token_files import COMPANIONS
from runtime.errors import UserError
from runtime.os_errors import DISK_FULL

STDIN = "-"
PIPE = "pipe"  # name of a pipe, whose path differs from run to run
MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}
COMPRESSED_MAGIC = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
HEAD_BYTES = 4096


@dataclass(frozen=True)
class InputFile:
    """File to read, and its name in meta.json; they differ for a pipe, whose content was copied to `path`."""

    path: str
    name: str


def find_inputs(paths: list[str], kind: str, copy_prefix: Path) -> list[InputFile]:
    """Return the files that --files or --val_files name, in order.

    Pipes, and compressed files that must be read at any position, are copied to files that begin with `copy_prefix`.
    Raises UserError for a path that names no file.
    """
    inputs: list[InputFile] = []
    for path in paths:
        for file in _files_at(path, kind):
            number = len(inputs) + 1
            if file == STDIN or _is_pipe(file):
                inputs.append(_copy_of_pipe(file, f"{copy_prefix}-{number}"))
            elif split_ending(file)[0] in SEEKABLE_ENDINGS and split_ending(file)[1]:
                inputs.append(_decompressed(file, f"{copy_prefix}-{number}"))
            else:
                inputs.append(InputFile(file, file))
    return inputs


def remove_copies(copy_prefix: Path) -> None:
    """Remove the copies that find_inputs made."""
    for path in copy_prefix.parent.iterdir():
        if path.name.startswith(f"{copy_prefix.name}-"):
            path.unlink()


def content_digests(paths: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of each file, read by several threads."""

    def digest(path: str) -> str:
        with open(path, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, pool.map(digest, paths), strict=True))


def _files_at(path: str, kind: str) -> list[str]:
    """Return the files that one path names: itself, all below a folder, or the matches of a glob."""
    if path == STDIN:
        return [path]
    if os.path.isdir(path):
        return _files_below(path, kind)
    if os.path.exists(path):
        return [path]

    matches = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
    if not matches:
        raise UserError(f"no such file or folder: {path}")
    return [
        file for match in matches for file in (_files_below(match, kind) if os.path.isdir(match) else [match])
    ]


def _files_below(folder: str, kind: str) -> list[str]:
    """Return the files below a folder that have rows of this kind, sorted, and say which were left alone."""
    wanted = ROW_ENDINGS + TEXT_ENDINGS + TOKEN_ENDINGS if kind == "text" else ROW_ENDINGS
    chosen: list[str] = []
    others: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            ending = split_ending(name)[0]
            if name.endswith(tuple(token + companion for token in TOKEN_ENDINGS for companion in COMPANIONS)):
                continue  # it is read with the file that it belongs to
            if name.startswith(".") or ending not in wanted:
                others[ending or name] += 1
            elif not os.path.getsize(os.path.join(parent, name)):
                others["empty"] += 1
            else:
                chosen.append(os.path.join(parent, name))

    ignored = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items())[:5])
    if not chosen:
        raise UserError(
            f"{folder} holds no file with rows of kind {kind} ({ignored or 'it is empty'}): "
            f"they end in {', '.join(wanted)}"
        )
    counts = Counter(split_ending(path)[0] for path in chosen)
    taken = ", ".join(f"{count:,} {ending}" for ending, count in sorted(counts.items()))
    print(f"{folder}: {taken}" + (f" (not read: {ignored})" if others else ""))
    return sorted(chosen)


def _is_pipe(path: str) -> bool:
    mode = os.stat(path).st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _copy_of_pipe(path: str, stem: str) -> InputFile:
    """Copy a pipe to a file whose ending says what it holds. Raises UserError for an empty one."""
    if path == STDIN and sys.stdin.isatty():
        raise UserError(
            "--files - reads what is piped in, and nothing is: use cat FILE | python data.py --files - ..."
        )
    temporary = Path(f"{stem}.tmp")
    with temporary.open("wb") as copy:
        if path == STDIN:
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with open(path, "rb") as pipe:
                shutil.copyfileobj(pipe, copy)

    if not temporary.stat().st_size:
        temporary.unlink()
        raise UserError(f"{path}: nothing came through the pipe")
    target = temporary.rename(stem + _ending_of_content(temporary))
    ending, compression = split_ending(target.name)
    if compression and ending in SEEKABLE_ENDINGS:
        copy = _decompressed(str(target), stem)
        target.unlink()
        return InputFile(copy.path, PIPE)
    return InputFile(str(target), PIPE)


def _ending_of_content(path: Path) -> str:
    """Return the ending that suits the content of a file."""
    head = _head(path)
    for magic, compression in COMPRESSED_MAGIC.items():
        if head.startswith(magic):
            named = path.rename(path.with_name(path.name + compression))
            try:
                return _ending_of_text(_head(named)) + compression
            finally:
                named.rename(path)
    return _ending_of_text(head)


def _ending_of_text(head: bytes) -> str:
    for magic, ending in MAGIC.items():
        if head.startswith(magic):
            return ending
    is_json = head.removeprefix(UTF8_BOM).lstrip()[:1] in (b"{", b"[")
    return ".json" if is_json else ".txt"


def _head(path: Path) -> bytes:
    with open_binary(str(path)) as file:
        return file.read(HEAD_BYTES)


def _decompressed(path: str, stem: str) -> InputFile:
    """Decompress a file that must be read at any position. Raises UserError for a damaged one."""
    ending, compression = split_ending(path)
    target = Path(stem + ending)
    try:
        with open_binary(path) as file, target.open("wb") as copy:
            shutil.copyfileobj(file, copy)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise UserError(
            f"{path} cannot be decompressed ({error}): test it with {COMPRESSIONS[compression]} -t"
        ) from None
    return InputFile(str(target), path)


def check_endings(inputs: Iterable[InputFile], kind: str) -> None:
    """Raise UserError for a file whose ending is unknown, or that has no rows of this kind."""
    for file in inputs:
        if not is_readable(file.path):
            endings = ", ".join(TEXT_ENDINGS + ROW_ENDINGS)
            raise UserError(
                f"{file.name}: a file must end in {endings}, each also with .gz or .zst, or in .ds"
            )
        ending = split_ending(file.path)[0]
        if kind != "text" and ending in TEXT_ENDINGS + TOKEN_ENDINGS:
            source = "a pipe of plain text" if file.name == PIPE else f"{file.name}: a {ending} file"
            raise UserError(f"{source} has no rows of kind {kind}: give {', '.join(ROW_ENDINGS)}")
