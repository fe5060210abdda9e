"""What several tests of training share: a small model to score answers with, and runs on toy data."""

from pathlib import Path

import pytest
import torch
from toy import TINY, toy_dataset

from config import ModelArgs
from model import Llama
from training.run import Run
from training.settings import resolve_run


@pytest.fixture
def model() -> Llama:
    torch.manual_seed(0)
    return Llama(
        ModelArgs(
            embeddings_dims=32,
            no_of_decoder_layers=1,
            no_of_heads=4,
            no_kv_heads=2,
            hidden_dims=48,
            vocab_size=257,
            block_size=64,
            dropout=0.0,
            attn_dropout=0.0,
            device="cpu",
        )
    ).eval()


@pytest.fixture
def make_run(tmp_path: Path):
    """Return a function that sets up a run on toy data."""

    def make(kind: str = "text", **settings: object) -> Run:
        if not (tmp_path / "data" / f"toy-{kind}").exists():
            toy_dataset(tmp_path / "data", f"toy-{kind}", 60, kind)
        places = {"data_dir": str(tmp_path / "data"), "save_checkpoint_dir": str(tmp_path / "runs")}
        return Run(resolve_run({**TINY, **places, "dataset": f"toy-{kind}", **settings}))

    return make
