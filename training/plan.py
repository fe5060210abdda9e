"""Training plan: what a run is about to do, in words and estimates, before its first step."""

import torch

from config import ModelArgs, world_size
from model import count_parameters
from runtime.capacity import Capacity
from runtime.distributed import DistributedEnv
from training.chunked_loss import MAX_CHUNK_LOGITS, MIN_CHUNK_TOKENS

# Memory of a rank besides weights and activations: libraries, code, buffers of the system.
BASE_BYTES = 3e8
# Weight, gradient and AdamW's two moments of a parameter, in float32.
BYTES_PER_PARAMETER = 16
# Bytes of an activation. In float32 4, and a tenth for the gaps between blocks of memory; several micro-batches a step
# leave larger gaps: measured on CPUs (benchmarks/LOG.md). In mixed precision about half of them are kept in 2 bytes.
ACTIVATION_BYTES_32_BIT = {False: 4.4, True: 7.5}  # by whether gradients are accumulated
ACTIVATION_BYTES_16_BIT = 3

# Matrices of T x T scores that are kept of each head where attention has dropout: probabilities, those dropped.
KEPT_SCORES = 1.4
# Layers that are in memory in full under --activation_checkpointing: recomputed, their gradients, gaps.
FULL_LAYERS = 3

# Bytes of a parameter in a checkpoint: its weight and two moments; of a matrix under Muon, which has one, fewer.
CHECKPOINT_BYTES = 12
SMALL_FILES = 16e6  # bytes of a checkpoint besides its tensors: tokenizer, settings, headers


def describe(
    args: ModelArgs,
    env: DistributedEnv,
    steps: int,
    epochs: float,
    seconds: float | None,
    compiled: bool,
    capacity: Capacity,
) -> list[str]:
    """Return the lines of the plan: model, device, tokens per step, steps, memory, disk, time, notes."""
    dtype = str(env.dtype).removeprefix("torch.")
    device = f"device: {env.device}, {dtype}"
    if env.device_note:
        device += f" ({env.device_note})"
    if compiled:
        device += ", compiled"

    time = "unknown on this device"
    if seconds is not None:
        time = f"about {duration(seconds)}"
    return [
        f"model: {count_parameters(args):,} parameters ({args.no_of_decoder_layers} layers, "
        f"width {args.embeddings_dims}, {args.no_of_heads} query and {args.no_kv_heads} key-value heads, "
        f"vocabulary {args.vocab_size}, context {args.block_size})",
        device,
        f"tokens per step: {args.tokens_per_step:,} = {args.micro_batch_size} rows x {args.row_tokens} tokens x "
        f"{args.gradient_accumulation_steps} micro-batches x {env.world_size} ranks",
        f"steps: {steps:,} ({epochs:.2f} epochs, {steps * args.tokens_per_step:,} tokens)",
        learning_rates(args, steps),
        f"memory: about {gigabytes(memory_bytes(args, env.dtype))} a rank"
        + (f" of {gigabytes(capacity.memory)}" if capacity.memory else ""),
        f"disk: about {gigabytes(disk_bytes(args, steps))} for checkpoints of {gigabytes(capacity.disk)} free",
        f"time: {time}",
        *notes(args, steps),
    ]


def learning_rates(args: ModelArgs, steps: int) -> str:
    """Return the line about optimizers, their rates and the schedule, and dropout."""
    rates = f"AdamW up to {args.max_lr:g}, down to {args.min_lr:g}"
    if args.optimizer == "muon":
        final = args.muon_lr * args.min_lr / args.max_lr
        rates = f"Muon up to {args.muon_lr:g}, down to {final:g}; {rates}"
    end = args.lr_decay_iters if args.explicit["lr_decay_iters"] else steps
    return (
        f"learning rate: {rates}; {args.warmup_iters} steps of warm-up, then a cosine until step {end:,}; "
        f"dropout {args.dropout:g}"
    )


def notes(args: ModelArgs, steps: int) -> list[str]:
    """Return a line for each setting that does not do what its name says."""
    lines = []
    if args.tokens_per_step != args.total_batch_size:
        reason = "it is no multiple of the micro-batches of all ranks"
        if args.explicit["gradient_accumulation_steps"]:
            reason = "--gradient_accumulation_steps is given"
        lines.append(f"note: --total_batch_size {args.total_batch_size} is not what a step sees: {reason}")

    if steps <= args.warmup_iters:
        lines.append(
            f"note: the run ends inside --warmup_iters {args.warmup_iters}: the learning rate never reaches "
            f"--max_lr {args.max_lr:g}"
        )
    elif args.explicit["lr_decay_iters"] and args.lr_decay_iters <= args.warmup_iters:
        lines.append(
            f"note: --lr_decay_iters {args.lr_decay_iters} is inside --warmup_iters {args.warmup_iters}: "
            f"after the warm-up the learning rate is --min_lr {args.min_lr:g}"
        )
    return lines


def checkpoint_bytes(args: ModelArgs) -> float:
    """Return the bytes of a checkpoint: weights, moments of the optimizer, small files."""
    return CHECKPOINT_BYTES * count_parameters(args) + SMALL_FILES


def disk_bytes(args: ModelArgs, steps: int) -> float:
    """Return the bytes of all checkpoints on the disk at a time: those kept, the best, the one being written."""
    saved = -(-steps // args.save_checkpoint_iter)
    kept = saved if args.keep_checkpoints == 0 else min(saved, args.keep_checkpoints + 2)
    return kept * checkpoint_bytes(args)


def gigabytes(size: float) -> str:
    """Return bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def memory_bytes(args: ModelArgs, dtype: torch.dtype) -> float:
    """Estimate a rank's memory: weights, gradients, moments, activations of a micro-batch, a chunk of logits."""
    per_layer = _activations_of_layer(args)
    per_token = args.no_of_decoder_layers * per_layer
    if args.activation_checkpointing:  # the input of each layer, and few layers at a time in full
        per_token = args.no_of_decoder_layers * args.embeddings_dims + FULL_LAYERS * per_layer

    shards = world_size() if args.parallel == "fsdp" else 1
    activations = args.micro_batch_size * args.row_tokens * per_token
    activation_bytes = ACTIVATION_BYTES_16_BIT
    if dtype == torch.float32:
        activation_bytes = ACTIVATION_BYTES_32_BIT[args.gradient_accumulation_steps > 1]
    logits = (
        2 * 4 * max(MAX_CHUNK_LOGITS, MIN_CHUNK_TOKENS * args.vocab_size)
    )  # a float32 copy under autocast
    parameters = BYTES_PER_PARAMETER * count_parameters(args) / shards
    return parameters + activations * activation_bytes + logits + BASE_BYTES


def _activations_of_layer(args: ModelArgs) -> float:
    """Return the values that backward needs of a layer for each token."""
    norms_and_residuals = 6 * args.embeddings_dims
    if args.dropout:
        norms_and_residuals += 2 * args.embeddings_dims

    heads = args.head_dim * (4 * args.no_of_heads + 4 * args.no_kv_heads)
    if args.attn_dropout:  # no kernel that is free of the scores drops any of them
        heads += KEPT_SCORES * args.no_of_heads * args.block_size
    return norms_and_residuals + heads + 4 * args.hidden_dims


def duration(seconds: float) -> str:
    """Return seconds in words."""
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    if seconds > 90:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds:.0f} seconds"
