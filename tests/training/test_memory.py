"""Estimate of memory: it grows with what it counts, and agrees with what was measured."""

from types import SimpleNamespace

import pytest
import torch

from config import ModelArgs, resolve
from training.memory import memory_bytes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_estimates_grow_with_what_they_count() -> None:
    small, large = ModelArgs(), ModelArgs(embeddings_dims=1024)
    assert memory_bytes(large, CPU, torch.float32) > 1.5 * memory_bytes(small, CPU, torch.float32)
    no_dropout = small.replace(attn_dropout=0.0)
    assert memory_bytes(no_dropout, CPU, torch.float32) < 0.9 * memory_bytes(small, CPU, torch.float32)


@pytest.mark.parametrize(
    ("settings", "measured"),
    [
        ({}, 13.6),
        ({"activation_checkpointing": True}, 4.84),
        ({"dropout": 0.1, "attn_dropout": 0.1}, 15.5),
    ],
)
def test_it_agrees_with_what_was_measured(
    settings: dict, measured: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peaks in GiB of an eager step of smol-130m, 32 x 1024, in bfloat16: MemTracker, the second on an H100."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9))
    args = resolve({"preset": "smol-130m", "micro_batch_size": 32, **settings})
    estimate = memory_bytes(args, CUDA, torch.bfloat16) / 2**30
    assert 0.95 * measured < estimate < 1.25 * measured
