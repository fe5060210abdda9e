"""Time that a run will take: its step is measured, or estimated by the peak of the device."""

import statistics
import time

import torch

from config import ModelArgs
from dataloader.loader import Loader, Rows
from model import Llama, flops_per_token
from runtime.distributed import DistributedEnv, gather_objects
from training import lora
from training.objectives import Objective
from training.optimizers import build_optimizers

# Share of a device's peak that a training step is expected to reach; measured on CPUs and on an H100, a guess on mps.
EXPECTED_MFU = {"cpu": 0.8, "cuda": 0.33, "mps": 0.3}

PROBE_BATCHES = 3  # micro-batches that a measurement has at least
PLAN_SECONDS = 1.0  # of the measurement for a plan
SLOW_MICRO_BATCH = 2.0  # seconds; the estimate is good for models whose micro-batch takes longer on a CPU
FORWARD_SHARE = 0.3  # of the time of training on a row, to evaluate it
END_VALIDATION_SHARE = 0.15  # of the rows trained on: a twentieth of the time of training


def expected_seconds(args: ModelArgs, env: DistributedEnv, steps: int, peak: float) -> float:
    """Estimate the seconds of `steps` steps on devices with a peak of `peak` FLOP/s."""
    flops = steps * args.tokens_per_step * flops_per_token(args)
    if args.lora_rank and args.train == "S":
        flops *= 2 / 3  # without gradients of the weights; D has a forward pass of the reference instead
    return flops / (EXPECTED_MFU[env.device.type] * peak * env.world_size)


def step_seconds(
    objective: Objective, rows: Rows, args: ModelArgs, env: DistributedEnv, peak: float | None
) -> float | None:
    """Return the seconds of an optimizer step on the slowest rank: measured on a CPU where that is quick."""
    if not peak:
        return None
    estimate = max(gather_objects(expected_seconds(args, env, 1, peak)))
    if env.device.type != "cpu" or estimate > SLOW_MICRO_BATCH * args.gradient_accumulation_steps:
        return estimate
    return max(gather_objects(measure_step(objective, rows, args, env, PLAN_SECONDS)))


def run_seconds(
    args: ModelArgs, step: float, steps: int, rows: int, val_rows: int, reference_pass: bool
) -> float:
    """Return the seconds of `steps` steps of `step` seconds, of the evaluations between them and of a reference pass.

    rows and val_rows are those of the training and the validation set.
    """
    row = step / args.rows_per_step
    rows_between = min(val_rows, args.eval_check * args.batch_size)
    rows_at_ends = rows_between
    if ends_are_complete(val_rows, steps * args.rows_per_step):
        rows_at_ends = val_rows
    forward_rows = steps // args.eval_iters * rows_between + 2 * rows_at_ends
    if reference_pass:
        forward_rows += rows + val_rows
    return steps * step + FORWARD_SHARE * row * forward_rows


def ends_are_complete(val_rows: int, trained_rows: int) -> bool:
    """Check whether the evaluations before the first step and at the end cover all validation rows."""
    return val_rows <= END_VALIDATION_SHARE * trained_rows


def measure_step(
    objective: Objective, rows: Rows, args: ModelArgs, env: DistributedEnv, seconds: float
) -> float:
    """Return the seconds of an optimizer step, measured for some seconds on a model that is thrown away."""
    generator = torch.get_rng_state()
    model = Llama(args)
    if args.lora_rank:
        lora.inject(model, args, env.dtype)
    model.to(env.device).train()
    optimizers = build_optimizers(model, args)
    loader = Loader(rows, args.micro_batch_size, env.rank, env.world_size)
    micro_batches: list[float] = []
    end = time.perf_counter() + seconds

    # The first micro-batch warms up and is not counted.
    while len(micro_batches) <= PROBE_BATCHES or time.perf_counter() < end:
        start = time.perf_counter()
        batch = loader.next(env.device)
        with env.autocast():
            loss, _, _ = objective(model, batch)
        loss.backward()
        loss.item()
        micro_batches.append(time.perf_counter() - start)

    updates = []
    for _ in range(2):
        start = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
        next(model.parameters()).sum().item()  # waits for the device
        updates.append(time.perf_counter() - start)

    torch.set_rng_state(generator)
    return args.gradient_accumulation_steps * statistics.median(micro_batches[1:]) + min(updates)
