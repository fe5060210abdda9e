"""Shares of several machines: verified before anything is moved, on whatever disk they lie."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
from examples import files
from prepared import finished
from prepared import script as script_of_data
from toy import ROOT

from dataprep.machine_shares import MachineShare

inline, command, rows = prepared.inline, prepared.command, prepared.rows


def test_a_share_has_every_count_th_unit() -> None:
    shares = [MachineShare(number, 3) for number in (1, 2, 3)]
    assert [[unit for unit in range(7) if share.has(unit)] for share in shares] == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.fixture
def shares(inline: None, command: Callable, rows: Path, tmp_path: Path) -> tuple[list, dict[str, str]]:
    """Prepare two shares; return the flags, and the files of the dataset that they become."""
    flags = ["--files", rows, "--name", "mine", "--tokenizer", "bytes"]
    assert command(*flags)[0] == 0
    expected = files(tmp_path / "data" / "mine")
    shutil.rmtree(tmp_path / "data" / "mine")
    for number in (1, 2):
        assert command(*flags, "--shard", f"{number}/2")[0] == 0
    return flags, expected


def test_the_slurm_array_prepares_shares_that_are_merged(rows: Path, tmp_path: Path) -> None:
    flags = [
        "--files",
        str(rows),
        "--name",
        "mine",
        "--tokenizer",
        "bytes",
        "--data_dir",
        str(tmp_path / "data"),
    ]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    for task in ("1", "2"):
        environment["SLURM_ARRAY_TASK_ID"] = task
        script = ["bash", str(ROOT / "docs" / "prepare.slurm"), *flags]
        subprocess.run(script, env=environment, cwd=tmp_path, check=True, timeout=120)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        ".mine.shard-1-of-2",
        ".mine.shard-2-of-2",
    }
    code, out, err = finished(script_of_data(*flags))
    assert code == 0 and "mine: done" in out, err
    assert not [*(tmp_path / "data").glob(".mine*")]


HARMS = {
    "is damaged": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
    "is missing": Path.unlink,
    "is damaged ": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}


@pytest.mark.parametrize("pattern", ["train-*.tokens.bin", "val-*.ends.bin", "unit-*.examples.bin"])
@pytest.mark.parametrize("state", HARMS)
def test_a_bad_unit_is_named_before_anything_is_moved(
    shares: tuple, command: Callable, tmp_path: Path, pattern: str, state: str
) -> None:
    flags, expected = shares
    bad = max((tmp_path / "data" / ".mine.shard-2-of-2").glob(pattern))
    HARMS[state](bad)
    before = files(tmp_path / "data")
    code, _, err = command(*flags)
    unit = bad.name[-len("00003.tokens.bin") :] if "tokens" in pattern else bad.name
    number = "".join(filter(str.isdigit, unit))
    assert (
        code == 2
        and f"{bad} {state.strip()}, so unit-{number} is not usable" in err
        and len(err.splitlines()) == 1
    )
    after = files(tmp_path / "data")
    assert {name: digest for name, digest in after.items() if ".mine.shard" in name} == {
        name: digest for name, digest in before.items() if ".mine.shard" in name
    }

    # The remedy that the message names.
    bad.with_name(f"unit-{number}.json").unlink()
    assert command(*flags)[0] == 0
    assert files(tmp_path / "data" / "mine") == expected
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]


def test_a_share_on_another_disk_is_merged(
    shares: tuple, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, expected = shares
    link = tmp_path / "data" / ".mine.shard-1-of-2"
    disk = tmp_path / "disk"
    disk.mkdir()
    link.rename(disk / "share")
    link.symlink_to(disk / "share")
    replace = Path.replace

    def replace_on_one_disk(path: Path, target: Path) -> Path:
        if path.resolve().is_relative_to(disk) != target.resolve().is_relative_to(disk):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_on_one_disk)
    assert command(*flags)[0] == 0
    assert files(tmp_path / "data" / "mine") == expected
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"] and not list(disk.iterdir())
