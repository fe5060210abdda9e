"""Untrained stand-ins for trained models: a run of each stage, created in milliseconds, one token for each letter."""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from toy import ROOT

from config import ModelArgs
from model import Llama
from tokenizer import Tokenizer, from_ranks
from training.metrics import Metrics
from training.state import TrainState, save

ARGS = ModelArgs(
    embeddings_dims=32,
    no_of_decoder_layers=2,
    no_of_heads=4,
    no_kv_heads=2,
    hidden_dims=48,
    vocab_size=97,
    block_size=512,
    dropout=0.0,
    attn_dropout=0.0,
    device="cpu",
)
STAGES = {"P": "pretraining", "S": "sft", "D": "dpo"}


def letters() -> Tokenizer:
    """Return a tokenizer with one token for each printable ASCII character and for the line break."""
    return from_ranks({bytes([code]): rank for rank, code in enumerate([10, *range(32, 127)])})


def run_of(stage: str, runs: Path, step: int = 1, seed: int = 0, name: str | None = None) -> Path:
    """Save a model of a stage as the newest step of its run; return the step's folder."""
    torch.manual_seed(seed)
    model = Llama(ARGS)
    with torch.no_grad():
        for weight in model.parameters():
            # At the usual size of weights every next token is about equally likely.
            if weight.dim() == 2:
                weight.mul_(8)

    run = runs / (name or f"{stage}-toy")
    run.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(run, "disabled", {})
    for number in range(1, 6):
        metrics.write(number, "train", {"loss": 5.5 / number, "tokens": 256 * number})
    metrics.write(5, "val", {"loss": 1.25, "tokens": 1280})
    metrics.close()

    state = {"args": {**model.args.explicit, "train": stage}, "stage": STAGES[stage]}
    return save(run, TrainState(step, 0, 0), model, letters(), model.state_dict(), {}, state)


def three_runs(runs: Path) -> Path:
    """Save a run of each stage, each with weights of its own; return the folder of the runs."""
    for seed, stage in enumerate(STAGES):
        run_of(stage, runs, seed=seed)
    return runs


def load_app() -> ModuleType:
    """Load gradio/app.py as a module: its folder is no package, so that `gradio` stays the library."""
    spec = importlib.util.spec_from_file_location("page_app", ROOT / "gradio" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
