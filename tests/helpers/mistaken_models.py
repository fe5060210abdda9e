"""Models and runs that users give by mistake: broken, cut short, moved away from what they need, or of other kinds."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
from published import published_file
from safetensors.torch import load_file, save_file

from checkpoint import write_model
from config import ModelArgs
from model import Llama
from publishing.published_weights import convert
from runtime.checksums import write_checksums
from tokenizer import byte_level

STEP = "step_000001"
BROKEN = "x" * 200_000  # as long as weights


def write_models(folder: Path, step: Path) -> None:
    """Write folders of models that are copies of a step, each with a fault."""
    faults = {
        "broken-config": {"config.json": "{"},
        "odd-config": {"config.json": {"hidden_size": "wide"}},
        "gpt2-config": {"config.json": {"model_type": "gpt2"}},
        "narrow-config": {"config.json": {"intermediate_size": 5}},
        "broken-generation": {"generation_config.json": "{"},
        "odd-generation": {"generation_config.json": {"temperature": "hot"}},
        "cut-weights": {"model.safetensors": BROKEN},
        "no-weights": {"model.safetensors": None},
        "pickled": {"model.safetensors": None, "pytorch_model.bin": BROKEN},
        "broken-index": {"model.safetensors": None, "model.safetensors.index.json": "{"},
        "half-index": {
            "model.safetensors": None,
            "model.safetensors.index.json": {"weight_map": {"a": "part-2.safetensors"}},
        },
        "no-tokenizer": {"tokenizer.json": None},
        "lost-base": {"adapter_config.json": {"base_model_name_or_path": "gone"}},
        "broken-adapter": {"adapter_config.json": "{"},
        "cut-adapter": {
            "adapter_config.json": {"base_model_name_or_path": str(step)},
            "adapter_model.safetensors": "x",
        },
    }
    for name, files in faults.items():
        shutil.copytree(step, folder / name, ignore=shutil.ignore_patterns("train_state", "SHA256SUMS"))
        for file, content in files.items():
            alter(folder / name / file, content)
    shutil.copytree(folder / "cut-adapter", folder / "other-adapter")
    alter(folder / "other-adapter" / "adapter_config.json", {"peft_type": "IA3"})
    shutil.copy(step / "model.safetensors", folder / "other-adapter" / "adapter_model.safetensors")

    shutil.copytree(step, folder / "good", ignore=shutil.ignore_patterns("train_state", "SHA256SUMS"))
    shutil.copytree(folder / "good", folder / "not-finite")
    weights = load_file(folder / "good" / "model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, folder / "not-finite" / "model.safetensors", {"format": "pt"})

    shutil.copytree(folder / "good", folder / "word-level")
    for path in (folder.parent / "tokenizers" / "loses").iterdir():
        shutil.copy(path, folder / "word-level")
    small = ModelArgs(vocab_size=64, embeddings_dims=32, no_of_decoder_layers=1, no_of_heads=4, block_size=32)
    (folder / "few-tokens").mkdir()
    write_model(folder / "few-tokens", Llama(small), byte_level(), {"stage": "S"})
    convert(published_file(folder / "published.pt"), folder / "legacy", "S")


def alter(path: Path, content: str | dict | None) -> None:
    """Replace a file, or values of a JSON file; None removes it."""
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        stored = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**stored, **content}))
    else:
        path.write_text(content)


def write_runs(runs: Path) -> None:
    """Write runs that cannot be resumed: copies of P-toy, each with a fault."""
    faults = {
        "other-data": {"state.json": {"data": "0" * 64}},
        "old-format": {"state.json": {"format": 1}},
        "broken-state": {"state.json": "{"},
        "broken-optimizer": {"optimizer.pt": "x"},
        "moved-back": {"state.json": {"cooldown_checkpoint": 0, "decay_end": 1}},
    }
    for name, files in faults.items():
        state = shutil.copytree(runs / "P-toy", runs / name) / STEP / "train_state"
        for file, content in files.items():
            alter(state / file, content)
        write_checksums(state, {})
    shutil.rmtree(shutil.copytree(runs / "P-toy", runs / "no-state") / STEP / "train_state")
    flip(shutil.copytree(runs / "P-toy", runs / "flipped") / STEP / "model.safetensors")


def write_lost_references(folder: Path, data: Path) -> None:
    """Write copies of the preference data whose table of reference log-probs is missing, damaged, broken or short."""
    for name in ("missing", "damaged", "broken", "short"):
        copy = shutil.copytree(data / "pairs", folder / name / "pairs") / "reference"
        for table in copy.glob("*-train.npy"):
            if name == "missing":
                table.unlink()
            else:
                alter(table, "x")
            if name in ("broken", "short"):
                table.with_suffix(".sha256").unlink()
            if name == "short":
                np.save(table, np.zeros((3, 2), np.float32))


def flip(path: Path) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
