"""Memory and disk that a run may use here."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from runtime.distributed import DistributedEnv

CGROUP_FILES = (  # limit and use, of control groups version 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

LATER_LIBRARIES = (
    3e8  # bytes of address space that are still to be loaded when a run begins, such as matplotlib
)


@dataclass(frozen=True)
class Capacity:
    """Bytes that a rank may use: of its device's memory (None: unknown), and of the disk of the run."""

    memory: float | None
    disk: float


def capacity_of(env: DistributedEnv, folder: Path) -> Capacity:
    """Return what a rank of a run in this folder may use. Ranks on one machine share its main memory."""
    memory = memory_of(env.device)
    if memory is not None and env.device.type != "cuda":
        memory /= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Capacity(memory, free_disk(folder))


def memory_of(device: torch.device) -> float | None:
    """Return the bytes of a device's memory that this process has or can get; None where nobody knows."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return cpu_memory()


def cpu_memory() -> float | None:
    """Return the bytes of main memory that this process has or can get: the machine's, its group's, its limit's."""
    virtual, resident = _own_bytes()
    limits = [_machine_memory(resident), _group_memory(resident), _address_space(virtual, resident)]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is, or will be, on."""
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _own_bytes() -> tuple[int, int]:
    """Return the bytes of address space and of memory that this process uses; zeros where the system hides them."""
    try:
        virtual, resident, *_ = Path("/proc/self/statm").read_text().split()
        page = os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):
        return 0, 0
    return int(virtual) * page, int(resident) * page


def _machine_memory(resident: int) -> float | None:
    """Return what the machine has left, this process's own memory included; without /proc, all that it has."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 + resident
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _group_memory(resident: int) -> float | None:
    """Return what the control group (of a container, of systemd, of Slurm) has left."""
    for limit_file, use_file in CGROUP_FILES:
        with suppress(OSError, ValueError):  # no such file; "max" is no limit
            limit = int(Path(limit_file).read_text())
            return max(0, limit - int(Path(use_file).read_text())) + resident
    return None


def _address_space(virtual: int, resident: int) -> float | None:
    """Return what `ulimit -v` leaves; most address space of libraries never becomes memory."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - virtual - LATER_LIBRARIES) + resident
