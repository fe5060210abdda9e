"""Fitting in a process: the probe of a step changes nothing else, and a run by the clock ends and is saved."""

import sys
from pathlib import Path

import pytest
import torch
from toy import TINY, flags, metrics, toy_dataset

import trainer
from runtime.distributed import DistributedEnv
from training.run import Run
from training.settings import resolve_run

SIZES = ("embeddings_dims", "no_of_decoder_layers", "no_of_heads", "no_kv_heads", "block_size", "total_iters")


def without_size(folder: Path) -> dict[str, object]:
    """Return settings of a run on toy data whose size is not typed."""
    toy_dataset(folder / "data", "toy", 60)
    places = {"data_dir": str(folder / "data"), "save_checkpoint_dir": str(folder / "runs")}
    return {**{name: value for name, value in TINY.items() if name not in SIZES}, **places}


def test_time_decides_on_size_and_steps(tmp_path: Path, env: DistributedEnv) -> None:
    run = Run(resolve_run({**without_size(tmp_path), "budget": "1h"}))
    before = torch.get_rng_state()
    plan = "\n".join(run.attach_hardware(env))
    assert torch.equal(before, torch.get_rng_state())
    assert "adapted: size: " in plan and "arXiv" in plan
    assert run.args.epochs is None and run.steps == run.args.total_iters >= 1
    assert run.args.block_size == 256 and len(run.rows.at(0).tokens) >= 256


def test_a_run_by_the_clock_ends_and_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second has passed before the first step, so the run is as short as it can be."""
    monkeypatch.setattr(sys, "argv", ["trainer.py", *flags({**without_size(tmp_path), "budget": "1s"})])
    trainer.main()
    run = tmp_path / "runs" / "P-toy"
    rows = metrics(run)
    assert rows and (run / (run / "latest").read_text() / "model.safetensors").is_file()


def test_a_few_answers_are_learned_by_heart_without_a_warning(tmp_path: Path, env: DistributedEnv) -> None:
    toy_dataset(tmp_path / "data", "few", 20, "instruct")
    places = {"data_dir": str(tmp_path / "data"), "save_checkpoint_dir": str(tmp_path / "runs")}
    small = {"train": "S", "dataset": "few", "embeddings_dims": 32, "no_of_heads": 4, "block_size": 64}
    run = Run(resolve_run({**small, **places}))
    plan = "\n".join(run.attach_hardware(env))
    assert "learned by heart" in plan and run.args.dropout == 0 and run.steps >= 2 * 200
    assert run.learns_by_heart
