"""Run that fits into the memory and the disk that it has: the micro-batch, and a check before the first step."""

import torch

from config import ModelArgs, world_size
from runtime.capacity import Capacity
from runtime.errors import UserError
from training.memory import memory_bytes
from training.plan import disk_bytes, gigabytes

USABLE_MEMORY = 0.9  # of the memory, for the estimate: it may be wrong by 15 %
DEFAULT_KEPT = ModelArgs.keep_checkpoints


def fit_micro_batch(
    args: ModelArgs, device: torch.device, dtype: torch.dtype, memory: float | None, largest: bool
) -> tuple[ModelArgs, str]:
    """Return settings whose micro-batch fits into a rank's memory, and the note for the plan (empty: unchanged).

    The tokens of a step stay. `largest` looks for the largest that fits; otherwise it only shrinks.
    """
    if memory is None:
        return args, ""
    candidates = micro_batch_sizes(args)
    if not largest:
        candidates = [size for size in candidates if size <= args.micro_batch_size]
    fitting = [
        size
        for size in candidates
        if memory_bytes(with_micro_batch(args, size), device, dtype) <= USABLE_MEMORY * memory
    ]
    size = fitting[0] if fitting else 1
    if size == args.micro_batch_size:
        return args, ""

    needed = memory_bytes(args, device, dtype)
    reason = f"{args.micro_batch_size} rows need about {gigabytes(needed)} of {gigabytes(memory)}"
    if largest:
        reason = f"the largest that fits into {gigabytes(memory)}"
    return with_micro_batch(
        args, size
    ), f"--micro_batch_size {size} instead of {args.micro_batch_size}: {reason}"


def micro_batch_sizes(args: ModelArgs) -> list[int]:
    """Return the micro-batch sizes, largest first, that make up the tokens of a step exactly."""
    rows = max(1, args.total_batch_size // args.row_tokens // world_size())
    return [size for size in range(rows, 0, -1) if rows % size == 0]


def with_micro_batch(args: ModelArgs, size: int) -> ModelArgs:
    """Return the settings with another micro-batch and equal tokens per step."""
    return args.replace(micro_batch_size=size, gradient_accumulation_steps=None)


def check_capacity(
    args: ModelArgs, device: torch.device, dtype: torch.dtype, steps: int, capacity: Capacity
) -> None:
    """Raise UserError with the flag that makes the run fit, where memory or disk cannot hold it."""
    needed = memory_bytes(args, device, dtype)
    if capacity.memory is not None and needed > capacity.memory:
        raise UserError(
            f"the run needs about {gigabytes(needed)} of memory a rank, and {gigabytes(capacity.memory)} are there: "
            f"{_memory_remedy(args, device, dtype, capacity.memory)}"
        )

    needed = disk_bytes(args, steps)
    if needed > capacity.disk:
        remedy = "make room, or choose a --save_checkpoint_dir on another disk"
        fewer = disk_bytes(args.replace(keep_checkpoints=DEFAULT_KEPT), steps)
        if fewer < min(needed, capacity.disk):
            remedy = f"--keep_checkpoints {DEFAULT_KEPT} needs {gigabytes(fewer)}"
        raise UserError(
            f"the checkpoints need about {gigabytes(needed)} and {gigabytes(capacity.disk)} of the disk are free: "
            f"{remedy}"
        )


def _memory_remedy(args: ModelArgs, device: torch.device, dtype: torch.dtype, memory: float) -> str:
    """Return the flags that make a run fit into memory."""
    fitted, _ = fit_micro_batch(args, device, dtype, memory, largest=False)
    if memory_bytes(fitted, device, dtype) <= memory:
        return f"add --micro_batch_size {fitted.micro_batch_size} (the tokens of a step stay)"
    fitted = fitted.replace(activation_checkpointing=True)
    if memory_bytes(fitted, device, dtype) <= memory:
        return f"add --micro_batch_size {fitted.micro_batch_size} --activation_checkpointing"
    return "take a smaller --embeddings_dims, --no_of_decoder_layers or --block_size"
