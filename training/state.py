"""The training state inside a step folder: written with the weights, read when a run resumes."""

import errno
import hashlib
import json
import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import nn

from checkpoint import steps, write_model
from model import Llama
from runtime.checksums import write_checksums
from runtime.distributed import DistributedEnv
from runtime.errors import RunError, UserError
from runtime.files import commit_folder, folder_lock, remove_folder, sync, write_json
from tokenizer import Tokenizer
from training.parallel import load_optimizers

FORMAT = 2


@dataclass
class TrainState:
    """Where a run stands."""

    step: int
    cursor: int  # rows of the data that all ranks together have taken
    tokens: int


def save(
    run: Path,
    progress: TrainState,
    model: Llama,
    tokenizer: Tokenizer,
    weights: dict,
    training: dict,
    state: dict,
    keep: int = 0,
) -> Path:
    """Write the step's folder, name it in `latest`, prune older ones to `keep` (0 = all). Returns the folder.

    `training` is what goes on in training: the states of optimizers and scaler, and the generators of each rank.
    Raises RunError when it cannot be written (the disk is full); the checkpoints that were there are then untouched.
    """
    folder = run / f"step_{progress.step:06d}"
    partial = run / f".{folder.name}.tmp"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "train_state").mkdir(parents=True)
        need, free = 16e6 + _bytes(weights) + _bytes(training), shutil.disk_usage(run).free
        if need > free:
            raise OSError(errno.ENOSPC, f"it needs {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")
        write_model(partial, model, tokenizer, {"stage": state["args"]["train"]}, weights=weights)
        _write_training(partial / "train_state", training)
        write_json(
            partial / "train_state" / "state.json",
            {"format": FORMAT, **vars(progress), "tokenizer": tokenizer.hash, **state},
        )
        write_checksums(partial / "train_state", {})
        write_checksums(partial, {})
        commit_folder(partial, folder)  # in the place of the same step, after a resume from an older one
        temporary = run / "latest.tmp"
        temporary.write_text(folder.name)
        sync(temporary)
        temporary.rename(run / "latest")
        sync(run)
        others = [path for path in steps(run) if path != folder]
        for old in others[: max(0, len(others) + 1 - keep)] if keep else []:
            remove_folder(old)
        for leftover in run.glob(".step_*"):  # of a run that was killed while it saved or pruned
            shutil.rmtree(leftover)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"the checkpoint of step {progress.step} could not be written to {run} "
            f"({getattr(error, 'strerror', None) or error})"
        ) from None
    return folder


def _write_training(folder: Path, training: dict) -> None:
    for name, value in training.items():
        try:
            torch.save(value, folder / f"{name}.pt")
        except RuntimeError as error:  # how torch says that a file could not be written
            raise OSError(errno.EIO, str(error).splitlines()[0]) from None


def _bytes(value: object) -> int:
    """Bytes of all tensors inside dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_bytes, parts))


def load_state(folder: Path) -> tuple[TrainState, dict]:
    """(where the run stood, the rest of state.json) of a step folder. Raises UserError when it cannot be resumed."""
    path = folder / "train_state" / "state.json"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no train_state, so it cannot be resumed: start from its weights with "
            f"--init_from {folder}"
        )
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise UserError(
                f"{folder} is of format {state['format']}, not {FORMAT}: another version wrote it, "
                f"start from its weights with --init_from {folder}"
            )
        progress = TrainState(state.pop("step"), state.pop("cursor"), state.pop("tokens"))
        state["args"] = {**state["args"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is broken ({type(error).__name__}: {error})") from None
    return progress, state


def initial_weights_folder(folder: Path, state: dict) -> Path | None:
    """The folder whose weights the run of a step folder began with, as its state says; None where they were random."""
    return (folder.parent.resolve() / state["init_from"]).resolve() if state["init_from"] else None


def restore(
    folder: Path, model: nn.Module, optimizers: list, scaler: torch.amp.GradScaler, env: DistributedEnv
) -> None:
    """Give optimizers and this rank's generators their state back; a rank that is new keeps its fresh generator."""
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
        cpu, *device = rng[env.rank]
        torch.set_rng_state(cpu)
        if device and env.device.type == "cuda":
            torch.cuda.set_rng_state(device[0], env.device)


def rng_state(env: DistributedEnv) -> list[torch.Tensor]:
    """The state of this rank's generators: the CPU's and, on CUDA, the device's."""
    return [
        torch.get_rng_state(),
        *([torch.cuda.get_rng_state(env.device)] if env.device.type == "cuda" else []),
    ]


def data_hash(meta: dict) -> str:
    """Names prepared data by the sha256 of all its files."""
    files = [shard["sha256"] for split in sorted(meta["splits"]) for shard in meta["splits"][split]]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


@contextmanager
def run_folder(folder: Path, keep: bool) -> Iterator[None]:
    """The run's folder, folder_lock for this process alone; unless `keep`, an older run of that name is moved aside.

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
            print(f"a run named {folder.name} was there already: it is now {aside}", file=sys.stderr)
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another --save_checkpoint_dir"
        ) from None
    with folder_lock(folder):
        yield
