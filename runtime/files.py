"""Files and folders written so that a kill leaves nothing half-written."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import UserError
from runtime.os_errors import in_words

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

ON_WINDOWS = os.name == "nt"
MAX_JSON_BYTES = 1 << 27  # the largest indexes and lists of shards have some megabytes


def commit_folder(partial: Path, target: Path) -> None:
    """Sync a finished folder, then rename it to `target`, in place of an older one.

    A kill at any moment leaves no half-written folder under that name.
    """
    for path in sorted(partial.rglob("*")):
        if not path.is_symlink():
            sync(path)
    sync(partial)

    old = _hidden_name(target)
    _remove(old)
    if target.exists():
        target.rename(old)

    partial.rename(target)
    _remove(old)


def real_folder(folder: Path) -> Path:
    """Return a folder that is about to be replaced; a link, to a larger disk for example, is followed."""
    return folder.resolve() if folder.is_symlink() else folder


def _remove(path: Path) -> None:
    """Remove a folder and what is in it, or a link to one alone."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def link_or_copy(path: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no links. A symbolic link stays one."""
    target.unlink(missing_ok=True)
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, target, follow_symlinks=False)


def remove_folder(folder: Path) -> None:
    """Remove a folder; a kill in the middle leaves nothing under its name."""
    if not folder.exists():
        return

    hidden = _hidden_name(folder)
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _hidden_name(folder: Path) -> Path:
    """Return the name that a folder has while it is being removed."""
    return folder.with_name(f".{folder.name}.old")


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    flags = os.O_RDONLY
    if ON_WINDOWS:
        if path.is_dir():
            return  # no folder can be opened there
        flags = os.O_RDWR  # a file must be writable to be flushed there

    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes. Raises UserError when another process has locked it.

    The operating system releases the lock when the process ends, so a killed process leaves no lock.
    """
    if fcntl is None:
        _warn_of_no_lock(folder, "this system has no file locks")
        yield
        return

    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(handle, folder):
            raise UserError(f"another process is at work in {folder}: wait for it, or stop it first")
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    """Lock an open folder; return False if another process has locked it or moved it aside."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(folder))
    except BlockingIOError:
        return False
    except OSError as error:  # a network file system without locks
        _warn_of_no_lock(folder, error.strerror)
        return True


def _warn_of_no_lock(folder: Path, reason: str) -> None:
    """Print a line that another process is not kept out of a folder."""
    print(
        f"{folder} cannot be locked ({reason}): make sure that no other process writes there",
        file=sys.stderr,
    )


def read_json(path: Path, remedy: str = "") -> dict:
    """Return the object in a JSON file. Raises UserError, with the remedy, for one that is broken or far too large."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it is no object")
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is broken ({type(error).__name__}: {error}){remedy}") from None
    return content


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise the errors of writing a file as UserError, so that nobody takes them for errors of what is read."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {in_words(error, path)}") from None


def write_json(path: Path, value: object) -> None:
    """Write JSON under a temporary name, sync, rename."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name, sync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:  # the same bytes on Windows
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
