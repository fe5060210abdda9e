"""Folders that are committed, removed and locked; texts that are replaced in one step."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy import ROOT

from runtime import files
from runtime.errors import UserError
from runtime.files import (
    commit_folder,
    folder_lock,
    read_json,
    real_folder,
    remove_folder,
    write_json,
    write_text,
    writing,
)

LOCKING = """
import sys
from pathlib import Path
from runtime.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def new_folder(path: Path, text: str) -> Path:
    """Make a folder with one file."""
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_a_committed_folder_replaces_the_older_one(tmp_path: Path) -> None:
    target = new_folder(tmp_path / "target", "old")
    new_folder(tmp_path / ".target.old", "left by a kill")

    commit_folder(new_folder(tmp_path / "partial", "new"), target)

    assert names(tmp_path) == ["target"]
    assert (target / "file").read_text() == "new"


def test_files_are_synced_before_the_folder_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = new_folder(tmp_path / "partial", "new")
    synced = []

    def sync(path: Path) -> None:
        assert partial.exists()
        synced.append(path)

    monkeypatch.setattr(files, "sync", sync)
    commit_folder(partial, tmp_path / "target")
    assert synced == [partial / "file", partial]


def test_a_removed_folder_loses_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_folder(tmp_path / "folder", "x")
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda path, ignore_errors=False: None)  # as if killed there
        remove_folder(folder)
        assert names(tmp_path) == [".folder.old"]

    new_folder(folder, "x")
    remove_folder(folder)
    remove_folder(folder)  # a missing folder is no error
    assert names(tmp_path) == []


def test_a_locked_folder_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", LOCKING, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process is at work in"), folder_lock(tmp_path):
            pass
    finally:
        other.kill()
        other.communicate()

    with folder_lock(tmp_path):
        pass


def test_a_file_system_without_locks_gives_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder_lock(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_a_text_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": [1, "é"]})
    assert json.loads(path.read_text()) == {"a": [1, "é"]}

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "other")
    assert json.loads(path.read_text()) == {"a": [1, "é"]}


def test_a_system_without_locks_gives_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Windows has no fcntl and opens no folders."""
    monkeypatch.setattr(files, "fcntl", None)
    with folder_lock(tmp_path / "never opened"):
        pass
    assert "never opened cannot be locked (this system has no file locks): " in capsys.readouterr().err


def test_on_windows_files_are_flushed_and_folders_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    opened = []
    real_open = os.open

    def record(path: Path, flags: int) -> int:
        opened.append((path, flags))
        return real_open(path, flags)

    monkeypatch.setattr(files, "ON_WINDOWS", True)
    monkeypatch.setattr(os, "open", record)
    files.sync(tmp_path)
    files.sync(tmp_path / "file")
    assert opened == [(tmp_path / "file", os.O_RDWR)]


@pytest.mark.parametrize(
    "content", [b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 50_000, b"9" * 5000], ids=len
)
def test_a_broken_json_file_is_one_line_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.json is broken \(\w+: .*\): remove it"):
        read_json(path, ": remove it")


def test_a_json_file_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: no room on the disk, a terabyte of zeros for who reads it
    with pytest.raises(UserError, match="it has 1,099,511,627,776 bytes"):
        read_json(path)


def test_a_fault_of_writing_is_none_of_reading(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write to .*b.bin: No space left on device: make room there"):
        with writing(tmp_path / "b.bin"), open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")


def test_the_leftover_of_a_link_is_removed_and_a_link_is_followed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "kept").touch()
    (tmp_path / "link").symlink_to(disk)
    assert real_folder(tmp_path / "link") == disk and real_folder(disk) == disk

    (tmp_path / ".a.old").symlink_to(disk)  # as an earlier version left it
    for folder in ("a", "partial"):
        (tmp_path / folder).mkdir()
    commit_folder(tmp_path / "partial", tmp_path / "a")
    assert not (tmp_path / ".a.old").is_symlink() and (disk / "kept").exists()
