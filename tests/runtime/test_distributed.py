"""How ranks find each other, also in a store in which the dead have left their addresses; memory that is kept."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from runtime.distributed import choose_dtype, has_bf16, new_rendezvous_store

ROOT = Path(__file__).resolve().parents[2]
FAULTS = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from runtime import distributed
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
    keep, give_back = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, mode])) for mode in ("keep", "give")
    )
    assert keep < 1000 < give_back  # 64 MiB eight times: 131,072 pages


def test_bfloat16_on_a_cpu_is_a_matter_of_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert has_bf16() in (True, False)
    monkeypatch.setattr(
        "time.perf_counter", None
    )  # not of a clock, which depends on what else the machine does
    for there, dtype, why in (
        (True, torch.bfloat16, "as asked"),
        (False, torch.float32, "no instructions for bfloat16"),
    ):
        monkeypatch.setattr("runtime.distributed.has_bf16", lambda there=there: there)
        chosen = choose_dtype("bfloat16", cpu)
        assert chosen[0] == dtype and why in chosen[1]
        chosen = choose_dtype(None, cpu)
        assert chosen[0] == torch.float32 and ("--dtype bfloat16" in chosen[1]) == there
    assert choose_dtype("float16", cpu)[0] == torch.float32


def meet(store: dist.Store, world: int, late: int = 0) -> set[str]:
    """The parts of a store that ranks agree on, found by threads."""
    parts = {}

    def join(rank: int) -> None:
        parts[rank] = new_rendezvous_store(store, rank, world)

    ranks = [threading.Thread(target=join, args=(rank,), daemon=True) for rank in range(world)]
    for thread in ranks[late:] + ranks[:late]:
        thread.start()
    for thread in ranks:
        thread.join(20)
    parts[0].set("key", "value")
    assert all(part.get("key") == b"value" for part in parts.values()) and len(parts) == world
    return {part.underlying_store is store for part in parts.values()}


def test_each_start_of_any_number_of_ranks_has_a_part_of_its_own() -> None:
    store = dist.HashStore()
    for world, late in (3, 0), (3, 1), (2, 2), (1, 0), (4, 3):
        meet(store, world, late)
    assert store.num_keys() >= 5


def test_a_rank_that_died_while_it_called_is_not_waited_for() -> None:
    store = dist.HashStore()
    store.set("call/1", "the word of one that is gone")
    meet(store, 2)
