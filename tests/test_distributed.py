"""The allocator is told to keep its memory, where there is one that can be told."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FAULTS = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
import torch, distributed
if sys.argv[1] == "keep":
    distributed.init("cpu", None)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told")
def test_memory_is_kept() -> None:
    keep, give_back = (int(subprocess.check_output([sys.executable, "-c", FAULTS, mode])) for mode in ("keep", "give"))
    assert keep < 1000 < give_back  # 64 MiB eight times: 131,072 pages
