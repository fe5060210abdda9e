"""Checksums of finished folders: each holds a SHA256SUMS, which is compared with its files before they are used.

`sha256sum -c SHA256SUMS` in the folder gives the same answer.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.files import write_text
from runtime.limits import usable_cores

SUMS = "SHA256SUMS"
VERIFIED_CACHE = ".verified"  # size, time, checksum of the files, and when they were last verified
VERIFIED_SECONDS = 24 * 3600  # for which it counts: a disk that loses a bit changes neither size nor time
LINE = re.compile(r"([0-9a-f]{64})  (.+)")
MAX_THREADS = 8  # more do not read a disk faster


def sha256_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return {name: sha256} of files of a folder, read by several threads; "" for a missing file."""

    def digest(name: str) -> str:
        path = folder / name
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor(max_workers=min(MAX_THREADS, usable_cores())) as pool:
        digests = pool.map(digest, names)
        return dict(zip(names, digests, strict=True))


def write_checksums(folder: Path, known: dict[str, str]) -> None:
    """Write SHA256SUMS, the last file of a folder; files whose checksum is known are not read again.

    A subfolder that has a SHA256SUMS of its own is not included, so it may be removed later.
    """
    sealed = [path.parent for path in folder.glob(f"*/{SUMS}")]
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(subfolder) for subfolder in sealed)
    }

    unknown = names - {*known, SUMS}
    digests = {**sha256_of(folder, unknown), **known}
    lines = [f"{digests[name]}  {name}\n" for name in sorted(digests)]
    write_text(folder / SUMS, "".join(lines))


def read_checksums(folder: Path) -> dict[str, str] | None:
    """Return {name: sha256} from a folder's SHA256SUMS: {} if there is no such file, None if it is damaged."""
    path = folder / SUMS
    if not path.is_file():
        return {}

    *lines, rest = path.read_bytes().decode("utf-8", "replace").split("\n")
    matches = [LINE.fullmatch(line) for line in lines]
    if rest or not matches or not all(matches):
        return None
    return {match[2]: match[1] for match in matches}


def first_corrupt_file(folder: Path, remember: bool = False) -> str | None:
    """Return a message about the first file that does not match SHA256SUMS; None if all match.

    With `remember`, a file that still has the size and time of its last verification is not read again for a day.
    """
    expected = read_checksums(folder)
    if expected is None:
        return f"{folder / SUMS} is damaged"

    verified = _read_verified(folder) if remember else {}
    states = {name: [*_size_and_time(folder / name), digest] for name, digest in expected.items()}
    unread = [name for name, state in states.items() if not _is_verified(verified.get(name), state)]

    for name, digest in sha256_of(folder, unread).items():
        if not digest:
            return f"{folder / name} is missing"
        if digest != expected[name]:
            return f"{folder / name} is damaged (its sha256 is not the one in {SUMS})"

    if remember and unread:
        try:
            fresh = {name: [*states[name], time.time()] for name in unread}
            write_text(folder / VERIFIED_CACHE, json.dumps({**verified, **fresh}))
        except OSError:
            pass  # in a read-only folder, the files are read again at the next start
    return None


def _is_verified(entry: list | None, state: list) -> bool:
    """Check whether a file that is in a state has an entry of a verification that still counts."""
    if not isinstance(entry, list) or entry[:-1] != state or not isinstance(entry[-1], float):
        return False
    return 0 <= time.time() - entry[-1] < VERIFIED_SECONDS


def _size_and_time(path: Path) -> tuple[int, int]:
    if not path.is_file():
        return 0, 0
    return path.stat().st_size, path.stat().st_mtime_ns


def _read_verified(folder: Path) -> dict[str, list]:
    """Return the states of the last verification; {} if they cannot be read."""
    try:
        states = json.loads((folder / VERIFIED_CACHE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return states if isinstance(states, dict) else {}
