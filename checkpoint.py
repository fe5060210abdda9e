"""Checkpoints: every step folder is a Hugging Face model folder; its train_state/ is all that a resumed run needs.

    <run>/step_000050/config.json, model.safetensors, tokenizer.json, ...   what inference reads
    <run>/step_000050/train_state/state.json, optimizer.pt, rng.pt          step, position in the data, settings, hashes
    <run>/step_000050/SHA256SUMS, train_state/SHA256SUMS                    sha256 of all of these
    <run>/latest                                                            name of the newest complete step folder

A folder is written under a temporary name, synced and renamed, so a kill at any moment leaves the last one whole.

    python checkpoint.py verify DIR      compare every file of a run, a step or a dataset with its SHA256SUMS
"""

import errno
import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from config import ModelArgs, Parser, RunError, UserError
from config import run as run_script
from dataprep.shards import claimed, write_json
from model import Llama
from runtime.checksums import SUMS, damage, listed, seal
from runtime.distributed import Env
from tokenizer import Tokenizer, load_tokenizer
from training.parallel import copy_weights, load_optimizers

FORMAT = 2
LEGACY = "smolllama-legacy"  # model_type of the weights once published, which no other library can run
ARCHITECTURE = ("block_size", "vocab_size", "embeddings_dims", "no_of_decoder_layers", "no_of_heads", "no_kv_heads",
                "head_dim", "hidden_dims", "eps", "rope_theta", "tie_embeddings")


@dataclass
class Progress:
    """Where a run stands."""

    step: int
    cursor: int  # rows of the data that all ranks together have taken
    tokens: int


def hf_config(args: ModelArgs, eos_id: int) -> dict:
    """config.json of a LlamaForCausalLM with these settings."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
        "vocab_size": args.vocab_size, "hidden_size": args.embeddings_dims, "intermediate_size": args.hidden_dims,
        "num_hidden_layers": args.no_of_decoder_layers, "num_attention_heads": args.no_of_heads,
        "num_key_value_heads": args.no_kv_heads, "head_dim": args.head_dim, "max_position_embeddings": args.block_size,
        "rms_norm_eps": args.eps, "rope_theta": args.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": args.rope_theta},
        "tie_word_embeddings": args.tie_embeddings, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "bos_token_id": eos_id, "eos_token_id": eos_id,  # as pad token, its embedding would get no gradient elsewhere
    }


def args_from_hf(config: dict, where: Path) -> ModelArgs:
    """Settings of the model in a Hugging Face config.json. Raises UserError for what our Llama is not."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    different = [text for text, ours in (
        (f"model_type {config.get('model_type')}", config.get("model_type") == "llama"),
        (f"rope_type {kind}", kind == "default"),
        (f"hidden_act {config.get('hidden_act')}", config.get("hidden_act", "silu") == "silu"),
        ("attention_bias", not config.get("attention_bias")), ("mlp_bias", not config.get("mlp_bias"))) if not ours]
    if different:
        raise UserError(f"{where} is not a plain Llama ({', '.join(different)}), so it cannot be used as one")
    heads = config["num_attention_heads"]
    args = ModelArgs(
        vocab_size=config["vocab_size"], embeddings_dims=config["hidden_size"], hidden_dims=config["intermediate_size"],
        no_of_decoder_layers=config["num_hidden_layers"], no_of_heads=heads,
        no_kv_heads=config.get("num_key_value_heads", heads), head_dim=config.get("head_dim"),
        block_size=config["max_position_embeddings"], eps=config["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        tie_embeddings=config.get("tie_word_embeddings", False), dropout=0.0, attn_dropout=0.0)
    usual = ModelArgs()
    for name in ARCHITECTURE:
        if type(getattr(args, name)) not in (type(getattr(usual, name)), int):
            raise TypeError(f"{name} is {getattr(args, name)!r}")
    return args


def write_model(folder: Path, model: Llama, tokenizer: Tokenizer, about: dict,
                dtype: torch.dtype = torch.float32, weights: dict | None = None) -> None:
    """Write the files of a Hugging Face model into a folder; `about` is the part of config.json that is our own.

    about["stage"] is the letter of the stage that trained it: models of P continue a text, those of S and D answer.
    `weights` are the model's, whole, where it lies in parts on several ranks.
    """
    tied = {"lm_head.weight"} if model.args.tie_embeddings else set()
    weights = {name: weight.to(dtype).contiguous() for name, weight in (weights or model.state_dict()).items()
               if name not in tied}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    special = {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.eos_id}
    config = {**hf_config(model.args, tokenizer.eos_id), "dtype": str(dtype).removeprefix("torch."), "smolllama": about}
    legacy = {"model_type": LEGACY, "architectures": ["SmolLlamaLegacy"]} if model.legacy else {}
    write_json(folder / "config.json", {**config, **legacy})
    write_json(folder / "generation_config.json", special)
    tokenizer.save(folder)


def save(run: Path, progress: Progress, model: Llama, tokenizer: Tokenizer, weights: dict, training: dict,
         state: dict, keep: int = 0) -> Path:
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
        write_json(partial / "train_state" / "state.json",
                   {"format": FORMAT, **vars(progress), "tokenizer": tokenizer.hash, **state})
        seal(partial / "train_state", {})
        seal(partial, {})
        publish(partial, folder)  # in the place of the same step, after a resume from an older one
        temporary = run / "latest.tmp"
        temporary.write_text(folder.name)
        _sync(temporary)
        temporary.rename(run / "latest")
        _sync(run)
        others = [path for path in steps(run) if path != folder]
        for old in others[:max(0, len(others) + 1 - keep)] if keep else []:
            discard(old)
        for leftover in run.glob(".step_*"):  # of a run that was killed while it saved or pruned
            shutil.rmtree(leftover)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"the checkpoint of step {progress.step} could not be written to {run} "
                       f"({getattr(error, 'strerror', None) or error})") from None
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


def publish(partial: Path, folder: Path) -> None:
    """Give a folder that is written whole its name, in the place of what has that name."""
    for path in sorted(partial.rglob("*")):
        _sync(path)
    _sync(partial)
    discard(folder)
    partial.rename(folder)


def discard(folder: Path) -> None:
    """Remove a folder so that a kill in the middle leaves nothing under its name."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def steps(run: Path) -> list[Path]:
    """The complete step folders of a run, oldest first."""
    return sorted(run.glob("step_*"), key=lambda folder: (len(folder.name), folder.name))


def find_model(folder: str | Path) -> Path:
    """The model folder that is meant: the folder itself, or a run's newest step. Raises UserError if there is none."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    latest = folder / "latest"
    newest = latest.read_text(errors="replace").strip() if latest.is_file() else ""
    if newest and (folder / newest / "config.json").is_file():
        return folder / newest
    if steps(folder):
        return steps(folder)[-1]
    raise UserError(f"no model in {folder}: give a run folder, a step folder or a Llama folder in Hugging Face format")


def load_args(folder: Path) -> ModelArgs:
    """The architecture of the model in a folder. Raises UserError when config.json is broken or not a Llama's."""
    return _parsed(folder, read_config(folder))


def read_config(folder: Path) -> dict:
    """What config.json says. Raises UserError when it is broken."""
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} is broken ({type(error).__name__}: {error})") from None


def _parsed(folder: Path, config: dict) -> ModelArgs:
    try:
        return args_from_hf(config, folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'} is broken ({type(error).__name__}: {error})") from None


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy the weights of a folder (one safetensors file or several) into a model, every name and shape checked."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors file")
    try:
        weights = {name: weight for file in files for name, weight in load_file(file).items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"the weights in {folder} cannot be read ({error}): the file is broken or cut short") from None
    weights = {name: weight for name, weight in weights.items() if not name.endswith("rotary_emb.inv_freq")}
    wanted = {name: weight.shape for name, weight in model.state_dict().items()}
    if model.args.tie_embeddings:
        weights.setdefault("lm_head.weight", weights.get("model.embed_tokens.weight"))
    wrong = [name for name, shape in wanted.items() if weights.get(name) is None or weights[name].shape != shape]
    if wrong or len(weights) != len(wanted):
        odd = wrong[0] if wrong else next(name for name in weights if name not in wanted)
        raise UserError(f"the weights in {folder} do not fit its config.json: {odd} is missing, too many or misshapen")
    copy_weights(model, weights)


def load_model(folder: str | Path) -> tuple[Llama, Tokenizer]:
    """(model, tokenizer) of a run, a step or any Llama folder in Hugging Face format; in float32, for inference."""
    folder = find_model(folder)
    return load_llama(folder), load_tokenizer(folder)


def load_llama(folder: Path) -> Llama:
    """The model in a folder alone, for inference: it may have no tokenizer."""
    config = read_config(folder)
    legacy = config.get("model_type") == LEGACY
    model = Llama(_parsed(folder, config | {"model_type": "llama"} if legacy else config), legacy)
    load_weights(model, folder)
    return model.eval()


def load_state(folder: Path) -> tuple[Progress, dict]:
    """(where the run stood, the rest of state.json) of a step folder. Raises UserError when it cannot be resumed."""
    path = folder / "train_state" / "state.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no train_state, so it cannot be resumed: start from its weights with "
                        f"--init_from {folder}")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise UserError(f"{folder} is of format {state['format']}, not {FORMAT}: another version wrote it, "
                            f"start from its weights with --init_from {folder}")
        progress = Progress(state.pop("step"), state.pop("cursor"), state.pop("tokens"))
        state["args"] = {**state["args"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is broken ({type(error).__name__}: {error})") from None
    return progress, state


def started_from(folder: Path, state: dict) -> Path | None:
    """The folder whose weights the run of a step folder began with, as its state says; None where they were random."""
    return (folder.parent.resolve() / state["init_from"]).resolve() if state["init_from"] else None


def restore(folder: Path, model: nn.Module, optimizers: list, scaler: torch.amp.GradScaler, env: Env) -> None:
    """Give optimizers and this rank's generators their state back; a rank that is new keeps its fresh generator."""
    try:
        states = torch.load(folder / "train_state" / "optimizer.pt", weights_only=True, map_location="cpu")
        rng = torch.load(folder / "train_state" / "rng.pt", weights_only=True)
        load_optimizers(model, optimizers, states["optimizers"])
        scaler.load_state_dict(states["scaler"])
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"the training state in {folder} cannot be read ({' '.join(str(error).split())[:150]}): resume "
                        f"from an older step or start with --init_from {folder}") from None
    if env.rank < len(rng):
        cpu, *device = rng[env.rank]
        torch.set_rng_state(cpu)
        if device and env.device.type == "cuda":
            torch.cuda.set_rng_state(device[0], env.device)


def generator_state(env: Env) -> list[torch.Tensor]:
    """The state of this rank's generators: the CPU's and, on CUDA, the device's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(env.device)] if env.device.type == "cuda" else [])]


def data_hash(meta: dict) -> str:
    """Names prepared data by the sha256 of all its files."""
    files = [shard["sha256"] for split in sorted(meta["splits"]) for shard in meta["splits"][split]]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


@contextmanager
def run_folder(folder: Path, keep: bool) -> Iterator[None]:
    """The run's folder, claimed for this process alone; unless `keep`, an older run of that name is moved aside.

    Raises UserError when another process trains there, or when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not keep and any(folder.iterdir()):
            number = 1
            while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
                number += 1
            with claimed(folder):
                folder.rename(aside)
            print(f"a run named {folder.name} was there already: it is now {aside}", file=sys.stderr)
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --save_checkpoint_dir") from None
    with claimed(folder):
        yield


def intact(folder: Path, resumed: bool = False) -> None:
    """Raises UserError when a file of a model folder is not what was written, or one of its train_state if resumed.

    Folders of others tell nothing.
    """
    if fault := damage(folder) or (damage(folder / "train_state") if resumed else None):
        others = [step.name for step in steps(folder.parent) if step != folder]
        remedy = f"remove that folder, --resume then goes on from {others[-1]}" if others else "start again without it"
        raise UserError(f"{fault}: {remedy}")


def main() -> None:
    """Compare the files of folders with their sums."""
    parser = Parser(__doc__)
    parser.add_argument("command", choices=["verify"])
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run, a step or a prepared dataset")
    folder = parser.parse_args().folder
    sealed = sorted(path.parent for place in ("", "train_state/", "step_*/", "step_*/train_state/")
                    for path in folder.glob(place + SUMS))
    if not sealed:
        raise UserError(f"{folder} holds no {SUMS}, so there is nothing to compare its files with")
    faults = [fault for fault in map(damage, sealed) if fault]
    for path in sealed:
        print(f"{path}: {len(listed(path) or ()):,} files")
    if faults:
        raise UserError("; ".join(faults))
    print("all are as they were written")


if __name__ == "__main__":
    run_script(main)
