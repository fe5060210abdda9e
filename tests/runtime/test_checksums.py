"""SHA256SUMS: what sha256sum reads, every flipped bit seen, nothing read twice that need not be."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from runtime import checksums
from runtime.checksums import SUMS, VERIFIED_CACHE, first_corrupt_file, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sealed folder of two files, one in a folder of its own."""
    (tmp_path / "sealed" / "inner").mkdir(parents=True)
    (tmp_path / "sealed" / "a.bin").write_bytes(bytes(range(16)))
    (tmp_path / "sealed" / "inner" / "b c.txt").write_text("some words")
    write_checksums(tmp_path / "sealed", {})
    return tmp_path / "sealed"


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs sha256sum")
def test_sha256sum_agrees(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "a.bin: OK\ninner/b c.txt: OK\n"


@pytest.mark.parametrize("name", ["a.bin", "inner/b c.txt", SUMS])
def test_every_flipped_bit_is_seen(folder: Path, name: str) -> None:
    assert first_corrupt_file(folder) is None
    bits = 8 * (folder / name).stat().st_size
    for bit in (*range(0, bits, 5), *range(bits - 8, bits)):
        flip(folder / name, bit)
        assert str(folder) in first_corrupt_file(folder), bit
        flip(folder / name, bit)
    assert bits >= 80 and first_corrupt_file(folder) is None


def test_a_lost_file_is_seen_and_an_unsealed_folder_tells_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "a.bin").unlink()
    assert first_corrupt_file(folder) == f"{folder / 'a.bin'} is missing"
    assert first_corrupt_file(tmp_path) is None


def test_what_was_whole_is_not_read_again_until_it_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = [], checksums.sha256_of

    def sha256_of(where: Path, names: list[str]) -> dict[str, str]:
        read.append(sorted(names))
        return real(where, names)

    monkeypatch.setattr(checksums, "sha256_of", sha256_of)
    assert (
        first_corrupt_file(folder, remember=True) is None
        and first_corrupt_file(folder, remember=True) is None
    )
    flip(folder / "a.bin", 3)
    assert "a.bin is damaged" in first_corrupt_file(folder, remember=True)
    assert read == [["a.bin", "inner/b c.txt"], [], ["a.bin"]]
    (folder / VERIFIED_CACHE).write_text("{")
    assert "a.bin is damaged" in first_corrupt_file(folder, remember=True)
    assert read[3] == ["a.bin", "inner/b c.txt"]


@pytest.mark.parametrize("hours", [25, -1])
def test_after_a_day_files_are_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    """A bit that the disk has lost changes neither size nor time of its file."""
    assert first_corrupt_file(folder, remember=True) is None
    times = (folder / "a.bin").stat()
    flip(folder / "a.bin", 3)
    os.utime(folder / "a.bin", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert first_corrupt_file(folder, remember=True) is None

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600 * hours)
    assert "a.bin is damaged" in first_corrupt_file(folder, remember=True)


def test_known_sums_are_taken_as_they_are(folder: Path) -> None:
    write_checksums(folder, {"a.bin": "0" * 64})
    assert "a.bin is damaged" in first_corrupt_file(folder)
