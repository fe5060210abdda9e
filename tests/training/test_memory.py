"""Estimate of memory: it grows with what it counts, and agrees with what was measured."""

from types import SimpleNamespace

import pytest
import torch

from config import ModelArgs, resolve
from model import count_parameters
from training.lora import count_adapter_parameters
from training.memory import PEFT_BYTES, memory_bytes

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


def test_frozen_weights_have_neither_gradients_nor_moments() -> None:
    full = ModelArgs(train="S", embeddings_dims=1024)
    adapted = full.replace(lora_rank=16)
    saved = memory_bytes(full, CPU, torch.float32) - memory_bytes(adapted, CPU, torch.float32)
    assert saved == 12 * count_parameters(full) - 16 * count_adapter_parameters(adapted) - PEFT_BYTES
    saved = memory_bytes(full, CPU, torch.bfloat16) - memory_bytes(adapted, CPU, torch.bfloat16)
    assert saved == 14 * count_parameters(full) - 16 * count_adapter_parameters(adapted) - PEFT_BYTES


@pytest.mark.parametrize(
    ("settings", "measured"),
    [
        ({"train": "S"}, 2.60),
        ({"train": "S", "lora_rank": 16}, 1.43),
        ({"train": "D"}, 3.03),
        ({"train": "D", "lora_rank": 16}, 2.13),
    ],
)
def test_it_agrees_with_peaks_of_tuning_on_a_cpu(settings: dict, measured: float) -> None:
    """Peaks of resident memory in GB: 109.6M parameters, micro-batches of 2 rows of 256 tokens, float32."""
    size = {
        "embeddings_dims": 1024,
        "no_of_decoder_layers": 8,
        "no_of_heads": 16,
        "no_kv_heads": 8,
        "vocab_size": 16384,
        "block_size": 256,
    }
    batch = {"micro_batch_size": 2, "gradient_accumulation_steps": 1, "dropout": 0.0, "attn_dropout": 0.0}
    estimate = memory_bytes(ModelArgs(**size, **batch, **settings), CPU, torch.float32)
    assert 0.85 * measured < estimate / 1e9 < 1.15 * measured
