"""The training state on disk: names that checkpoints have had from the start, generators, the run's folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from config import ModelArgs
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.errors import RunError, UserError
from tokenizer import byte_level
from training import state
from training.metrics import Metrics
from training.nonfinite import SkipState
from training.optimizers import build_optimizers
from training.parallel import full_state_dicts
from training.state import (
    TrainState,
    best_step,
    initial_weights_folder,
    load_state,
    newest_sound_step,
    prune,
    restore,
    rng_state,
    run_folder,
    save,
    update_best,
)


@pytest.fixture
def args(tiny: ModelArgs) -> ModelArgs:
    """Settings of a model with the vocabulary of bytes."""
    return tiny.replace(vocab_size=320)


def save_at(
    run: Path,
    step: int,
    args: ModelArgs,
    training: dict | None = None,
    init_from: str = "",
    failed_in_a_row: int = 0,
) -> Path:
    """Write the checkpoint of a step; return its folder."""
    torch.manual_seed(step)
    model = Llama(args)
    run.mkdir(exist_ok=True)
    position = TrainState(step=step, rows_consumed=8 * step, tokens=256 * step)
    metadata = {
        "args": args.explicit,
        "data": "0" * 64,
        "stage": "pretraining",
        "world_size": 1,
        "skips": SkipState(in_a_row=failed_in_a_row, skipped_ranges=[[8, 8]]).to_dict(),
        "init_from": init_from,
    }
    return save(run, position, model, byte_level(), model.state_dict(), training or {}, metadata)


def test_names_on_disk_stay(tmp_path: Path, args: ModelArgs) -> None:
    folder = save_at(tmp_path / "run", 2, args)
    stored = json.loads((folder / "train_state" / "state.json").read_text())
    assert (stored["step"], stored["cursor"], stored["tokens"]) == (2, 16, 512)
    assert stored["skips"] == {"in_a_row": 0, "first": 0, "returned_to": [], "left_out": [[8, 8]]}

    position, rest = load_state(folder)
    assert position == TrainState(2, 16, 512)
    assert SkipState.from_dict(rest["skips"]) == SkipState(skipped_ranges=[[8, 8]])


def test_latest_and_pruning(tmp_path: Path, args: ModelArgs) -> None:
    run = tmp_path / "run"
    for step in (1, 2, 3):
        save_at(run, step, args)
        (run / ".step_000009.tmp").mkdir()  # a killed run's
        prune(run, keep=2)
    assert (run / "latest").read_text() == "step_000003"
    assert names(run) == ["step_000002", "step_000003"]
    assert not list(run.glob(".*"))

    prune(run, keep=0)
    assert names(run) == ["step_000002", "step_000003"]


def test_the_best_step_and_starts_of_other_runs_are_kept(tmp_path: Path, args: ModelArgs) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = Metrics(run, "disabled", {})
    for step, loss in enumerate([3.0, 1.0, None, 2.0, float("nan"), 1.5, 1.0], 1):
        save_at(run, step, args)
        if loss is not None:
            record.write(step, "val", {"loss": loss, "whole": True})
        if step == 1:
            other = save_at(tmp_path / "other", 1, args, init_from="../run/step_000001")
        update_best(run)
        prune(run, keep=1)
    assert other.is_dir()
    assert (run / "best").read_text() == "step_000002" and best_step(run) == run / "step_000002"
    assert names(run) == ["step_000001", "step_000002", "step_000007"]

    # Losses are compared over the same rows, where an evaluation covers all.
    save_at(run, 8, args)
    record.write(8, "val", {"loss": 0.1, "sample_loss": 1.1, "whole": True})
    update_best(run)
    assert best_step(run) == run / "step_000002"

    save_at(run, 9, args)
    record.write(9, "val", {"loss": 5.0, "sample_loss": 0.5, "whole": True})
    record.close()
    update_best(run)
    prune(run, keep=1)
    assert best_step(run) == run / "step_000009"
    assert names(run) == ["step_000001", "step_000009"]


def test_the_newest_step_that_is_sound_is_kept(tmp_path: Path, args: ModelArgs) -> None:
    run = tmp_path / "run"
    for step, failed in ((1, 0), (2, 0), (3, 1), (4, 2)):
        save_at(run, step, args, failed_in_a_row=failed)
        prune(run, keep=1)
    assert names(run) == ["step_000002", "step_000004"]
    assert newest_sound_step(run) == run / "step_000002"

    # A step whose training state was removed cannot be rolled back to.
    shutil.rmtree(run / "step_000002" / "train_state")
    assert newest_sound_step(run) is None
    save_at(run, 5, args)
    assert newest_sound_step(run) == run / "step_000005"


def names(run: Path) -> list[str]:
    """Return the names of the step folders of a run."""
    return sorted(path.name for path in run.glob("step_*"))


def test_a_disk_without_room_leaves_the_other_checkpoints(
    tmp_path: Path, args: ModelArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    save_at(run, 1, args)
    monkeypatch.setattr(state, "SMALL_FILES", 1e18)
    with pytest.raises(RunError, match="step 2 could not be written .*it needs .* GB"):
        save_at(run, 2, args)
    assert [path.name for path in run.iterdir() if path.is_dir()] == ["step_000001"]


def test_optimizer_and_generators_are_restored(tmp_path: Path, args: ModelArgs, env: DistributedEnv) -> None:
    model = Llama(args)
    optimizers = build_optimizers(model, args)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers[0].step()
    states = [optimizer.state_dict() for optimizer in optimizers]
    _, by_name = full_state_dicts(model, optimizers)
    training = {
        "optimizer": {"optimizers": by_name, "scaler": scaler.state_dict()},
        "rng": [rng_state(env)],
    }
    folder = save_at(tmp_path / "run", 1, args, training=training)
    torch.set_rng_state(training["rng"][0][0])
    wanted = torch.rand(3)

    fresh = Llama(args)
    fresh_optimizers = build_optimizers(fresh, args)
    restore(folder, fresh, fresh_optimizers, scaler, env)
    assert torch.equal(torch.rand(3), wanted)
    restored = fresh_optimizers[0].state_dict()["state"]
    assert restored.keys() == states[0]["state"].keys() and len(restored) > 5
    for key, values in states[0]["state"].items():
        assert torch.equal(restored[key]["exp_avg"], values["exp_avg"])


def test_initial_weights_are_found_from_the_run(tmp_path: Path) -> None:
    step = tmp_path / "D" / "step_000004"
    assert initial_weights_folder(step, {"init_from": ""}) is None
    found = initial_weights_folder(step, {"init_from": "../S/step_000002"})
    assert found == (tmp_path / "S" / "step_000002").resolve()


def test_a_run_folder_is_locked_and_an_older_run_moves_aside(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with run_folder(run, keep=False):
        (run / "metrics.jsonl").write_text("{}")
        with pytest.raises(UserError, match="another process is at work"), run_folder(run, keep=True):
            pass
    with run_folder(run, keep=True):
        assert (run / "metrics.jsonl").exists()
    with run_folder(run, keep=False):
        assert not list(run.iterdir())
    assert (tmp_path / "run.old1" / "metrics.jsonl").exists()
