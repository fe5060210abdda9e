"""Training plan: what a run is about to do, in words and estimates, before its first step."""

import torch

from config import ModelArgs
from kernels.attention import form_of_attention, has_flash
from model import count_parameters
from runtime.capacity import Capacity
from runtime.distributed import DistributedEnv
from training.lora import MODULES, count_adapter_parameters
from training.memory import memory_bytes
from training.optimizers import cooldown_start, schedule

# Bytes of a parameter in a checkpoint: its weight and two moments; of a matrix under Muon, which has one, fewer.
CHECKPOINT_BYTES = 12
RATE_CHANGE = 0.01  # of the learning rate, that is worth a line
SMALL_FILES = 16e6  # bytes of a checkpoint besides its tensors: tokenizer, settings, headers


def describe(
    args: ModelArgs,
    env: DistributedEnv,
    steps: int,
    epochs: float,
    seconds: float | None,
    compiled: bool,
    capacity: Capacity,
    documents_per_row: float,
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
        *adapter(args, env),
        device,
        attention(args, env),
        f"tokens per step: {args.tokens_per_step:,} = {args.micro_batch_size} rows x {args.row_tokens} tokens x "
        f"{args.gradient_accumulation_steps} micro-batches x {env.world_size} ranks"
        + documents_per_step(args, documents_per_row),
        f"steps: {steps:,} ({epochs:.2f} epochs, {steps * args.tokens_per_step:,} tokens)",
        learning_rates(args, steps),
        f"memory: about {gigabytes(memory_bytes(args, env.device, env.dtype))} a rank"
        + (f" of {gigabytes(capacity.memory)}" if capacity.memory else ""),
        f"disk: about {gigabytes(disk_bytes(args, steps))} for checkpoints of {gigabytes(capacity.disk)} free",
        f"time: {time}",
        *notes(args, steps),
    ]


def adapter(args: ModelArgs, env: DistributedEnv) -> list[str]:
    """Return the line about what LoRA trains and what it leaves; none where all weights are trained."""
    if not args.lora_rank:
        return []
    return [
        f"adapter: {count_adapter_parameters(args):,} parameters, rank {args.lora_rank}, scale "
        f"{args.lora_alpha / args.lora_rank:g}, at {', '.join(args.lora_modules or MODULES)}; the model is frozen, "
        f"its matrices in {str(env.dtype).removeprefix('torch.')}"
    ]


def attention(args: ModelArgs, env: DistributedEnv) -> str:
    """Return the line about the form of attention and why it is taken; see kernels/attention.py."""
    packed = args.document_mask or args.train != "P"
    form = form_of_attention(env.device, env.dtype, args.head_dim, args.attn_dropout, packed)
    reasons = {
        "causal": "--no-document_mask: tokens attend to earlier documents of their row, too",
        "by segment": "each document alone, on a CPU",
        "varlen": "flash attention over the documents of a row",
        "mask": "a mask over each row, because " + _why_mask(args, env),
    }
    return f"attention: {reasons[form]}"


def _why_mask(args: ModelArgs, env: DistributedEnv) -> str:
    """Return why packed rows need a mask."""
    if env.device.type != "cuda":
        return f"{env.device.type} has no other form"
    if not has_flash(env.device, torch.bfloat16, args.head_dim):
        return f"this card has no flash attention for heads of {args.head_dim}"
    if env.dtype == torch.float32:
        return "flash attention takes 16 bits"
    return f"flash attention over documents takes no --attn_dropout {args.attn_dropout:g}"


def documents_per_step(args: ModelArgs, documents_per_row: float) -> str:
    """Return how many conversations or pairs an optimizer step sees, in words; empty for texts."""
    documents = documents_per_row * args.rows_per_step
    if args.train == "S":
        return f", about {documents:,.0f} conversations"
    if args.train == "D":
        return f", about {documents / 2:,.0f} pairs"
    return ""


def learning_rates(args: ModelArgs, steps: int) -> str:
    """Return the line about optimizers, their rates and the schedule, and dropout."""
    rates = f"AdamW up to {args.max_lr:g}, down to {args.min_lr:g}"
    if args.optimizer == "muon":
        final = args.muon_lr * args.min_lr / args.max_lr
        rates = f"Muon up to {args.muon_lr:g}, down to {final:g}; {rates}"
    end = args.lr_decay_iters if args.explicit["lr_decay_iters"] else steps
    course = f"a cosine until step {end:,}"
    if args.lr_schedule == "wsd":
        start = max(args.warmup_iters, cooldown_start(args, end))
        course = f"constant until step {start:,}, linear until step {end:,}"
    return f"learning rate: {rates}; {args.warmup_iters} steps of warm-up, then {course}; dropout {args.dropout:g}"


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
    elif args.explicit["lr_decay_iters"] and args.lr_decay_iters > steps:
        last = schedule(steps - 1, args, args.lr_decay_iters)
        lines.append(
            f"note: the run ends at step {steps:,}, before --lr_decay_iters {args.lr_decay_iters}: its last rate is "
            f"{last:.2g}, not --min_lr {args.min_lr:g}"
        )
    return lines


def moved_end(args: ModelArgs, step: int, old_end: int | None, new_end: int) -> list[str]:
    """Return a line about the rate of a resumed run whose schedule ends at another step than before, if it moves."""
    if old_end is None or old_end == new_end:
        return []
    old, new = (schedule(step, args, end) for end in (old_end, new_end))
    if abs(new - old) <= RATE_CHANGE * old:
        return []
    return [
        f"note: the rate now falls until step {new_end:,}, not {old_end:,}, so it is {new:.2g} at step {step:,}, where "
        f"it would have been {old:.2g}; --lr_decay_iters {old_end} keeps its course"
    ]


def checkpoint_bytes(args: ModelArgs) -> float:
    """Return the bytes of a checkpoint: weights that are trained, moments of the optimizer, small files."""
    trained = count_adapter_parameters(args) if args.lora_rank else count_parameters(args)
    return CHECKPOINT_BYTES * trained + SMALL_FILES


def disk_bytes(args: ModelArgs, steps: int) -> float:
    """Return the bytes of all checkpoints on the disk at a time.

    They are those kept, the best, the one being written, under wsd that at which the rate begins to fall.
    """
    before_cooldown = 1 if args.lr_schedule == "wsd" else 0
    saved = -(-steps // args.save_checkpoint_iter) + before_cooldown
    best_and_newest = 2
    kept = saved
    if args.keep_checkpoints:
        kept = min(saved, args.keep_checkpoints + best_and_newest + before_cooldown)
    return kept * checkpoint_bytes(args)


def gigabytes(size: float) -> str:
    """Return bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Return seconds in words."""
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    if seconds > 90:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds:.0f} seconds"
