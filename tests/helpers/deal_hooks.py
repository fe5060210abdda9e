"""The one hook through which deals act on a run: a deed at the n-th call of a named function of the program.

A forked process is armed before its main: `at("step", 4, die)` kills it as its fourth step begins. Nothing in the
program knows of it.
"""

import errno
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from injected_faults import WRITES

import trainer
from dataloader.loader import Loader
from training import plots, reference_table, run, state, validation
from training.metrics import Metrics

# (owner, name of the function); those of rank 0 alone are listed below.
HOOKS = {
    "start": (trainer, "resolve_run"),
    "build": (run.Run, "build"),
    "optimizers": (run, "build_optimizers"),
    "reference": (reference_table, "_score_batch"),
    "reference file": (reference_table, "write_table"),
    "reference rename": (reference_table, "write_text"),
    "metrics opened": (Metrics, "go_back"),
    "step": (trainer, "train_step"),
    "batch": (Loader, "next"),
    "metrics row": (Metrics, "write"),
    "evaluate": (validation, "evaluate"),
    "sample": (validation, "generate_sample"),
    "plot": (plots, "loss_curves"),
    "checkpoint": (run.Run, "save"),
    "model file": (state, "write_model"),
    "state file": (torch, "save"),
    "checksums": (state, "write_checksums"),
    "rename": (state, "commit_folder"),
    "latest": (state, "write_text"),
    "best": (state, "update_best"),
    "prune": (state, "prune"),
    "restore": (state, "restore"),
}
WRITE = "write"  # any rename, removal or opening for writing, by Python's audit events
ONLY_RANK_0 = {
    *("reference file", "reference rename", "metrics opened", "metrics row", "plot", "model file"),
    *("state file", "checksums", "rename", "latest", "best", "prune"),
}
FOREVER = 600


def at(hook: str, call: int, deed: Callable[[], object]) -> None:
    """Do a deed once in this process: before the so-many-th call of a hook."""
    count = [0]

    def step() -> None:
        count[0] += 1
        if count[0] == call:
            deed()

    if hook == WRITE:

        def audit(event: str, args: tuple) -> None:
            opens = event == "open" and args[1] is not None and set(str(args[1])) & set("wax+")
            if event in WRITES or opens:
                step()

        sys.addaudithook(audit)
        return

    owner, name = HOOKS[hook]
    real = getattr(owner, name)

    def counted(*args: object, **options: object) -> object:
        step()
        return real(*args, **options)

    setattr(owner, name, counted)


def marked(mark: Path, deed: Callable[[], object]) -> Callable[[], None]:
    """Return a deed that leaves a file first, so that a test sees that the moment came."""

    def leave_and_do() -> None:
        mark.touch()
        deed()

    return leave_and_do


def send(number: int) -> Callable[[], None]:
    """Return a deed: a signal to this process."""
    return lambda: os.kill(os.getpid(), number)


def no_space() -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stall() -> None:
    """Hang."""
    time.sleep(FOREVER)


def wait_for(path: Path, seconds: float = 60) -> Callable[[], None]:
    """Return a deed: wait until a file is there."""

    def wait() -> None:
        end = time.monotonic() + seconds
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.01)

    return wait


def full_disk(first: int, last: int, looks_free: bool, size: int = 30_000) -> None:
    """No file grows past `size` bytes in steps first .. last of this process; or a save sees no room before."""
    real, count, usage = trainer.train_step, [0], state.shutil.disk_usage

    def is_full() -> bool:
        return first <= count[0] <= last

    def train_step(*args: object) -> object:
        count[0] += 1
        limit = size if looks_free and is_full() else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return real(*args)

    def disk_usage(folder: Path) -> object:
        free = 1 << 40
        if is_full() and not looks_free:
            free = 1000
        return usage(folder)._replace(free=free)

    trainer.train_step, state.shutil.disk_usage = train_step, disk_usage


class _BadGradient(torch.autograd.Function):
    """Identity whose gradient is infinite."""

    @staticmethod
    def forward(ctx: object, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf


def not_finite(steps: tuple[int, ...], what: str) -> None:
    """Make loss or gradient of rank 0 not a number in steps, counted by their rows: the same ones after a resume."""
    real = trainer.train_step

    def train_step(objective, model, optimizers, scaler, loader, args, env, *rest):  # noqa: ANN001, ANN202
        def bad(*given: object) -> tuple:
            loss, count, sums = objective(*given)
            loss = _BadGradient.apply(loss) if what == "gradient" else loss * math.nan
            return loss, count, sums

        step = loader.row_index(loader.rows_consumed) // args.rows_per_step + 1
        chosen = bad if step in steps and env.rank == 0 else objective
        return real(chosen, model, optimizers, scaler, loader, args, env, *rest)

    trainer.train_step = train_step


def note_rows(file: Path) -> None:
    """Note the rows that this rank has taken in each finished step: {step}: {rows}, a line for each."""
    own: list[int] = []
    real_next, real_step = Loader.next, trainer.step_unless_stopped

    def next_batch(self: Loader, *args: object) -> object:
        first = self.rows_consumed + self.rank * self.batch_size
        own.extend(self.row_index(position) for position in range(first, first + self.batch_size))
        return real_next(self, *args)

    def step_unless_stopped(run: object) -> object:
        own.clear()
        result = real_step(run)
        if result:
            with file.open("a") as notes:
                notes.write(f"{run.progress.step}: {' '.join(map(str, own))}\n")
        return result

    Loader.next, trainer.step_unless_stopped = next_batch, step_unless_stopped
