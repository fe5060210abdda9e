"""What a run is about to do, in words and rough figures, before its first step."""

import torch

from config import ModelArgs, world_size
from model import count_parameters, flops_per_token
from runtime.distributed import DistributedEnv

# Share of a device's peak that a training step of ours is expected to reach; measured on CPUs, a guess elsewhere.
EXPECTED_MFU = {"cpu": 0.8, "cuda": 0.4, "mps": 0.3}


def describe(
    args: ModelArgs,
    env: DistributedEnv,
    steps: int,
    done: int,
    epochs: float,
    peak: float | None,
    compiled: bool,
) -> list[str]:
    """The lines of the plan: model, device and why, tokens per step, steps, memory and time, and what looks odd."""
    tokens, dtype = steps * args.tokens_per_step, str(env.dtype).removeprefix("torch.")
    note = f" ({env.device_note})" if env.device_note else ""
    lines = [
        f"model: {count_parameters(args):,} parameters ({args.no_of_decoder_layers} layers, "
        f"width {args.embeddings_dims}, {args.no_of_heads} query and {args.no_kv_heads} key-value heads, "
        f"vocabulary {args.vocab_size}, context {args.block_size})",
        f"device: {env.device}, {dtype}{note}{', compiled' if compiled else ''}",
        f"tokens per step: {args.tokens_per_step:,} = {args.micro_batch_size} rows x {args.row_tokens} tokens x "
        f"{args.gradient_accumulation_steps} micro-batches x {env.world_size} ranks",
        f"steps: {steps:,} ({epochs:.2f} epochs, {tokens:,} tokens); optimizer {args.optimizer}, "
        f"learning rate up to {args.max_lr:g}, down to {args.min_lr:g}",
        f"memory: about {memory_bytes(args, env.dtype) / 1e9:.1f} GB a rank; time: "
        + (
            f"about {duration(expected_seconds(args, env, steps - done, peak))}"
            if peak
            else "unknown on this device"
        ),
    ]
    if args.tokens_per_step != args.total_batch_size:
        why = (
            "--gradient_accumulation_steps is given"
            if args.explicit["gradient_accumulation_steps"]
            else "it is no multiple of the micro-batches of all ranks"
        )
        lines.append(f"note: --total_batch_size {args.total_batch_size} is not what a step sees: {why}")
    if steps <= args.warmup_iters:
        lines.append(
            f"note: the run ends inside --warmup_iters {args.warmup_iters}: the learning rate never reaches "
            f"--max_lr {args.max_lr:g}"
        )
    elif args.lr_decay_iters <= args.warmup_iters:
        lines.append(
            f"note: --lr_decay_iters {args.lr_decay_iters} is inside --warmup_iters {args.warmup_iters}: "
            f"after the warm-up the learning rate is --min_lr {args.min_lr:g}"
        )
    return lines


def expected_seconds(args: ModelArgs, env: DistributedEnv, steps: int, peak: float) -> float:
    """Seconds that so many steps should take on devices of this peak (FLOP/s)."""
    flops = steps * args.tokens_per_step * flops_per_token(args)
    return flops / (EXPECTED_MFU[env.device.type] * peak * env.world_size)


def memory_bytes(args: ModelArgs, dtype: torch.dtype) -> float:
    """A rough count of a rank's memory: weights, gradients, two moments, and what backward needs of a micro-batch."""
    heads = args.head_dim * (4 * args.no_of_heads + 4 * args.no_kv_heads)
    layer = 6 * args.embeddings_dims + heads + 4 * args.hidden_dims
    per_token = args.no_of_decoder_layers * layer
    if args.activation_checkpointing:  # each layer's input, and one layer at a time in full
        per_token = args.no_of_decoder_layers * args.embeddings_dims + layer
    parts = world_size() if args.parallel == "fsdp" else 1
    activations = args.micro_batch_size * args.row_tokens * per_token * (4 if dtype == torch.float32 else 3)
    head = 2 * 4 * max(1 << 24, 256 * args.vocab_size)
    return 16 * count_parameters(args) / parts + activations + head + 3e8


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
