"""torch.compile where it helps, timed against the plain model; a broken compiler leaves the plain model."""

import math
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from kernels.attention import Segments
from runtime.distributed import DistributedEnv, all_reduce_sum
from runtime.errors import UserError

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


def compile_if_faster(
    model: nn.Module,
    forced: bool,
    time_micro_batch: Callable[[nn.Module], float],
    env: DistributedEnv,
    say: Callable[[str], None],
) -> nn.Module:
    """Return the compiled model if that is forced or faster on all ranks together, else the model.

    Raises UserError where it is forced and the compiler fails.
    """
    # Else a graph that is compiled inside DDP is cut where its buckets end: other kernels, other roundings.
    torch._dynamo.config.optimize_ddp = False
    say("compiling the model (a minute or two)…")
    start = time.perf_counter()
    compiled = torch.compile(model)
    seconds, fault = _time_compiled(model, compiled, time_micro_batch)
    if forced:
        if fault:
            raise UserError(
                f"--compile: the compiler fails here ({fault}): drop the flag, or take --no-compile"
            )
        return compiled

    both = torch.tensor([seconds, time_micro_batch(model)], device=env.device)
    compiled_seconds, plain_seconds = all_reduce_sum(both).tolist()

    took = f"{time.perf_counter() - start:.0f} s"
    if compiled_seconds < plain_seconds:
        say(f"compiled: {plain_seconds / compiled_seconds:.2f} x faster ({took})")
        return compiled
    reason = fault or f"{compiled_seconds / plain_seconds:.2f} x slower"
    say(f"not compiled: {reason} ({took})")
    return model


def _time_compiled(
    model: nn.Module, compiled: nn.Module, time_micro_batch: Callable[[nn.Module], float]
) -> tuple[float, str]:
    """Return the seconds of a micro-batch of the compiled model and ""; infinity and why, if the compiler fails."""
    from torch._dynamo.exc import (
        ShortenTraceback,  # the base of a compiler's faults; it takes seconds to import
    )

    try:
        return time_micro_batch(compiled), ""
    except ShortenTraceback as error:
        model.zero_grad(set_to_none=True)
        return math.inf, str(error).strip().splitlines()[0]


def allow_any_segments(segments: Segments | None) -> None:
    """Tell torch.compile that batches differ in their number of segments.

    Else it compiles one graph for the first batch and, in the first steps of training, another one for all others.
    """
    if segments is None or segments.rows is not None:
        return
    for part in segments[1:]:
        if part is not None:
            torch._dynamo.maybe_mark_dynamic(part, 0)


def compile_or_plain(function: Callable[Inputs, Result]) -> Callable[Inputs, Result]:
    """Return a function that is compiled at its first call; where the compiler fails, it is plain from then on."""
    compiled = torch.compile(function)

    def call(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Result:
        nonlocal compiled
        from torch._dynamo.exc import ShortenTraceback

        try:
            return compiled(*args, **kwargs)
        except ShortenTraceback:
            compiled = function
            return function(*args, **kwargs)

    return call
