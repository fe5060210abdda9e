"""The training state inside a step folder: written with the weights, read when a run resumes."""

import dataclasses
import errno
import hashlib
import json
import math
import pickle
import shutil
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from checkpoint import steps, write_model
from config import ModelArgs
from model import Llama
from modelfiles.adapter import describe_base
from modelfiles.origin import Origin
from runtime.checksums import write_checksums
from runtime.distributed import DistributedEnv
from runtime.errors import RunError, UserError
from runtime.files import (
    commit_folder,
    folder_lock,
    link_or_copy,
    read_json,
    remove_folder,
    sync,
    write_json,
    write_text,
)
from runtime.os_errors import in_words
from runtime.stored_values import wrong_value
from tokenizer import Tokenizer
from training import lora
from training.metrics import comparable_loss, read_metrics
from training.parallel import load_optimizers
from training.plan import SMALL_FILES

FORMAT = 2
MISSING_PARTS = {"data": "", "stage": "not recorded", "world_size": 1, "init_from": None, "reference": None}


@dataclass
class TrainState:
    """Position of a run; state.json calls rows_consumed `cursor`."""

    step: int
    rows_consumed: int  # by all ranks together; the Loader's position when the checkpoint was written
    tokens: int

    def to_dict(self) -> dict[str, int]:
        """Return what state.json holds."""
        return {"step": self.step, "cursor": self.rows_consumed, "tokens": self.tokens}


class StoredState(typing.TypedDict):
    """Parts of every state.json; its part "args" are settings."""

    step: int
    cursor: int
    tokens: int
    args: dict[str, object]


class LaterParts(typing.TypedDict, total=False):
    """Parts that a state.json may have besides; those of MISSING_PARTS have a value where it does not."""

    data: str
    stage: str
    world_size: int
    init_from: str | None
    sources: dict[str, dict]
    device: str
    skips: dict[str, object]
    decay_end: int
    cooldown_checkpoint: int | None
    reference: str | None
    reference_dtype: typing.Literal["float32", "bfloat16", "float16"] | None
    reference_kernel: str | None


class StoredSkips(typing.TypedDict, total=False):
    """The part "skips" of a state.json, see training/nonfinite.py."""

    in_a_row: int
    first: int
    returned_to: list[int]
    left_out: list[list[int]]


def step_folder(run: Path, step: int) -> Path:
    """Return the folder of a step of a run."""
    return run / f"step_{step:06d}"


def save(
    run: Path,
    progress: TrainState,
    model: Llama,
    tokenizer: Tokenizer,
    weights: dict,
    training: dict,
    metadata: dict,
    origin: Origin | None = None,
) -> Path:
    """Write the step's folder and name it in `latest`. Return the folder.

    `training` holds the states of optimizers and scaler and the generators of each rank; `metadata` goes to state.json;
    `origin` is what the model keeps of the one that training started from.
    Raises RunError when it cannot be written (the disk is full); existing checkpoints are then untouched.
    """
    folder = step_folder(run, progress.step)
    partial = run / f".{folder.name}.tmp"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "train_state").mkdir(parents=True)
        adapted = lora.has_adapter(model)
        if adapted:
            weights = lora.adapter_weights(weights)
        _check_space(run, _bytes(weights) + _bytes(training) + SMALL_FILES)
        stage = {"stage": metadata["args"]["train"]}
        if adapted:
            stage["adapter_base"] = _write_adapter(partial, folder, model, weights, metadata)
        write_model(
            partial,
            model,
            tokenizer,
            stage,
            weights=weights,
            sampling=metadata["args"],
            origin=origin,
            with_weights=not adapted,
        )
        _write_training(partial / "train_state", training)
        state = {"format": FORMAT, **progress.to_dict(), "tokenizer": tokenizer.hash, **metadata}
        write_json(partial / "train_state" / "state.json", state)
        write_checksums(partial / "train_state", {})
        write_checksums(partial, {})

        commit_folder(partial, folder)  # replaces the same step, after a resume from an older one
        write_text(run / "latest", folder.name)
        sync(run)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = in_words(error, run)
        raise RunError(
            f"the checkpoint of step {progress.step} could not be written to {run} ({reason})"
        ) from None
    return folder


def _write_adapter(partial: Path, folder: Path, model: Llama, weights: dict, metadata: dict) -> dict:
    """Write an adapter into a folder that will be `folder`; return what config.json says about its base."""
    base = initial_weights_folder(folder, metadata)
    lora.write_adapter(partial, model, weights, base)
    return describe_base(folder, base)


def _check_space(folder: Path, needed: float) -> None:
    """Raise OSError unless the disk has room for a checkpoint."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"it needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")


def update_best(run: Path) -> None:
    """Name the saved step with the lowest validation loss in `best`; the earliest of equal ones."""
    saved = {path.name: path for path in steps(run)}
    losses = {}
    for row in read_metrics(run / "metrics.jsonl"):
        loss = comparable_loss(row) if row["split"] == "val" else math.nan
        name = step_folder(run, row["step"]).name
        if name in saved and math.isfinite(loss):
            losses[name] = loss
    if not losses:
        return

    best = min(losses, key=losses.__getitem__)
    if best_step(run) != saved[best]:
        write_text(run / "best", best)


def best_step(run: Path) -> Path | None:
    """Return the step of a run with the lowest validation loss, of those that were evaluated when they were saved."""
    path = run / "best"
    if not path.is_file():
        return None
    folder = run / path.read_text(encoding="utf-8", errors="replace").strip()
    return folder if folder in steps(run) else None


def prune(run: Path, keep: int, cooldown_checkpoint: int | None = None) -> None:
    """Remove old checkpoints, and what a killed run left half-written.

    The newest `keep` (0 = all), the best one, that of the step `cooldown_checkpoint`, from which a longer run would
    continue, those that another run started from, and the newest that was not saved between failed steps stay.
    """
    saved = steps(run)
    old = saved[:-keep] if keep else []
    if old:
        needed = {best_step(run), newest_sound_step(run), *starts_of_other_runs(run)}
        if cooldown_checkpoint is not None:
            needed.add(step_folder(run, cooldown_checkpoint))
        for path in old:
            if path not in needed:
                remove_folder(path)
    for leftover in run.glob(".step_*"):
        shutil.rmtree(leftover)


def newest_sound_step(run: Path) -> Path | None:
    """Return the newest step that was not saved between failed steps and can be resumed; None without one."""
    for folder in reversed(steps(run)):
        try:
            _, state = load_state(folder)
        except UserError:  # its training state was removed, or is damaged
            continue
        if not state["skips"].get("in_a_row"):
            return folder
    return None


def set_aside_later_steps(run: Path, step: int) -> None:
    """Move checkpoints after a step out of the run's folder: the run is about to take these steps again, otherwise.

    A kill at any moment leaves each of them in at least one place. Those that other runs started from stay.
    """
    later = [path for path in steps(run) if path.name > step_folder(run, step).name]
    for path in later:
        aside = run.with_name(f"{run.name}.{path.name}")
        number = 1
        while aside.exists():
            number += 1
            aside = run.with_name(f"{run.name}.{path.name}.{number}")
        partial = aside.with_name(f".{aside.name}.tmp")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(path, partial, copy_function=_link)
        partial.rename(aside)
        print(f"the model of {path} is now {aside}", file=sys.stderr)

    write_text(run / "latest", step_folder(run, step).name)
    needed = starts_of_other_runs(run)
    for path in later:
        if path not in needed:
            remove_folder(path)
    sync(run)


def _link(source: str, target: str) -> None:
    link_or_copy(Path(source), Path(target))


def starts_of_other_runs(run: Path) -> set[Path]:
    """Return the steps of a run that runs beside it started from: a DPO model is measured against its start."""
    starts = set()
    for latest in run.parent.glob("*/latest"):
        step = latest.parent / latest.read_text(encoding="utf-8", errors="replace").strip()
        state_file = step / "train_state" / "state.json"
        if latest.parent == run or not state_file.is_file():
            continue
        with suppress(UserError, OSError):  # damage of another run does not stop this one
            start = initial_weights_folder(step, load_state(step)[1])
            if start and start.parent == run.resolve():
                starts.add(run / start.name)
    return starts


def _write_training(folder: Path, training: dict) -> None:
    for name, value in training.items():
        try:
            torch.save(value, folder / f"{name}.pt")
        except RuntimeError as error:  # how torch says that a file could not be written
            raise OSError(errno.EIO, str(error).splitlines()[0]) from None


def _bytes(value: object) -> int:
    """Return the bytes of all tensors inside dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return 0


def load_state(folder: Path) -> tuple[TrainState, dict]:
    """Return (position, the rest of state.json) of a step folder. Raises UserError when it cannot be resumed."""
    path = folder / "train_state" / "state.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no train_state, so it cannot be resumed: start from its weights with "
            f"--init_from {folder}"
        )
    state = read_json(path)
    if state.get("format") != FORMAT:
        raise UserError(
            f"{folder} is of format {str(state.get('format'))[:20]}, not {FORMAT}: another version wrote it, "
            f"start from its weights with --init_from {folder}"
        )
    fault = _fault_of(state)
    if fault:
        raise UserError(f"{path} is broken ({fault})")
    progress = TrainState(state.pop("step"), state.pop("cursor"), state.pop("tokens"))
    state = {**MISSING_PARTS, **state}
    names = {each.name for each in dataclasses.fields(ModelArgs)}
    state["args"] = {name: value for name, value in state["args"].items() if name in names}
    return progress, state


def _fault_of(state: dict) -> str | None:
    """Return what is wrong with the contents of a state.json; None if nothing is."""
    missing = typing.get_type_hints(StoredState).keys() - state.keys()
    if missing:
        return f"{min(missing)} is missing"
    parts = (
        (state, typing.get_type_hints(StoredState) | typing.get_type_hints(LaterParts)),
        (state["args"], typing.get_type_hints(ModelArgs)),
        (state.get("skips", {}), typing.get_type_hints(StoredSkips)),
    )
    return next(filter(None, (wrong_value(values, hints) for values, hints in parts)), None)


def initial_weights_folder(folder: Path, state: dict) -> Path | None:
    """Return the folder whose weights the run of a step folder began with; None where they were random."""
    if not state["init_from"]:
        return None
    return (folder.parent.resolve() / state["init_from"]).resolve()


def restore(
    folder: Path, model: nn.Module, optimizers: list, scaler: torch.amp.GradScaler, env: DistributedEnv
) -> None:
    """Load the states of optimizers and this rank's generators; a new rank keeps its fresh generator."""
    try:
        states = torch.load(folder / "train_state" / "optimizer.pt", weights_only=True, map_location="cpu")
        rng = torch.load(folder / "train_state" / "rng.pt", weights_only=True)
        load_optimizers(model, optimizers, states["optimizers"])
        scaler.load_state_dict(states["scaler"])
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"the training state in {folder} cannot be read ({' '.join(str(error).split())[:150]}): resume "
            f"from an older step or start with --init_from {folder}"
        ) from None
    if env.rank < len(rng):
        set_rng_state(rng[env.rank], env)


def rng_state(env: DistributedEnv) -> list[torch.Tensor]:
    """Return the states of this rank's generators: the CPU's and, on CUDA, the device's."""
    states = [torch.get_rng_state()]
    if env.device.type == "cuda":
        states.append(torch.cuda.get_rng_state(env.device))
    return states


def set_rng_state(states: list[torch.Tensor], env: DistributedEnv) -> None:
    """Set this rank's generators to states that `rng_state` has returned."""
    cpu, *device = states
    torch.set_rng_state(cpu)
    if device and env.device.type == "cuda":
        torch.cuda.set_rng_state(device[0], env.device)


def data_hash(meta: dict) -> str:
    """Return a name for prepared data: the sha256 of the checksums of all its files."""
    files = [shard["sha256"] for split in sorted(meta["splits"]) for shard in meta["splits"][split]]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


@contextmanager
def run_folder(folder: Path, keep: bool) -> Iterator[None]:
    """Lock the run's folder for this process; unless `keep`, move an older run of that name aside first.

    Raises UserError when another process trains there, or when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not keep and any(folder.iterdir()):
            number = 1
            while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
                number += 1
            with folder_lock(folder):
                folder.rename(aside)
            print(f"an older run named {folder.name} is now {aside}", file=sys.stderr)
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {in_words(error, folder)}, or choose another --save_checkpoint_dir"
        ) from None
    with folder_lock(folder):
        yield
