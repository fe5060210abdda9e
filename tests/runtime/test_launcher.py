"""Restarts by torchrun, and ranks whose torchrun has died."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy import ROOT

from runtime.errors import UserError
from runtime.launcher import (
    check_launch_variables,
    is_local_main_process,
    restarted_by_torchrun,
    save_launch_id,
)

RANK = """
import time
from runtime.launcher import exit_when_torchrun_dies
exit_when_torchrun_dies()
print("watching", flush=True)
time.sleep(600)
"""
# Starts a rank, prints the rank's process id when it watches, and ends.
LAUNCHER = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, stderr=open(sys.argv[2], "w"))
assert rank.stdout.readline() == b"watching\\n"
print(rank.pid)
"""


def test_a_restart_is_recognised_by_the_launch_that_began_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(name: str, count: int, launcher: int = 100) -> bool:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))
        monkeypatch.setattr(os, "getppid", lambda: launcher)
        return restarted_by_torchrun(tmp_path)

    assert not restarted_by_torchrun(tmp_path)  # without torchrun
    assert not launched("one", 0)
    assert not launched("one", 1)  # the first start died before it began a run

    launched("one", 0)
    save_launch_id(tmp_path)
    assert launched("one", 1)
    assert launched("one", 0)  # a machine has joined
    assert not launched("two", 0)
    assert not launched("two", 1)

    launched("none", 0)  # torchrun's value for a launch without an id
    save_launch_id(tmp_path)
    assert launched("none", 1)
    assert not launched("none", 0, launcher=200)
    assert not launched("none", 1, launcher=200)


def test_a_launch_described_by_halves_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name in whole:
        monkeypatch.delenv(name, raising=False)
    check_launch_variables()

    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    check_launch_variables()

    for name in whole:
        monkeypatch.delenv(name)
        with pytest.raises(UserError, match=f"but not {name}"):
            check_launch_variables()
        monkeypatch.setenv(name, whole[name])

    for name, value in ("RANK", "first"), ("MASTER_PORT", "http"), ("RANK", "2"):
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"{name}={value}"):
            check_launch_variables()
        monkeypatch.setenv(name, whole[name])


def test_a_rank_exits_when_its_torchrun_has_died(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "one"}
    launcher = subprocess.run(
        [sys.executable, "-c", LAUNCHER, RANK, str(log)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    rank = int(launcher.stdout)

    deadline = time.monotonic() + 30
    while is_running(rank) and time.monotonic() < deadline:
        time.sleep(0.1)
    if is_running(rank):
        os.kill(rank, 9)
        pytest.fail("the rank still runs")
    assert log.read_text() == "torchrun is gone, so this rank exits: start again with --resume\n"


def is_running(process: int) -> bool:
    """Return True while a process runs; a zombie does not."""
    status = Path(f"/proc/{process}/stat")
    if not status.exists():
        return False
    return status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_first_rank_of_a_machine_is_its_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert is_local_main_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_local_main_process()
