"""Run that ends within a time: --budget 20m. Size, batch and rates by published rules, steps by measured speed.

Size: operations C = 6 N D for N parameters and D tokens, best at D = 20 N (Hoffmann et al., arXiv 2203.15556).
Data that is repeated up to four times is almost as good as new, beyond that less so (Muennighoff et al., arXiv
2305.16264). Batch and learning rate: the Step Law (Li et al., arXiv 2503.04715), B = 0.58 D^0.571 tokens and
lr = 1.79 N^-0.713 D^0.307.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path

from config import ModelArgs
from model import count_parameters, flops_per_token

UNITS = {"s": 1, "m": 60, "h": 3600}
SIZE_FLAGS = {
    "preset",
    "init_from",
    "embeddings_dims",
    "no_of_decoder_layers",
    "no_of_heads",
    "head_dim",
    "hidden_dims",
    "block_size",
}

TOKENS_PER_PARAMETER = 20
MAX_EPOCHS = 8  # more repetitions of the data teach little
MAX_PARAMETERS_PER_TOKEN = 10  # of the data: a larger model learns it by heart
WIDTHS = (64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
ROW_TOKENS = {0: 256, 10_000_000: 512, 60_000_000: 1024}  # context by number of parameters
SHORT_RUN = 3000  # steps; Muon's momentum of 0.95 remembers too much for a run shorter than this
EVALUATION_BATCHES = 20

REPLANS = 40  # times in a run at which its end is adapted to the measured speed
SAFETY = 0.99  # of the time: evaluation and saving vary
EXPECTED_SHARE = {"cpu": 0.5, "cuda": 0.35, "mps": 0.3}  # of the peak, for models of this size


def seconds_of(budget: str) -> float:
    """Return the seconds of a budget such as 90s, 20m or 1.5h."""
    return float(budget[:-1]) * UNITS[budget[-1]]


def seconds_since_start() -> float:
    """Return the seconds since this process started, imports included."""
    try:
        # Field 22 of /proc/self/stat, in clock ticks since boot; the second field, in parentheses, may hold spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / 100
    except (OSError, AttributeError, ValueError):
        return time.process_time()


def shape(width: int) -> dict[str, int]:
    """Return layers and heads that go with a width."""
    head_dim = 32 if width < 512 else 64
    return {
        "embeddings_dims": width,
        "no_of_decoder_layers": min(width // 32, 12 + (width - 384) // 96),
        "no_of_heads": max(2, width // head_dim // 2 * 2),
        "no_kv_heads": 2,
    }


def choose_size(
    args: ModelArgs, typed: Mapping[str, object], tokens: int, flops: float
) -> tuple[ModelArgs, list[str]]:
    """Return settings for pretraining with this many operations on data of this many tokens, and notes for the plan.

    Flags that were typed stay. A size that was typed, by its flags, a preset or a start, leaves everything as it is.
    """
    if args.train != "P" or SIZE_FLAGS & typed.keys():
        return args, []

    # Best for the operations, if the data allows it; else all repetitions of the data that still teach.
    wanted = math.sqrt(flops / (6 * TOKENS_PER_PARAMETER))
    rule = f"{TOKENS_PER_PARAMETER} tokens a parameter, arXiv 2203.15556"
    if TOKENS_PER_PARAMETER * wanted > MAX_EPOCHS * tokens:
        wanted = flops / (6 * MAX_EPOCHS * tokens)
        rule = f"{MAX_EPOCHS} epochs of the data, arXiv 2305.16264"
    if wanted > MAX_PARAMETERS_PER_TOKEN * tokens:
        wanted = MAX_PARAMETERS_PER_TOKEN * tokens
        rule = f"at most {MAX_PARAMETERS_PER_TOKEN} parameters for a token of the data"

    sizes = [args.replace(head_dim=None, hidden_dims=None, **shape(width)) for width in WIDTHS]
    chosen = min(sizes, key=lambda size: abs(math.log(count_parameters(size) / wanted)))
    parameters = count_parameters(chosen)
    context = max(length for least, length in ROW_TOKENS.items() if parameters >= least)
    seen = min(flops / flops_per_token(chosen), MAX_EPOCHS * tokens)
    notes = [f"size: {parameters / 1e6:.1f}M parameters for about {seen / 1e6:.1f}M tokens ({rule})"]

    rates = step_law(parameters, seen)
    batch = max(1, round(rates["tokens"] / context)) * context
    steps = max(1, int(seen / batch))
    notes.append(
        f"batch of {batch:,} tokens, learning rate {rates['lr']:.2g} (Step Law, arXiv 2503.04715); optimizer muon"
    )
    expected = expected_nats_per_byte(flops_per_token(chosen) * seen)
    notes.append(f"expect about {expected:.2f} nats a byte on held-out English text")
    values = {
        "block_size": context,
        "total_batch_size": batch,
        "batch_size": min(ModelArgs.batch_size, batch // context),
        "max_lr": float(f"{rates['lr']:.2g}"),
        "min_lr": 0.0,
        "optimizer": "muon",
        "muon_momentum": 0.8 if steps < SHORT_RUN else 0.95,
        "attn_dropout": 0.0,
        "dropout": 0.1 if seen > 2 * tokens else 0.0,
        "eval_check": EVALUATION_BATCHES,
    }
    free = {name: value for name, value in values.items() if name not in typed}
    return chosen.replace(micro_batch_size=None, gradient_accumulation_steps=None, **free), notes


def step_law(parameters: float, tokens: float) -> dict[str, float]:
    """Return the best batch, in tokens, and the best peak learning rate (arXiv 2503.04715, equation 1)."""
    return {"tokens": 0.58 * tokens**0.571, "lr": 1.79 * parameters**-0.713 * tokens**0.307}


def expected_nats_per_byte(operations: float) -> float:
    """Return the validation loss on English text that a well-trained model of this many operations reaches, about.

    1.22 nats a byte at 1.3e13 operations is this project's (a 1 MB book, benchmarks/LOG.md), 0.76 at 2.0e18 and the
    limit of 0.38 are those of Hoffmann et al. (arXiv 2203.15556) at 4.4 bytes a token.
    """
    return 0.38 + 0.84 * (operations / 1.3e13) ** -0.067


class Deadline:
    """End of a run in time: its number of steps, adapted to the speed that is measured while it trains."""

    def __init__(self, budget: str):
        self.seconds = SAFETY * seconds_of(budget)
        self.first_step: int | None = None
        self.first_time = 0.0
        self.may_extend = True  # False: the data ends the run sooner
        self.closing_seconds = 0.0  # of the longest evaluation and save so far

    def left(self) -> float:
        """Return the seconds until the end."""
        return self.seconds - seconds_since_start()

    def closing(self, seconds: float) -> None:
        """Remember how long an evaluation with its checkpoint took: the last one must end in time."""
        self.closing_seconds = max(self.closing_seconds, seconds)

    def steps(self, step: int, planned: int) -> int:
        """Return the step at which the run should end, seen from `step`; called after each step."""
        if self.first_step is None:
            self.first_step = step
            self.first_time = seconds_since_start()
        done = step - self.first_step
        if done == 0 or step % max(1, planned // REPLANS):
            return planned

        seconds_per_step = (seconds_since_start() - self.first_time) / done
        left = max(0.0, self.left() - self.closing_seconds)
        steps = step + max(1, int(left / seconds_per_step))
        return steps if self.may_extend else min(steps, planned)
