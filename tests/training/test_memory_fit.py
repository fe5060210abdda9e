"""Micro-batches that fit into memory without changing a step; runs that cannot fit are refused with a remedy."""

import pytest
import torch

from config import ModelArgs
from runtime.capacity import Capacity
from runtime.errors import UserError
from training.memory import memory_bytes
from training.memory_fit import USABLE_MEMORY, check_capacity, fit_micro_batch, micro_batch_sizes
from training.plan import checkpoint_bytes

ARGS = ModelArgs(total_batch_size=64 * 512)
CPU = torch.device("cpu"), torch.float32


def test_candidates_make_up_the_step_exactly() -> None:
    assert micro_batch_sizes(ARGS) == [64, 32, 16, 8, 4, 2, 1]
    assert micro_batch_sizes(ARGS.replace(total_batch_size=12 * 512)) == [12, 6, 4, 3, 2, 1]


@pytest.mark.parametrize("largest", [False, True])
def test_the_micro_batch_shrinks_until_it_fits(largest: bool) -> None:
    memory = memory_bytes(ARGS.replace(micro_batch_size=10), *CPU)
    fitted, note = fit_micro_batch(ARGS, *CPU, memory, largest)
    assert fitted.micro_batch_size == 8 and "--micro_batch_size 8 instead of 64" in note
    assert fitted.tokens_per_step == ARGS.tokens_per_step
    assert memory_bytes(fitted, *CPU) <= USABLE_MEMORY * memory


def test_it_grows_only_where_it_is_asked_to() -> None:
    small = ARGS.replace(micro_batch_size=2)
    assert fit_micro_batch(small, *CPU, 1e15, largest=False) == (small, "")
    fitted, note = fit_micro_batch(small, *CPU, 1e15, largest=True)
    assert fitted.micro_batch_size == 64 and "the largest that fits into" in note
    assert fit_micro_batch(small, *CPU, None, largest=True) == (small, "")


def test_too_little_memory_names_the_flag() -> None:
    memory = memory_bytes(ARGS.replace(micro_batch_size=10), *CPU)
    with pytest.raises(UserError, match=r"--micro_batch_size 8 \(the tokens of a step stay\)"):
        check_capacity(ARGS, *CPU, 100, Capacity(memory, 1e15))

    one = memory_bytes(ARGS.replace(micro_batch_size=1), *CPU)
    with pytest.raises(UserError, match="--micro_batch_size 1 --activation_checkpointing"):
        check_capacity(ARGS, *CPU, 100, Capacity(0.999 * one, 1e15))
    with pytest.raises(UserError, match="smaller --embeddings_dims"):
        check_capacity(ARGS, *CPU, 100, Capacity(1e6, 1e15))
    check_capacity(ARGS, *CPU, 100, Capacity(None, 1e15))


def test_too_little_disk_names_the_flag() -> None:
    one = checkpoint_bytes(ARGS)
    check_capacity(ARGS, *CPU, 10_000, Capacity(1e15, 5 * one))
    everything = ARGS.replace(keep_checkpoints=0)
    with pytest.raises(UserError, match="--keep_checkpoints 3 needs"):
        check_capacity(everything, *CPU, 10_000, Capacity(1e15, 6 * one))
    with pytest.raises(UserError, match="make room"):
        check_capacity(everything, *CPU, 10_000, Capacity(1e15, 0.5 * one))
