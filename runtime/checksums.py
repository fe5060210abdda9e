"""Whether files still are what was written: each finished folder holds a SHA256SUMS, compared before it is used.

`sha256sum -c SHA256SUMS` in the folder gives the same answer.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.files import write_text

SUMS = "SHA256SUMS"
VERIFIED_CACHE = ".verified"  # size and time of the files that were whole when they were last read
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def sha256_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 of files of a folder, read by several threads; of a missing file, an empty word."""

    def digest(name: str) -> str:
        if not (folder / name).is_file():
            return ""
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))


def write_checksums(folder: Path, known: dict[str, str]) -> None:
    """Write SHA256SUMS of all files of a folder, its last file; what is known already is not read again.

    A folder inside that has sums of its own is left to them, and may be taken away.
    """
    inner = [path.parent for path in folder.glob(f"*/{SUMS}")]
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(part) for part in inner)
    }
    found = {**sha256_of(folder, names - {*known, SUMS}), **known}
    write_text(folder / SUMS, "".join(f"{found[name]}  {name}\n" for name in sorted(found)))


def read_checksums(folder: Path) -> dict[str, str] | None:
    """The sha256 of each file by the folder's SHA256SUMS, empty where there is none; None where that is damaged."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    *lines, rest = path.read_bytes().decode("utf-8", "replace").split("\n")
    matches = [LINE.fullmatch(line) for line in lines]
    return {match[2]: match[1] for match in matches} if matches and all(matches) and not rest else None


def first_corrupt_file(folder: Path, remember: bool = False) -> str | None:
    """The first file of a folder that is not what SHA256SUMS says, in words; None where all are.

    With `remember`, a file of the size and time at which it was whole before is not read again.
    """
    wanted = read_checksums(folder)
    if wanted is None:
        return f"{folder / SUMS} is damaged"
    seen = _seen(folder) if remember else {}
    states = {name: [*_state(folder / name), digest] for name, digest in wanted.items()}
    unread = [name for name, state in states.items() if seen.get(name) != state]
    for name, digest in sha256_of(folder, unread).items():
        if digest != wanted[name]:
            what = f"is damaged (its sha256 is not the one in {SUMS})" if digest else "is missing"
            return f"{folder / name} {what}"
    if remember and unread:
        try:
            write_text(folder / VERIFIED_CACHE, json.dumps(states))
        except OSError:
            pass  # what cannot be remembered is read again at the next start
    return None


def _state(path: Path) -> tuple[int, int]:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)


def _seen(folder: Path) -> dict[str, list]:
    """What was remembered, if it can be read."""
    try:
        seen = json.loads((folder / VERIFIED_CACHE).read_text(encoding="utf-8"))
        return seen if isinstance(seen, dict) else {}
    except (OSError, ValueError):
        return {}
