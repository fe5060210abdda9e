"""Limits of the system: raised where that is allowed, and heeded."""

import json
import os
import subprocess
import sys

import pytest
from toy import ROOT

from runtime import limits
from runtime.limits import open_files, usable_cores

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
