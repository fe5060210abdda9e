"""Memory and disk that a run may use: the least of the machine's, the control group's and the limit's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import ROOT

from runtime import capacity
from runtime.capacity import capacity_of, cpu_memory, free_disk
from runtime.distributed import DistributedEnv

CPU = DistributedEnv(0, 0, 1, torch.device("cpu"), torch.float32, "")


def test_memory_is_what_the_machine_has_left() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1e8 < cpu_memory() <= total


def test_ranks_share_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(capacity, "cpu_memory", lambda: 12e9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    here = capacity_of(CPU, tmp_path / "runs" / "not yet there")
    assert here.memory == 4e9 and here.disk == free_disk(tmp_path) > 0


def test_a_control_group_limits_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit, use = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(capacity, "CGROUP_FILES", ((str(limit), str(use)),))
    monkeypatch.setattr(capacity, "_own_bytes", lambda: (9_000_000, 50_000))
    use.write_text("100000\n")
    limit.write_text("max\n")
    without = cpu_memory()
    limit.write_text("400000\n")
    assert cpu_memory() == 350_000 < without


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v is heeded on Linux")
def test_an_address_space_limit_counts() -> None:
    program = "from runtime.capacity import cpu_memory; print(cpu_memory())"
    command = f"ulimit -v 8000000; exec {sys.executable} -c '{program}'"
    shown = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < float(shown.stdout) < 8.2e9
