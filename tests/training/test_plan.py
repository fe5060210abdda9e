"""The plan: its sums, its notes, its words about attention, schedule and time."""

from types import SimpleNamespace

import pytest
import torch

from config import ModelArgs
from runtime.capacity import Capacity
from runtime.distributed import DistributedEnv
from training import plan

ENV = DistributedEnv(0, 0, 1, torch.device("cpu"), torch.float32, "a reason")

HERE = Capacity(memory=24e9, disk=50e9)


def lines(steps=1000, **settings):
    return plan.describe(ModelArgs(**settings), ENV, steps, 1_000_000, 600.0, False, HERE, 5.0)


def test_tokens_per_step_are_shown_as_a_product():
    text = "\n".join(lines())
    assert "tokens per step: 524,288 = 64 rows x 512 tokens x 16 micro-batches x 1 ranks" in text
    assert "a reason" in text and "note:" not in text


def test_notes_name_what_is_not_as_it_seems():
    assert any(
        "--gradient_accumulation_steps is given" in line for line in lines(gradient_accumulation_steps=3)
    )
    assert any("no multiple of the micro-batches" in line for line in lines(total_batch_size=500_000))
    assert any("inside --warmup_iters 700" in line for line in lines(steps=5, lr_decay_iters=5))
    assert any("--lr_decay_iters 5 is inside --warmup_iters 700" in line for line in lines(lr_decay_iters=5))


def test_time_in_words():
    assert [plan.duration(s) for s in (30, 600, 7200)] == ["30 seconds", "10 minutes", "2.0 hours"]


def test_the_schedule_and_its_checkpoint_are_shown():
    text = "\n".join(lines(steps=1000, lr_schedule="wsd", cooldown_iters=300))
    assert "constant until step 700, linear until step 1,000" in text
    assert "a cosine until step 1,000" in "\n".join(lines(steps=1000))
    one = plan.checkpoint_bytes(ModelArgs())
    assert plan.disk_bytes(ModelArgs(lr_schedule="wsd"), 10_000) == pytest.approx(6 * one)
    assert plan.disk_bytes(ModelArgs(lr_schedule="wsd", keep_checkpoints=0), 100) == pytest.approx(3 * one)
    assert plan.disk_bytes(ModelArgs(), 10) == pytest.approx(one)


@pytest.mark.parametrize(
    ("device", "dtype", "settings", "words"),
    [
        ("cpu", torch.float32, {}, "each document alone, on a CPU"),
        ("cpu", torch.float32, {"document_mask": False}, "--no-document_mask"),
        ("cpu", torch.float32, {"document_mask": False, "train": "S"}, "each document alone"),
        ("mps", torch.float32, {}, "a mask over each row, because mps has no other form"),
        ("cuda", torch.bfloat16, {"attn_dropout": 0.0}, "flash attention over the documents"),
        ("cuda", torch.bfloat16, {}, "takes no --attn_dropout 0.1"),
        ("cuda", torch.float32, {"attn_dropout": 0.0}, "takes 16 bits"),
        ("cuda", torch.bfloat16, {"attn_dropout": 0.0, "head_dim": 12}, "no flash attention for heads of 12"),
    ],
)
def test_the_form_of_attention_is_named_with_its_reason(device, dtype, settings, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9))
    env = DistributedEnv(0, 0, 1, torch.device(device), dtype, "")
    assert words in plan.attention(ModelArgs(**settings), env)


def test_memory_disk_and_rates_are_shown():
    text = "\n".join(lines(steps=200, optimizer="muon", save_checkpoint_iter=100))
    assert "a rank of 24.0 GB" in text
    assert "time: about 10 minutes" in text
    assert "for checkpoints of 50.0 GB free" in text
    assert "Muon up to 0.02, down to 0.002; AdamW up to 0.0006, down to 6e-05; 700 steps of warm-up" in text


def test_disk_counts_the_checkpoints_that_are_kept():
    one = plan.checkpoint_bytes(ModelArgs())
    counts = [
        plan.disk_bytes(ModelArgs(keep_checkpoints=keep, save_checkpoint_iter=50), steps) / one
        for keep, steps in ((0, 500), (3, 500), (3, 60))
    ]
    assert counts == [10, 5, 2]


def test_the_adapter_and_what_is_frozen_are_named():
    settings = {"train": "S", "lora_rank": 4, "lora_modules": ("q_proj", "v_proj")}
    (line,) = [line for line in lines(**settings) if line.startswith("adapter:")]
    assert "53,248 parameters, rank 4, scale 8, at q_proj, v_proj; the model is frozen" in line
    assert not any(line.startswith("adapter:") for line in lines())
    full = plan.checkpoint_bytes(ModelArgs(train="S"))
    assert plan.checkpoint_bytes(ModelArgs(**settings)) - plan.SMALL_FILES < 0.01 * full


def test_a_step_is_told_in_conversations_or_pairs():
    product = {"block_size": 64, "batch_size": 4, "total_batch_size": 2048}
    assert "1 ranks, about 160 conversations" in "\n".join(lines(train="S", **product))
    assert "1 ranks, about 40 pairs" in "\n".join(lines(train="D", **product))
    assert "1 ranks\n" in "\n".join(lines(**product))


def test_an_end_of_the_schedule_that_is_not_reached_is_a_note():
    text = "\n".join(lines(steps=1000, lr_decay_iters=20_000))
    assert "note: the run ends at step 1,000, before --lr_decay_iters 20000: its last rate is 0.0006" in text
    assert "note:" not in "\n".join(lines(steps=1000, lr_decay_iters=1000))


def test_a_schedule_whose_end_moves_is_a_note():
    args = ModelArgs(warmup_iters=2)
    (note,) = plan.moved_end(args, 20, 20, 40)
    assert "until step 40, not 20, so it is 0.00035 at step 20" in note and "been 6e-05" in note
    assert plan.moved_end(args, 20, 20, 20) == plan.moved_end(args, 20, None, 40) == []
    assert plan.moved_end(args, 3, 100_000, 100_001) == []
