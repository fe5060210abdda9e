"""Train a Llama: one visible loop for every stage, on one process or many.

    python trainer.py --train P --preset stories                                           on a laptop
    torchrun --standalone --nproc_per_node=gpu trainer.py --train P --dataset fw           on all GPUs of a machine
    python trainer.py --train P --preset stories --resume                                  go on, exactly
    python trainer.py --train S --dataset alpaca --init_from checkpoints/P-fw              learn to answer
    python trainer.py --train D --dataset dpo --init_from checkpoints/S-alpaca             learn what is preferred

Writes <save_checkpoint_dir>/<run_name>/: metrics.jsonl, loss_curves.png, step folders (Hugging Face models), latest.
SIGTERM, SIGUSR1 and Ctrl-C finish the step, save and leave. `--help` lists every setting, `--dry_run` prints the plan.
"""

import contextlib
import math
import sys
import time
from shlex import quote

import torch
from torch import nn
from tqdm import tqdm

from config import ModelArgs, Parser
from dataloader.loader import Loader
from model import flops_per_token
from runtime import distributed
from runtime.distributed import DistributedEnv
from runtime.errors import LocalRankError, RunError, run_cli
from runtime.watchdog import StopSignal, exit_when_torchrun_dies, save_launch_id
from training import parallel, state
from training.metrics import Metrics, read_metrics
from training.nonfinite import NotFinite
from training.objectives import Objective, global_means
from training.optimizers import set_lr
from training.run import Run

GROUPS = ("run", "data", "device", "model", "optimization", "evaluation", "dpo", "sampling")


def train(run: Run) -> None:
    """The loop: a step, written down; then evaluate and save when due."""
    args, env, progress, stop = run.args, run.env, run.progress, StopSignal()
    metrics = Metrics(run.folder, args.wandb, args.explicit, progress.step) if env.is_main_process else None
    bar = tqdm(
        total=run.steps,
        initial=progress.step,
        unit=" steps",
        disable=not env.is_main_process,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )
    whole_after = args.val_epochs * len(run.rows)
    stopping = False
    while progress.step < run.steps and not stopping:
        run.watchdog.beat()
        t0 = time.perf_counter()
        lr = set_lr(run.optimizers, progress.step, args, run.decay_end)
        try:
            means = train_step(run.objective, run.wrapped, run.optimizers, run.scaler, run.loader, args, env)
        except NotFinite as error:
            means = error
        first_row, progress.cursor = progress.cursor, run.loader.rows_consumed
        progress.step, progress.tokens = progress.step + 1, progress.tokens + args.tokens_per_step
        if isinstance(means, NotFinite):
            if run.leave_out(means, first_row):
                if metrics:
                    metrics.go_back(progress.step)
                bar.reset(run.steps)
                bar.update(progress.step)
                continue
        else:
            run.skips.in_a_row = 0
            record(run, metrics, bar, means, lr, time.perf_counter() - t0)

        stopping, finished = distributed.any_rank(stop.asked, env), progress.step == run.steps
        whole = whole_after > 0 and progress.cursor // whole_after > first_row // whole_after
        if finished or not stopping and (whole or progress.step % args.eval_iters == 0):
            run.validate(metrics, whole)
        due = progress.step % args.save_checkpoint_iter == 0 and not run.skips.in_a_row
        if stopping or finished or due:
            run.save(needed=stopping or finished)
    bar.close()
    if metrics:
        metrics.close()
        print(summary(run))


def record(
    run: Run, metrics: Metrics | None, bar: tqdm, means: dict[str, float], lr: float, seconds: float
) -> None:
    """Write a step down: its means, learning rate and speed."""
    speed = run.args.tokens_per_step / seconds
    # The head computes learned positions only, so the count of operations holds where all of them are learned.
    counted = run.peak and run.args.train == "P"
    mfu = {"mfu": speed * flops_per_token(run.args) / (run.peak * run.env.world_size)} if counted else {}
    if metrics:
        metrics.write(
            run.progress.step,
            "train",
            {**means, "tokens": run.progress.tokens, "lr": lr, "tokens_per_second": speed, **mfu},
        )
    bar.set_postfix_str(
        f"loss {means['loss']:.3f}, {speed:,.0f} tokens/s" + (f", MFU {mfu['mfu']:.0%}" if mfu else ""),
        refresh=False,
    )
    bar.update()


def train_step(
    objective: Objective,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler,
    loader: Loader,
    args: ModelArgs,
    env: DistributedEnv,
) -> dict[str, float]:
    """One optimizer step. Its gradients are those of one huge batch, for any split over micro-batches and ranks.

    Raises NotFinite, on all ranks, when loss or gradient is not a number; the weights are then as they were.
    """
    results = []
    for micro_step in range(args.gradient_accumulation_steps):
        batch = loader.next(env.device)
        with parallel.gradient_sync_context(model, last=micro_step == args.gradient_accumulation_steps - 1):
            with env.autocast():
                loss, count, sums = objective(model, batch)
            scaler.scale(loss).backward()
        results.append((loss, count, sums))
    means = global_means(results, env)
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    gradients, norm = parallel.gradients(model)
    # Ranks have averaged their sums: undo that, and divide by what was summed. Clipping rides on the same pass.
    share = env.world_size / max(1.0, means["count"])
    norm = norm * share
    # In float16 a gradient past its range is the scaler's business, which then leaves the step out by itself.
    finite = math.isfinite(means["loss"] + (0.0 if scaler.is_enabled() else norm.item()))
    if finite:
        torch._foreach_mul_(
            gradients, share * (args.clip / (norm + 1e-6)).clamp(max=1.0) if args.clip else share
        )
    for optimizer in optimizers:
        if finite:
            scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    if not finite:
        raise NotFinite(
            means["loss"], norm.item(), [i for i, (loss, *_) in enumerate(results) if not loss.isfinite()]
        )
    return {**means, "grad_norm": norm.item()}


def summary(run: Run) -> str:
    """Where the results are, and how to go on when the run was stopped early."""
    newest = run.folder / f"step_{run.progress.step:06d}"
    if run.progress.step < run.steps:
        return (
            f"stopped after step {run.progress.step} of {run.steps}, saved in {newest}. Go on with: "
            f"python trainer.py --train {run.args.train} --dataset {quote(run.args.dataset)} "
            f"--data_dir {quote(run.args.data_dir)} --save_checkpoint_dir {quote(str(run.folder.parent))} "
            f"--run_name {quote(run.folder.name)} --resume"
        )
    rows = read_metrics(run.folder / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"][-50:]
    loss = sum(row["loss"] * row["count"] for row in train) / max(1, sum(row["count"] for row in train))
    validation = next(row["loss"] for row in reversed(rows) if row["split"] == "val")
    return (
        f"done: {run.progress.tokens:,} tokens; training loss {loss:.4f} (last {len(train)} steps), "
        f"validation loss {validation:.4f}. Model: {newest}  Curves: {run.folder / 'loss_curves.png'}"
    )


def main() -> None:
    """Parse, plan, train."""
    parser = Parser(__doc__)
    parser.add_settings(GROUPS)
    job = Run(vars(parser.parse_args()))
    exit_when_torchrun_dies()
    job.watchdog.beat()
    try:
        env = distributed.init(job.args.device, job.args.dtype)
        if len(set(distributed.gather_objects((job.progress.step, str(job.source))))) > 1:
            raise RunError(
                f"the ranks see different checkpoints in {job.folder}: it must lie where all machines see "
                "it, and torchrun needs an --rdzv-id when machines may come and go"
            )
        lines, finished = job.meet(env), job.progress.step >= job.steps
        if finished:
            lines.append(f"nothing left to do: step {job.progress.step} of {job.steps} is in {job.source}")
        if env.is_main_process:
            print("\n".join(lines), flush=True)
        if not finished and not job.args.dry_run:
            with (
                state.run_folder(job.folder, keep=job.goes_on)
                if env.is_main_process
                else contextlib.nullcontext()
            ):
                if env.is_main_process:
                    save_launch_id(job.folder)
                job.build()
                train(job)
        # DDP first: as the last holder of the group it would wait, with Python's lock, for threads that want that lock.
        job.wrapped = None
        distributed.shutdown()  # not after an error: it might wait for ranks that are gone
    except torch.OutOfMemoryError:
        raise LocalRankError(
            "the device's memory is full: take a smaller --micro_batch_size (--total_batch_size stays) or "
            "--activation_checkpointing; a run that has saved goes on with --resume"
        ) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LocalRankError(
            f"{error.filename or job.folder}: {error.strerror or error}; what is saved is whole; "
            "mend that, then go on with --resume"
        ) from None
    finally:
        job.watchdog.end()


if __name__ == "__main__":
    run_cli(main)
