"""Scores of pairs: those of the run itself, with its own objective, whether or not its start is still there."""

import shutil
from pathlib import Path

import pytest
import torch
from forks import forked
from toy import metrics, toy_dataset

from checkpoint import load_model, write_model
from config import ModelArgs
from dataloader.pairs import PairRows
from dataprep.shards import TokenDataset, read_meta
from model import Llama
from runtime.distributed import DistributedEnv
from training.preference_scores import objective_of_run, preference_scores, reference_of_run

OBJECTIVES = {
    "sigmoid": {"beta": 3.0, "label_smoothing": 0.1},
    "ipo": {"beta": 0.5, "dpo_loss": "ipo"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fine-tuned model and runs of preferences that start from it."""
    folder = tmp_path_factory.mktemp("scores")
    toy_dataset(folder / "data", "talks", 200, "instruct")
    toy_dataset(folder / "data", "pairs", 200, "preference")
    rows = {"block_size": 64, "batch_size": 2, "eval_check": 100}
    forked(folder, train="S", dataset="talks", run_name="S", **rows)
    for name, objective in OBJECTIVES.items():
        start = {"init_from": folder / "runs" / "S", "max_lr": 1e-2}
        forked(folder, train="D", dataset="pairs", run_name=name, **start, **rows, **objective)
    return folder


def scores(place: Path, name: str, env: DistributedEnv) -> dict[str, float]:
    """Return the scores of a run as evaluation.py makes them."""
    step = place / "runs" / name / "step_000006"
    data = place / "data" / "pairs"
    rows = PairRows(TokenDataset(data, "val", read_meta(data)), 64, 0)
    args = ModelArgs(train="D", batch_size=3, **objective_of_run(step))
    return preference_scores(load_model(step)[0], reference_of_run(step, data, 64), rows, args, env)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_scores_are_those_of_the_run(place: Path, name: str, env: DistributedEnv) -> None:
    row = metrics(place / "runs" / name, "val")[-1]
    assert row["whole"] and row["step"] == 6
    ours = scores(place, name, env)
    assert ours["dpo_loss"] == pytest.approx(row["loss"], rel=1e-4)
    assert ours["margin"] == pytest.approx(row["margin"], rel=1e-3) and ours["margin"] != 0
    assert ours["accuracy"] == pytest.approx(row["accuracy"]) and ours["pairs"] == row["count"]


def test_without_the_start_its_log_probs_on_disk_serve(
    place: Path, tmp_path: Path, env: DistributedEnv, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    whole = scores(tmp_path, "sigmoid", env)
    step = tmp_path / "runs" / "sigmoid" / "step_000006"
    data = tmp_path / "data" / "pairs"
    assert isinstance(reference_of_run(step, data, 64), Llama)

    shutil.rmtree(tmp_path / "runs" / "S")
    assert scores(tmp_path, "sigmoid", env) == pytest.approx(whole, rel=1e-4)
    assert not capsys.readouterr().err

    # Of other rows, or in another context, nothing is known.
    toy_dataset(tmp_path / "data", "others", 100, "preference")
    for other, context in (tmp_path / "data" / "others", 64), (data, 32):
        assert reference_of_run(step, other, context) is None
        assert "accuracy and margin are skipped; name another model" in capsys.readouterr().err


def test_a_start_that_has_changed_is_no_reference(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    start = tmp_path / "runs" / "S" / "step_000006"
    model, tokenizer = load_model(start)
    with torch.no_grad():
        model.lm_head.weight[3, 3] += 1
    write_model(start, model, tokenizer, {})
    shutil.rmtree(tmp_path / "data" / "pairs" / "reference")
    step = tmp_path / "runs" / "sigmoid" / "step_000006"
    assert reference_of_run(step, tmp_path / "data" / "pairs", 64) is None
    assert "not those that" in capsys.readouterr().err


def test_other_models_have_no_objective_and_no_reference(place: Path, tmp_path: Path) -> None:
    data = place / "data" / "pairs"
    for folder in place / "runs" / "S" / "step_000006", tmp_path:
        assert objective_of_run(folder) == {} and reference_of_run(folder, data, 64) is None
    assert objective_of_run(place / "runs" / "ipo" / "step_000006") == {
        "beta": 0.5,
        "dpo_loss": "ipo",
        "label_smoothing": 0.0,
    }
