"""Which rank, which device, which precision and why: the only file that knows the launcher and the hardware."""

import ctypes
import os
import platform
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# Dense bf16 peaks in FLOP/s from the makers' data sheets, by a word of the device's name. First match wins.
PEAK_FLOPS = {
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


TIMEOUT = timedelta(minutes=30)  # of ranks that wait for each other; the watchdog is sooner


@dataclass(frozen=True)
class DistributedEnv:
    """Where this process runs. `why` says how device and dtype were chosen."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype
    device_note: str

    @property
    def is_main_process(self) -> bool:
        """Whether this is the rank that prints and writes."""
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        """Mixed precision where dtype asks for it; weights, norms, softmax and loss stay in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def init(device: str, dtype: str | None) -> DistributedEnv:
    """Join the process group that torchrun announces, if any, and choose device and precision from those asked for."""
    rank, local_rank, world = (
        int(os.environ.get(k, d)) for k, d in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
    )
    device, why = choose_device(device, local_rank)
    dtype, why_dtype = choose_dtype(dtype, device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if device.type == "cpu":
        tune_glibc_malloc()
    if "RANK" in os.environ:
        store, *_ = next(dist.rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=new_rendezvous_store(store, rank, world),
            rank=rank,
            world_size=world,
            timeout=TIMEOUT,
        )
    return DistributedEnv(rank, local_rank, world, device, dtype, f"{why}; {why_dtype}")


def tune_glibc_malloc() -> None:
    """Have glibc keep freed blocks for the next step: those given back cost a page fault for each 4 KiB."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block gets a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: as much as may stay free at the heap's end


def new_rendezvous_store(store: dist.Store, rank: int, world: int) -> dist.Store:
    """A part of the launcher's store that belongs to this start of the ranks alone.

    torchrun may hand on a store in which ranks that have died left their addresses, and no count that it gives tells
    one start from another on all machines alike. So each rank calls with a word of its own, which rank 0 answers.
    """
    word = uuid.uuid4().hex
    if rank:
        store.set(f"call/{rank}", word)
        name = store.get(f"answer/{word}").decode()  # waits
        store.set(f"here/{name}/{rank}", "")
        return dist.PrefixStore(name, store)
    while not store.check([f"here/{word}/{other}" for other in range(1, world)]):
        for other in range(1, world):
            if store.check(
                [f"call/{other}"]
            ):  # of this start, or of an earlier one: nobody hears that answer
                store.set("answer/" + store.get(f"call/{other}").decode(), word)
        time.sleep(0.02)
    return dist.PrefixStore(word, store)


def choose_device(asked: str, local_rank: int = 0) -> tuple[torch.device, str]:
    """The device asked for, or the next best that is there: cuda, mps, cpu."""
    kind = asked.split(":")[0]
    if kind == "cuda" and torch.cuda.is_available():
        return torch.device(asked if ":" in asked else f"cuda:{local_rank}"), torch.cuda.get_device_name()
    if kind != "cpu" and torch.backends.mps.is_available():
        return torch.device("mps"), "mps" if kind == "mps" else "no CUDA device here, so mps"
    return torch.device("cpu"), "cpu" if kind == "cpu" else f"no {kind} device here, so cpu"


def choose_dtype(asked: str | None, device: torch.device) -> tuple[torch.dtype, str]:
    """The precision asked for, or the fastest that the device has in hardware."""
    if device.type == "cuda":
        fast = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return getattr(torch, asked or fast), "as asked" if asked else f"{fast} is the fastest here"
    if device.type == "cpu" and asked == "bfloat16" and not has_bf16():
        return (
            torch.float32,
            "float32, because this CPU has no instructions for bfloat16 and is very slow without",
        )
    if asked == "float16":
        return torch.float32, f"float32, because float16 needs CUDA, not {device.type}"
    if asked:
        return getattr(torch, asked), "as asked"
    other = (
        "; wide models train faster with --dtype bfloat16 here" if device.type == "cpu" and has_bf16() else ""
    )
    return torch.float32, f"float32 is the safe choice on {device.type}{other}"


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware. Not found out by a clock: a resumed run must find the same."""
    if platform.machine().lower() in (
        "x86_64",
        "amd64",
    ):  # where oneDNN counts AVX-512 that converts to float32, too
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def benchmark_matmul(dtype: torch.dtype, n: int, tries: int = 3) -> float:
    """Seconds for one n x n matrix product on the CPU, the best of a few tries."""
    a = torch.ones(n, n, dtype=dtype)  # not random: the run's generator must not move
    a @ a
    seconds = []
    for _ in range(tries):
        t0 = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - t0)
    return min(seconds)


def peak_flops(env: DistributedEnv) -> float | None:
    """The device's peak in FLOP/s at env.dtype: from the data sheet on CUDA, measured on a CPU, None when unknown."""
    if env.device.type == "cuda":
        name = torch.cuda.get_device_name(env.device)
        peak = next((flops for word, flops in PEAK_FLOPS.items() if word in name), None)
        return peak and (peak if env.dtype != torch.float32 else peak / 2)
    if env.device.type == "cpu":
        return 2 * 1024**3 / benchmark_matmul(env.dtype, 1024, tries=20)
    return None


def device_name(env: DistributedEnv) -> str:
    """The device in words, for the plan and the model card."""
    if env.device.type == "cuda":
        return torch.cuda.get_device_name(env.device)
    return f"{env.device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all ranks, in place; the tensor itself without a process group."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def any_rank(flag: bool, env: DistributedEnv) -> bool:
    """Whether the flag is up on any rank; all ranks get the same answer."""
    return (
        bool(all_reduce_sum(torch.tensor(float(flag), device=env.device)).item())
        if dist.is_initialized()
        else flag
    )


def gather_objects(value: object) -> list[object]:
    """One value from each rank, in rank order."""
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
