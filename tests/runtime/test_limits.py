"""Limits of the system: raised where that is allowed, and heeded."""

import json
import os
import subprocess
import sys
import time

import pytest
from toy import ROOT

from runtime import limits
from runtime.limits import bounded, open_files, usable_cores

resource = pytest.importorskip("resource")


def test_the_limit_of_open_files_is_raised() -> None:
    code = (
        "import resource, json; _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))\n"
        "from runtime.limits import open_files\nfrom runtime.errors import run_cli\n"
        "before = open_files()\nrun_cli(lambda: print(json.dumps([before, open_files() == hard])))"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert json.loads(printed) == [100, True]


def test_without_limits_the_usual_ones_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(limits, "resource", None)
    limits.raise_open_files()
    assert open_files() == 1024


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_cores_are_those_of_the_process() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from data import build_parser; print(build_parser().get_default('num_proc'))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "1\n"
    assert usable_cores() == len(os.sched_getaffinity(0))


def endless() -> None:
    while True:
        pass


def test_code_without_end_is_stopped() -> None:
    with pytest.raises(TimeoutError, match="longer than 0.2 seconds"), bounded(0.2, 1 << 30):
        endless()
    with bounded(0.05, 1 << 30):
        pass
    time.sleep(0.1)  # the timer of what has ended does nothing


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no other system limits memory so")
def test_code_that_takes_all_memory_is_stopped_and_the_limit_is_lifted() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError, match="more than 1 GB of memory"), bounded(10, 1 << 30):
        bytearray(1 << 40)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
