"""Ranks, devices and precision of a process: the only file that knows the process group and the hardware."""

import ctypes
import os
import platform
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from runtime.data_sheets import data_sheet_flops
from runtime.errors import RunError
from runtime.launcher import check_launch_variables
from runtime.rendezvous import new_rendezvous_store

# How long ranks wait for each other; the watchdog ends a run that hangs sooner.
TIMEOUT = timedelta(minutes=30)

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST_INT = 2**31 - 1

BENCHMARK_SIZE = 1024  # rows and columns of the matrices that measure a CPU's peak
BENCHMARK_TRIES = 20


@dataclass(frozen=True)
class DistributedEnv:
    """Rank, device and precision of this process; `device_note` says what is notable about the choice."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype
    device_note: str
    control: dist.ProcessGroup | None = (
        None  # for flags: ranks on GPUs exchange them without waiting for the GPU
    )

    @property
    def is_main_process(self) -> bool:
        """Return True on the rank that prints and writes."""
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        """Return mixed precision where dtype is not float32; weights, norms, softmax and loss stay in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def init(device: str, dtype: str | None) -> DistributedEnv:
    """Join torchrun's process group, if any; choose device and precision from the requested ones.

    Raises RunError when the ranks cannot reach each other.
    """
    check_launch_variables()
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))

    # Batches of S and D differ in size: without this, gaps between blocks of memory would grow. It is read with the
    # first block.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    torch_device, device_note = choose_device(device, local_rank, world_size)
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    torch_dtype, dtype_note = choose_dtype(dtype, torch_device)

    if torch_device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # float32 products in TF32
    if torch_device.type == "cpu":
        tune_glibc_malloc()

    if "RANK" in os.environ:
        try:
            store, *_ = next(dist.rendezvous("env://", timeout=TIMEOUT))
        except dist.DistError as error:
            raise RunError(
                f"the ranks cannot reach each other ({str(error).splitlines()[0]}): start again"
            ) from None
        dist.init_process_group(
            "nccl" if torch_device.type == "cuda" else "gloo",
            store=new_rendezvous_store(store, rank, world_size, TIMEOUT),
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
            device_id=torch_device if torch_device.type == "cuda" else None,
        )
    control = None
    if dist.is_initialized() and torch_device.type == "cuda":
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
    notes = "; ".join(note for note in (device_note, dtype_note) if note)
    return DistributedEnv(rank, local_rank, world_size, torch_device, torch_dtype, notes, control)


def tune_glibc_malloc() -> None:
    """Keep freed blocks in the process for the next step: those returned cost a page fault for each 4 KiB."""
    if sys.platform != "linux":
        return

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(M_MMAP_MAX, 0)  # no block gets a mapping of its own
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)  # bytes that may stay free at the end of the heap


def choose_device(requested: str, local_rank: int = 0, world_size: int = 1) -> tuple[torch.device, str]:
    """Return the requested device, or the next available one of cuda, mps, cpu, and a note.

    The note is the name of a CUDA device or, for another device than the requested one, the reason; else empty.
    """
    kind = requested.split(":")[0]

    if kind == "cuda" and torch.cuda.is_available():
        name = requested if ":" in requested else f"cuda:{local_rank}"
        return torch.device(name), torch.cuda.get_device_name(name)

    if kind != "cpu" and torch.backends.mps.is_available():
        if world_size > 1:  # gloo knows the CPU and CUDA
            return torch.device("cpu"), "ranks cannot exchange tensors on mps, so cpu"
        note = "" if kind == "mps" else "no CUDA device, so mps"
        return torch.device("mps"), note

    note = "" if kind == "cpu" else f"no {kind} device, so cpu"
    return torch.device("cpu"), note


def choose_dtype(requested: str | None, device: torch.device) -> tuple[torch.dtype, str]:
    """Return the requested precision, or the fastest that the device has in hardware, and a note.

    The note is the reason, if the choice is not the requested one, or advice; else empty.
    """
    if device.type == "cuda":
        if requested == "float32":
            return torch.float32, "its matrix products are in TF32"
        if requested:
            return getattr(torch, requested), ""
        fastest = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return getattr(torch, fastest), f"{fastest} is the fastest here"

    if device.type == "cpu" and requested == "bfloat16" and not has_bf16():
        return (
            torch.float32,
            "float32, because bfloat16 is very slow on this CPU: it has no instructions for it",
        )
    if requested == "float16":
        return torch.float32, f"float32, because float16 needs CUDA, not {device.type}"
    if requested:
        return getattr(torch, requested), ""

    if device.type == "cpu" and has_bf16():
        return torch.float32, "wide models train faster with --dtype bfloat16 here"
    return torch.float32, ""


def has_bf16() -> bool:
    """Return True if this CPU multiplies bfloat16 in hardware.

    It is not measured: a resumed run must get the same answer.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN also counts AVX-512 CPUs that only convert bfloat16 to float32, so it is not used here.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not torch.backends.mkldnn.is_available():  # such as on macOS: the operator does not exist there
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def benchmark_matmul(dtype: torch.dtype) -> float:
    """Return the FLOP/s of this CPU in square matrix products, the best of BENCHMARK_TRIES."""
    a = torch.ones(
        BENCHMARK_SIZE, BENCHMARK_SIZE, dtype=dtype
    )  # not random: the run's generator must not advance
    a @ a

    seconds = []
    for _ in range(BENCHMARK_TRIES):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * BENCHMARK_SIZE**3 / min(seconds)


def peak_flops(env: DistributedEnv) -> float | None:
    """Return the device's peak FLOP/s at env.dtype: from the data sheet on CUDA, measured on a CPU, else None."""
    if env.device.type == "cpu":
        return benchmark_matmul(env.dtype)
    if env.device.type != "cuda":
        return None
    return data_sheet_flops(torch.cuda.get_device_name(env.device), env.dtype)


def device_name(env: DistributedEnv) -> str:
    """Return the device's name, for the plan and the model card."""
    if env.device.type == "cuda":
        return torch.cuda.get_device_name(env.device)
    return f"{env.device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all ranks in place, and return it; without a process group it stays as it is."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def average_in_rank_order(tensor: torch.Tensor) -> torch.Tensor:
    """Return the average of a tensor over all ranks, whose elements are added in the order of the ranks."""
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total / len(parts)


def any_rank(flag: bool, env: DistributedEnv) -> bool:
    """Return True on all ranks if the flag is True on any rank."""
    if not dist.is_initialized():
        return flag
    total = torch.tensor(float(flag))
    dist.all_reduce(total, group=env.control)
    return bool(total.item())


def gather_objects(value: object) -> list[object]:
    """Return the values of all ranks, in rank order."""
    if not dist.is_initialized():
        return [value]
    values: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def shutdown() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
