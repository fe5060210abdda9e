"""Length of a run: tokens per step, epochs, steps and warm-up that fit the amount of data.

The defaults are meant for billions of tokens: a book, or fifty answers, would be over inside the warm-up. So values
that were not typed are adapted. Each change is a note of the plan, with its reason and the flag that overrides it.
"""

import math
from collections.abc import Mapping

from config import STAGE_DEFAULTS, ModelArgs
from model import count_parameters

MIN_STEPS = 200  # fewer optimizer steps teach a model next to nothing, whatever the data
BUDGET_EVALUATIONS = 10  # of a run with a --budget
BY_HEART = 2  # times as many epochs as MIN_STEPS asks for, where a few answers are learned by heart
RATE_PARAMETERS = 48e6  # of the model that the default rates of S and D are for: that of the default settings
RATE_EXPONENT = 0.713  # of the parameters in the Step Law, arXiv 2503.04715
# Rates of LoRA, for a width of 2,000: about ten times those of all weights; narrow models want larger ones. S has the
# formula of the Tinker cookbook for Llamas, D a tenth of it.
LORA_RATES = {"S": 5e-4, "D": 5e-5}
LORA_WIDTH = 2000
LORA_EXPONENT = 0.781
WARMUP_SHARE = 10  # the warm-up takes at most a tenth of the steps


def count_steps(args: ModelArgs, rows: int, step: int = 0, rows_consumed: int = 0) -> int:
    """Return the step at which a run ends that has reached `step`: by --total_iters or --epochs, whichever is first.

    `rows` is the number of rows in an epoch. A limit of None is none.
    """
    limits = []
    if args.total_iters:
        limits.append(args.total_iters)
    if args.epochs:
        rows_left = max(0, args.epochs * rows - rows_consumed)
        limits.append(max(1, step + rows_left // args.rows_per_step))
    return min(limits)


def fit_to_data(
    args: ModelArgs, typed: Mapping[str, object], rows: int, world_size: int
) -> tuple[ModelArgs, list[str]]:
    """Return settings that fit `rows` rows an epoch, and a note for each one that was changed.

    `typed` names the flags that were typed, which stay as they are. Where there would be fewer than MIN_STEPS steps,
    the batch shrinks first, down to one row on each rank; then, if neither limit was typed, the epochs grow.
    """
    notes: list[str] = []
    if not {"total_batch_size", "gradient_accumulation_steps"} & set(typed):
        args = _fit_batch(args, typed, rows, world_size, notes)
    args = _fit_micro_batch(args, typed, world_size)
    if not {"epochs", "total_iters", "budget"} & set(typed):
        args = _fit_epochs(args, typed, rows, notes)
    return _fit_rate(args, typed, notes), notes


def fit_schedule(args: ModelArgs, typed: Mapping[str, object], steps: int) -> tuple[ModelArgs, list[str]]:
    """Return settings whose warm-up, evaluations and checkpoints suit a run of this many steps, and the notes."""
    notes: list[str] = []
    most = steps // WARMUP_SHARE
    if "warmup_iters" not in typed and args.warmup_iters > most:
        notes.append(f"--warmup_iters {most} instead of {args.warmup_iters}: a tenth of {steps:,} steps")
        args = args.replace(warmup_iters=most)

    # A run by the clock has steps of any length: evaluating every 50 could take most of its time.
    if "budget" in typed:
        for name in ("eval_iters", "save_checkpoint_iter"):
            every = max(1, steps // BUDGET_EVALUATIONS)
            if name not in typed and every > getattr(args, name):
                notes.append(f"--{name} {every} instead of {getattr(args, name)}: a tenth of the run")
                args = args.replace(**{name: every})
    return args, notes


def _fit_batch(
    args: ModelArgs, typed: Mapping[str, object], rows: int, world_size: int, notes: list[str]
) -> ModelArgs:
    """Shrink the batch so that the epochs have MIN_STEPS steps.

    Where --total_iters alone was typed, the default number of epochs still says how large a batch is sensible.
    """
    epochs = args.epochs or type(args).epochs
    wanted = args.total_batch_size // args.row_tokens
    fitting = max(1, epochs * rows // MIN_STEPS // world_size) * world_size
    if fitting >= wanted:
        return args

    total_batch_size = fitting * args.row_tokens
    notes.append(
        f"--total_batch_size {total_batch_size} instead of {args.total_batch_size}: --epochs {epochs} of {rows:,} rows "
        f"then has {max(1, epochs * rows // fitting):,} steps"
    )
    return args.replace(total_batch_size=total_batch_size, gradient_accumulation_steps=None)


def _fit_micro_batch(args: ModelArgs, typed: Mapping[str, object], world_size: int) -> ModelArgs:
    """Shrink the micro-batch so that micro-batches of all ranks make up --total_batch_size exactly."""
    chosen = {name for name, value in typed.items() if value != "auto"}
    if {"micro_batch_size", "batch_size", "gradient_accumulation_steps"} & chosen:
        return args
    rows_of_rank = max(1, args.total_batch_size // args.row_tokens // world_size)
    micro_batch_size = largest_divisor(rows_of_rank, args.micro_batch_size)
    if micro_batch_size == args.micro_batch_size:
        return args
    return args.replace(micro_batch_size=micro_batch_size, gradient_accumulation_steps=None)


def _fit_epochs(args: ModelArgs, typed: Mapping[str, object], rows: int, notes: list[str]) -> ModelArgs:
    """Raise the epochs so that the run has MIN_STEPS steps, or the fewer that --total_iters allows.

    A few answers are learned by heart: without dropout, and twice as often.
    """
    wanted = min(MIN_STEPS, args.total_iters or MIN_STEPS)
    epochs = math.ceil(wanted * args.rows_per_step / rows)
    if epochs <= args.epochs:
        return args
    if args.train != "S":
        notes.append(f"--epochs {epochs} instead of {args.epochs}: for {wanted} steps on few rows")
        return args.replace(epochs=epochs)

    epochs *= BY_HEART
    notes.append(f"--epochs {epochs} instead of {args.epochs}: so that the few rows are learned by heart")
    for name in ("dropout", "attn_dropout"):
        if name not in typed and getattr(args, name):
            notes.append(f"--{name} 0 instead of {getattr(args, name)}: the same")
            args = args.replace(**{name: 0.0})
    return args.replace(epochs=epochs)


def _fit_rate(args: ModelArgs, typed: Mapping[str, object], notes: list[str]) -> ModelArgs:
    """Raise the default learning rate of S and D for a small model, by the exponent of the Step Law."""
    if args.lora_rank:
        return _fit_lora(args, typed, notes)
    default = STAGE_DEFAULTS[args.train].get("max_lr")
    parameters = count_parameters(args)
    if "max_lr" in typed or args.max_lr != default or parameters >= RATE_PARAMETERS:
        return args
    max_lr = float(f"{default * (RATE_PARAMETERS / parameters) ** RATE_EXPONENT:.1g}")
    notes.append(
        f"--max_lr {max_lr:g} instead of {default:g}: a model of {parameters / 1e6:.1f}M parameters wants a larger "
        "rate (arXiv 2503.04715)"
    )
    return args.replace(max_lr=max_lr)


def _fit_lora(args: ModelArgs, typed: Mapping[str, object], notes: list[str]) -> ModelArgs:
    """Take the optimizer and the rate of LoRA: those of stages and presets are for all weights."""
    rate = LORA_RATES[args.train] * (LORA_WIDTH / args.embeddings_dims) ** LORA_EXPONENT
    for name, value in {"optimizer": "adamw", "max_lr": float(f"{rate:.1g}")}.items():
        if name not in typed and getattr(args, name) != value:
            notes.append(f"--{name} {value} instead of {getattr(args, name)}: an adapter's own")
            args = args.replace(**{name: value})
    return args


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit`."""
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)
