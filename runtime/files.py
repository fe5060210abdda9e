"""Files and folders written so that a kill leaves nothing half-written."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError


def commit_folder(partial: Path, target: Path) -> None:
    """Sync a finished folder, then rename it to `target` in place of an older one; nothing half-written is there."""
    for path in sorted(partial.rglob("*")):
        sync(path)
    sync(partial)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill in the middle leaves nothing under its name."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keeps other processes from working in the folder; UserError where one already does. The dead claim nothing."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(
                os.fstat(handle), os.stat(folder)
            )  # not when another has just moved it aside
        except BlockingIOError:
            mine = False
        except OSError as error:  # a network file system without locks
            mine = True
            print(
                f"{folder} cannot be locked ({error.strerror}): see to it that nothing else writes there",
                file=sys.stderr,
            )
        if not mine:
            raise UserError(f"another process is at work in {folder}: wait for it, or stop it first")
        yield
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write JSON under a temporary name, sync, rename."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name, sync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
