"""Models to export: two short runs, and a model whose random weights are spread; and a way to call a script."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from toy import TINY, flags, toy_dataset

import trainer
from checkpoint import find_model, write_model
from config import ModelArgs
from generation.chat import Prompt, load_chat_model
from model import Llama
from tokenizer import Tokenizer

SOURCE = {"repo": "someone/stories", "revision": "0123456789abcdef"}
LOCAL_SOURCE = {"files": [{"path": "/somewhere/private/answers.jsonl", "bytes": 123, "modified": 0}]}


def call(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: object
) -> list[str]:
    """Run a script's main and return the lines that it prints on stdout."""
    monkeypatch.setattr("sys.argv", ["script", *map(str, words)])
    capsys.readouterr()
    module.main()
    return capsys.readouterr().out.splitlines()


def train_two_runs(folder: Path) -> Path:
    """Train two short runs, pretraining and fine-tuning from it; return the folder of P-toy and S-asked."""
    for name, kind, source in (("toy", "text", SOURCE), ("asked", "instruct", LOCAL_SOURCE)):
        meta = toy_dataset(folder / "data", name, kind=kind) / "meta.json"
        (meta.parent / "SHA256SUMS").unlink(missing_ok=True)  # it is of the file as it was
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "source": source}))

    runs = folder / "runs"
    settings = {
        **TINY,
        "data_dir": folder / "data",
        "save_checkpoint_dir": runs,
        "total_iters": 4,
        "block_size": 96,
        "batch_size": 4,
        "total_batch_size": 384,
    }
    with pytest.MonkeyPatch.context() as patch:
        for stage, dataset, extra in (
            ("P", "toy", []),
            ("S", "asked", ["--init_from", str(runs / "P-toy")]),
        ):
            words = flags({**settings, "train": stage, "dataset": dataset})
            patch.setattr("sys.argv", ["trainer.py", *words, *extra])
            trainer.main()
    return runs


def write_spread_model(
    folder: Path, args: ModelArgs, spread: Callable[[Llama], Llama], tokenizer: Tokenizer
) -> Llama:
    """Write a model of random, spread weights, whose vocabulary fits a tokenizer, into a new folder; return it."""
    torch.manual_seed(0)
    vocab_size = -(-tokenizer.vocab_size // 64) * 64
    model = spread(Llama(args.replace(vocab_size=vocab_size, block_size=256)))
    folder.mkdir()
    write_model(folder, model.eval(), tokenizer, {"stage": "S"})
    return model


def greedy_text(folder) -> str:
    """Return the greedy answer of the model in a folder."""
    chat_model = load_chat_model(find_model(folder))
    ids = chat_model.encode([{"role": "user", "content": "Say fox"}])
    pieces = chat_model.stream_reply(Prompt(ids), ModelArgs(temperature=0, max_length=30))
    return "".join(piece.text for piece in pieces)
