"""Choice of device and dtype; memory that is kept; sums without a process group."""

import subprocess
import sys

import pytest
import torch
from toy import ROOT

from runtime import distributed
from runtime.distributed import DistributedEnv, choose_device, choose_dtype, has_bf16

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


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has mallopt")
def test_memory_is_kept() -> None:
    def page_faults(mode: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", FAULTS, mode]))

    # 64 MiB eight times are 131,072 pages.
    assert page_faults("keep") < 1000
    assert page_faults("give") > 1000


@pytest.mark.parametrize("has_instructions", [True, False])
def test_bfloat16_on_a_cpu_depends_on_its_instructions(
    has_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.perf_counter", None)  # not on a clock, which depends on the machine's load
    assert has_bf16() in (True, False)

    monkeypatch.setattr("runtime.distributed.has_bf16", lambda: has_instructions)
    cpu = torch.device("cpu")
    dtype, note = choose_dtype("bfloat16", cpu)
    if has_instructions:
        assert dtype == torch.bfloat16
        assert note == ""
    else:
        assert dtype == torch.float32
        assert "it has no instructions for it" in note

    dtype, note = choose_dtype(None, cpu)
    assert dtype == torch.float32
    assert ("--dtype bfloat16" in note) == has_instructions


def test_float16_needs_cuda() -> None:
    dtype, note = choose_dtype("float16", torch.device("cpu"))
    assert dtype == torch.float32
    assert "float16 needs CUDA, not cpu" in note


def test_a_missing_device_falls_back_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("cpu") == (torch.device("cpu"), "")
    assert choose_device("cuda:1") == (torch.device("cpu"), "no cuda device, so cpu")

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == (torch.device("mps"), "")
    assert choose_device("cuda") == (torch.device("mps"), "no CUDA device, so mps")
    several = choose_device("mps", local_rank=1, world_size=2)
    assert several == (torch.device("cpu"), "ranks cannot exchange tensors on mps, so cpu")


def test_cuda_devices_follow_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA A100")
    assert choose_device("cuda", local_rank=3) == (torch.device("cuda:3"), "NVIDIA A100")
    assert choose_device("cuda:1", local_rank=3) == (torch.device("cuda:1"), "NVIDIA A100")


def test_peak_flops_by_device(monkeypatch: pytest.MonkeyPatch, env: DistributedEnv) -> None:
    cuda = torch.device("cuda")
    half, single = (DistributedEnv(0, 0, 1, cuda, dtype, "") for dtype in (torch.bfloat16, torch.float32))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA GH200 480GB")
    assert distributed.peak_flops(half) == 989e12  # not the first match of "H200"
    assert distributed.peak_flops(single) == 989e12 / 2
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "unknown")
    assert distributed.peak_flops(half) is None

    monkeypatch.setattr(distributed, "BENCHMARK_SIZE", 32)
    assert distributed.peak_flops(env) > 0
    assert distributed.peak_flops(DistributedEnv(0, 0, 1, torch.device("mps"), torch.float32, "")) is None


def test_without_a_process_group_values_stay_as_they_are(env: DistributedEnv) -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert distributed.all_reduce_sum(tensor) is tensor
    assert distributed.any_rank(True, env) is True
    assert distributed.any_rank(False, env) is False
    assert distributed.gather_objects("x") == ["x"]
    distributed.barrier()
    distributed.shutdown()


def test_arm_without_onednn_has_no_fast_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch for macOS is built without oneDNN, and without its operator that answers."""
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.delattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", raising=False)
    assert not has_bf16()
