"""Train a Llama: one visible loop for every stage, on one process or many.

    python trainer.py --train P --preset stories                                           on a laptop
    torchrun --standalone --nproc_per_node=gpu trainer.py --train P --dataset fw           on all GPUs of a machine
    python trainer.py --train P --preset stories --resume                                  continue, exactly
    python trainer.py --train S --dataset alpaca --init_from checkpoints/P-fw              fine-tune on instructions
    python trainer.py --train D --dataset dpo --init_from checkpoints/S-alpaca             align with preferences

Writes <save_checkpoint_dir>/<run_name>/: metrics.jsonl, loss_curves.png, step folders (Hugging Face models), latest.
SIGTERM, SIGUSR1 and Ctrl-C save and leave within seconds. `--help` lists every setting, `--dry_run` prints the plan.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors")

import contextlib
import math
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from config import ModelArgs, Parser
from dataloader.loader import Loader
from model import flops_per_token
from runtime import distributed
from runtime.distributed import DistributedEnv
from runtime.errors import LocalRankError, RunError, run_cli
from runtime.launcher import exit_when_torchrun_dies, save_launch_id
from runtime.os_errors import in_words
from runtime.progress import Progress
from runtime.watchdog import StopRequested
from training import state
from training.memory_fit import check_capacity
from training.metrics import Metrics, read_metrics
from training.nonfinite import NotFinite
from training.objectives import Objective, global_means
from training.optimizers import adapt_scale, set_lr
from training.run import Run
from training.run_time import ends_are_complete
from training.settings import resolve_run
from training.tracker import check_tracker

GROUPS = ("run", "data", "device", "model", "optimization", "lora", "evaluation", "dpo", "sampling")
SUMMARY_STEPS = 50  # the last training losses that the summary averages
MAX_EPOCH_EVALUATIONS = 10  # that a run makes for the ends of epochs, besides those every --eval_iters steps


@dataclass(frozen=True)
class StepResult:
    """Means over all tokens or pairs of a step and its gradient norm; or the fault that made it skip its update."""

    means: dict[str, float]
    fault: NotFinite | None = None


def train(run: Run, bar: Progress) -> None:
    """Train to the end of the run: a step, a line of metrics; save and evaluate when due."""
    args, env = run.args, run.env
    metrics = None
    if env.is_main_process:
        metrics = Metrics(run.folder, args.wandb, args.explicit, run.progress.step, args.tracker)
    stopping = not evaluate_start(run, metrics)

    while run.progress.step < run.steps and not stopping:
        start = time.perf_counter()
        first_row = run.loader.rows_consumed

        # The learning rate depends on the step alone, so a resumed run continues its schedule.
        lr = set_lr(run.optimizers, run.progress.step, args, run.decay_end)

        # One optimizer step over all micro-batches and ranks.
        result = step_unless_stopped(run)
        if not result:
            run.save(needed=True)
            run.prune()
            break

        # A loss or gradient that is not a number: the step is skipped; too many in a row, and the run rolls back.
        if result.fault:
            if run.handle_nonfinite(result.fault, first_row):
                if metrics:
                    metrics.go_back(run.progress.step)
                bar.go_to(run.progress.step)
                continue
        else:
            run.skips.in_a_row = 0
            log_step(run, metrics, bar, result.means, lr, time.perf_counter() - start)
        run.adapt_to_budget()
        bar.set_total(run.steps)
        bar.update()

        # Save every --save_checkpoint_iter steps, but no weights between failed steps; always at the end, and where
        # the rate of wsd begins to fall. Saving comes before evaluating, which may take long.
        closing = time.perf_counter()
        stopping = run.stop_requested()
        finished = run.progress.step == run.steps
        save_due = run.progress.step % args.save_checkpoint_iter == 0 or run.needs_cooldown_checkpoint
        saving = stopping or finished or (save_due and not run.skips.in_a_row)
        if saving:
            run.save(needed=stopping or finished)

        # Evaluate on some validation rows every --eval_iters steps, on all of them every --val_epochs epochs.
        due, complete = evaluation_due(run, first_row)
        if due and not stopping and not run.validate(metrics, complete):
            stopping = saving = True
            run.save(needed=True)
        if saving:
            run.prune()
        if run.deadline:
            run.deadline.closing(time.perf_counter() - closing)

    if metrics:
        metrics.close()


def step_unless_stopped(run: Run) -> StepResult | None:
    """Take a step, or drop it where a stop signal comes between its micro-batches: then the result is None."""
    first_row = run.loader.rows_consumed
    generators = state.rng_state(run.env)
    try:
        result = train_step(
            run.objective,
            run.train_model,
            run.optimizers,
            run.scaler,
            run.loader,
            run.args,
            run.env,
            run.check_stop,
        )
    except StopRequested:
        run.drop_step(first_row, generators)
        return None

    run.progress.step += 1
    run.progress.tokens += run.args.tokens_per_step
    run.progress.rows_consumed = run.loader.rows_consumed
    return result


def evaluate_start(run: Run, metrics: Metrics | None) -> bool:
    """Evaluate what training starts from, and do what a stopped run left after its last save. False if stopped."""
    first_row = max(0, run.progress.rows_consumed - run.args.rows_per_step)
    due, complete = evaluation_due(run, first_row)
    if due and not run.has_evaluation() and not run.validate(metrics, complete):
        return False
    run.prune()
    return True


def evaluation_due(run: Run, first_row: int) -> tuple[bool, bool]:
    """Return (an evaluation is due after this step, it covers all validation rows); the step began at first_row."""
    args = run.args
    end_row = run.loader.rows_consumed
    rows_apart = args.val_epochs * len(run.rows)  # between two complete evaluations
    scheduled = run.progress.step % args.eval_iters == 0

    # Epochs of a few steps bring no evaluations of their own: the next scheduled one covers all rows.
    least_steps = min(args.eval_iters, run.steps // MAX_EPOCH_EVALUATIONS)
    epochs_are_short = rows_apart < least_steps * args.rows_per_step
    if epochs_are_short:
        first_row = max(0, end_row - args.eval_iters * args.rows_per_step)
    complete = ends_epochs(first_row, end_row, rows_apart)

    # At both ends of a run all rows are evaluated, unless that takes too long.
    at_an_end = run.progress.step in (0, run.steps)
    if at_an_end and args.val_epochs:
        complete = complete or ends_are_complete(len(run.val_rows or ()), run.steps * args.rows_per_step)
    return at_an_end or scheduled or (complete and not epochs_are_short), complete


def ends_epochs(first_row: int, end_row: int, every: int) -> bool:
    """Check whether a multiple of `every` rows was reached between two positions in the data (0 = never)."""
    return every > 0 and end_row // every > first_row // every


def train_step(
    objective: Objective,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    loader: Loader,
    args: ModelArgs,
    env: DistributedEnv,
    check_stop: Callable[[], None] | None = None,
) -> StepResult:
    """Take one optimizer step. Its gradients are those of one huge batch, for any split over micro-batches and ranks.

    Where loss or gradient is not a number, the weights of all ranks stay as they were. `check_stop` is called between
    micro-batches, and may raise.
    """
    last = args.gradient_accumulation_steps - 1
    results = []
    for micro_step in range(args.gradient_accumulation_steps):
        if micro_step and check_stop:
            check_stop()
        batch = loader.next(env.device)

        # DDP averages gradients over ranks in backward; once, with the last micro-batch, is enough.
        accumulating = micro_step < last and isinstance(model, DistributedDataParallel)
        with model.no_sync() if accumulating else contextlib.nullcontext():
            with torch.autocast(env.device.type, dtype=env.dtype, enabled=env.dtype != torch.float32):
                loss, count, sums = objective(model, batch)
            scaler.scale(loss).backward()
        results.append((loss, count, sums))

    # Objectives return sums, so one division by the global count gives the means.
    means = global_means(results, env)
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    gradients, norm = local_gradients(model)

    # Ranks have averaged their sums: undo that, and divide by the count. Clipping is part of the same product.
    scale = env.world_size / max(1.0, means["count"])
    norm = norm * scale
    means["grad_norm"] = norm.item()

    # One decision for all optimizers and ranks: the norm is that of the full model.
    finite = math.isfinite(means["loss"]) and math.isfinite(means["grad_norm"])
    if finite:
        if args.clip:
            scale = scale * (args.clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)

    for optimizer in optimizers:
        if finite:
            scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    overflow = adapt_scale(scaler, finite)

    # In float16 gradients may be out of range, until the scale is small enough: no fault.
    if finite or (overflow and math.isfinite(means["loss"])):
        return StepResult(means)
    micro_steps = [i for i, (loss, *_) in enumerate(results) if not loss.isfinite()]
    return StepResult(means, NotFinite(means["loss"], means["grad_norm"], micro_steps))


def local_gradients(model: nn.Module) -> tuple[list[Tensor], Tensor]:
    """Return this rank's gradients (under FSDP its shards), and the norm of the gradient of the full model."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        return [gradient.to_local() for gradient in gradients], norm.full_tensor()
    return gradients, norm


def log_step(
    run: Run, metrics: Metrics | None, bar: Progress, means: dict[str, float], lr: float, seconds: float
) -> None:
    """Write means, learning rate and speed of a step to the metrics and to the progress shown."""
    speed = run.args.tokens_per_step / seconds
    values = {**means, "tokens": run.progress.tokens, "lr": lr, "tokens_per_second": speed}
    text = f"loss {means['loss']:.3f}, {speed:,.0f} tokens/s"

    # In S and D the head is computed at few positions, so the count of operations holds in pretraining only.
    if run.peak and run.args.train == "P":
        values["mfu"] = speed * flops_per_token(run.args) / (run.peak * run.env.world_size)
        text += f", MFU {values['mfu']:.0%}"
    if metrics:
        metrics.write(run.progress.step, "train", values)
    bar.note = text


def resume_command(args: ModelArgs, folder: Path, typed: Mapping[str, object]) -> str:
    """Return a command that continues a run, from any folder."""
    launcher = "python"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = f"torchrun --standalone --nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}"
        if int(os.environ["GROUP_WORLD_SIZE"]) > 1:
            launcher = "the same torchrun command with"

    words = [
        str(Path(__file__).resolve()),
        *("--resume", "--run_name", folder.name),
        *("--save_checkpoint_dir", str(folder.parent.resolve())),
        *("--data_dir", str(Path(args.data_dir).resolve())),
    ]
    if "device" in typed:
        words += ["--device", args.device]
    return f"{launcher} {shlex.join(words)}"


def summary(run: Run) -> str:
    """Return the last line of a run: results and their place, or how to resume when it was stopped early."""
    newest = run.folder / f"step_{run.progress.step:06d}"
    if run.progress.step < run.steps:
        if not run.saved_step:
            return "stopped before the first step: start again with the same command"
        return (
            f"stopped after step {run.progress.step} of {run.steps}, saved in {newest}. To continue: "
            f"{resume_command(run.args, run.folder, run.setup.typed)}"
        )

    rows = read_metrics(run.folder / "metrics.jsonl")
    train_rows = [row for row in rows if row["split"] == "train"][-SUMMARY_STEPS:]
    count = sum(row["count"] for row in train_rows)
    loss = sum(row["loss"] * row["count"] for row in train_rows) / max(1, count)
    losses = (f"validation loss {row['loss']:.4f}" for row in reversed(rows) if row["split"] == "val")
    return (
        f"done: {run.progress.tokens:,} tokens; training loss {loss:.4f} (last {len(train_rows)} steps), "
        f"{next(losses, 'no validation set')}. Model: {newest}  Curves: {run.folder / 'loss_curves.png'}"
    )


def plan_and_train(run: Run) -> None:
    """Join the other ranks, print the plan, and train unless there is nothing to do."""
    run.watchdog.beat()
    env = distributed.init(run.args.device, run.args.dtype)
    starts = distributed.gather_objects((run.progress.step, str(run.setup.start.weights)))
    if len(set(starts)) > 1:
        raise RunError(
            f"the ranks see different checkpoints in {run.folder}: it must lie where all machines see it, and "
            "torchrun needs an --rdzv-id when machines may come and go"
        )

    plan = run.attach_hardware(env)
    finished = run.is_complete()
    if finished:
        reached = f"step {run.progress.step} of {run.steps}"
        if run.progress.step > run.steps:
            reached = f"step {run.progress.step}, past the end at step {run.steps},"
        plan.append(
            f"nothing left to do: {reached} is in {run.setup.start.weights}; to train on, add to --resume "
            f"--total_iters {2 * run.progress.step} or more --epochs"
        )
    if env.is_main_process:
        print("\n".join(plan), flush=True)
    if not finished:
        check_capacity(run.args, env.device, env.dtype, run.steps - run.progress.step, run.capacity)

    if not finished and not run.args.dry_run:
        # Before an older run of this name is moved aside: the weights may not be readable.
        run.load_model()
        lock = contextlib.nullcontext()
        if env.is_main_process:
            lock = state.run_folder(run.folder, keep=run.setup.continues)
        with lock:
            if env.is_main_process:
                save_launch_id(run.folder)
                if run.setup.start.extends:
                    state.set_aside_later_steps(run.folder, run.progress.step)
            build_and_train(run)
            if env.is_main_process:
                print(summary(run))

    # DDP first: as the last holder of the group it would wait, with Python's lock, for threads that want that lock.
    run.train_model = None
    distributed.shutdown()  # not after an error: it might wait for ranks that are gone


def build_and_train(run: Run) -> None:
    """Build the run and train to its end, or until it is stopped."""
    with run.stop:
        try:
            run.build()
            run.check_stop()
        except StopRequested:
            return
        enabled = run.env.is_main_process
        with Progress("step", "", run.steps, run.progress.step, enabled=enabled, log_ends=True) as bar:
            train(run, bar)


def main() -> None:
    """Parse the command line, then plan and train; errors of the machine say how to resume."""
    parser = Parser(__doc__)
    parser.add_settings(GROUPS)
    run = Run(resolve_run(vars(parser.parse_args())))
    exit_when_torchrun_dies()
    try:
        check_tracker(run.args.tracker)
        plan_and_train(run)
    except torch.OutOfMemoryError:
        raise LocalRankError(
            "the device's memory is full: take a smaller --micro_batch_size (--total_batch_size stays) or "
            "--activation_checkpointing; a run that has saved continues with --resume"
        ) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        remedy = "nothing is saved yet: fix it and start again with the same command"
        if run.saved_step:
            remedy = "saved checkpoints are complete: fix it and rerun with --resume"
        raise LocalRankError(f"{in_words(error, run.folder)}; {remedy}") from None
    finally:
        run.watchdog.end()


if __name__ == "__main__":
    run_cli(main)
