"""The schedule wsd: a finished run is made longer from before its cool-down; documents without a mask."""

from pathlib import Path

import pytest
from forks import forked
from safetensors.torch import load_file
from toy import metrics, toy_dataset, trainer

WSD = {"lr_schedule": "wsd", "cooldown_iters": 3, "save_checkpoint_iter": 2, "keep_checkpoints": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy data, a run of 6 steps and one of 10 steps that was never shorter."""
    folder = tmp_path_factory.mktemp("wsd")
    toy_dataset(folder / "data")
    forked(folder, run_name="grown", total_iters=6, **WSD)
    forked(folder, run_name="long", total_iters=10, **WSD)
    return folder


def test_a_finished_run_gets_longer_from_before_its_cooldown(finished: Path) -> None:
    run = finished / "runs" / "grown"
    assert [path.name for path in sorted(run.glob("step_*"))] == ["step_000003", "step_000006"]
    before = load_file(run / "step_000006" / "model.safetensors")
    assert "nothing left to do" in forked(finished, "--resume", run_name="grown", **WSD)

    said = forked(finished, "--resume", run_name="grown", total_iters=10, **WSD)
    assert "from before its rate began to fall" in said and "step_000003" in said
    aside = finished / "runs" / "grown.step_000006"
    kept = load_file(aside / "model.safetensors")
    assert all(kept[name].equal(value) for name, value in before.items()), "the finished model is kept"

    # The same as a run that was that long from its start.
    grown, long = metrics(run), metrics(finished / "runs" / "long")
    assert [row["loss"] for row in grown] == [row["loss"] for row in long] != []
    ours, theirs = (
        load_file(finished / "runs" / name / "step_000010" / "model.safetensors")
        for name in ("grown", "long")
    )
    assert all(ours[name].equal(value) for name, value in theirs.items())


def test_a_run_that_is_past_its_end_says_so(finished: Path) -> None:
    said = forked(finished, "--resume", run_name="long", total_iters=3)
    assert "nothing left to do: step 10, past the end at step 3, is in" in said
    assert "--total_iters 20" in said


def test_resume_and_init_from_exclude_each_other(finished: Path) -> None:
    said = forked(finished, "--resume", run_name="long", init_from=finished / "runs" / "long", code=2)
    assert "drop one of them" in said.strip().splitlines()[-1]


def test_a_longer_run_needs_the_checkpoint_from_before(finished: Path) -> None:
    forked(finished, run_name="cosine", total_iters=4)
    said = forked(finished, "--resume", run_name="cosine", total_iters=6)
    assert "began to fall" not in said and "resuming from" in said

    forked(finished, run_name="gone", total_iters=4, **WSD)
    checkpoint = finished / "runs" / "gone" / "step_000001"
    checkpoint.rename(finished / "elsewhere")
    said = forked(finished, "--resume", run_name="gone", total_iters=8, code=2, **WSD)
    assert said.strip().splitlines()[-1].startswith("error: ") and "--init_from" in said


def test_without_the_document_mask_rows_are_one_document(finished: Path) -> None:
    masked = forked(finished, run_name="masked", total_iters=1)
    plain = forked(finished, "--no-document_mask", run_name="plain", total_iters=1)
    assert "attention: each document alone" in masked
    assert "attention: --no-document_mask" in plain
    losses = [metrics(finished / "runs" / name)[0]["loss"] for name in ("masked", "plain")]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], abs=0.1)


def test_the_same_command_does_not_begin_the_fall_again(finished: Path) -> None:
    """A run that another limit than --total_iters has ended, or whose fall ends before it."""
    limits = {"epochs": 1, "total_iters": 10_000, "total_batch_size": 4096, "batch_size": 64}
    settings = {**WSD, **limits, "run_name": "epoch"}
    forked(finished, **settings)
    assert "nothing left to do" in forked(finished, "--resume", **settings)

    settings = {**WSD, "run_name": "early", "total_iters": 6, "lr_decay_iters": 4, "cooldown_iters": 2}
    forked(finished, **settings)
    assert "nothing left to do" in forked(finished, "--resume", **settings)
    said = forked(finished, "--resume", **{**settings, "total_iters": 8})
    assert "began to fall" not in said and len(metrics(finished / "runs" / "early")) == 8


def test_more_epochs_make_a_run_longer_too(finished: Path) -> None:
    forked(finished, run_name="steps", total_iters=6, **WSD)
    settings = {name: value for name, value in WSD.items() if name != "cooldown_iters"}
    said = forked(
        finished, "--resume", run_name="steps", epochs=1, total_iters=900, cooldown_iters=3, **settings
    )
    assert "from before its rate began to fall" in said
    rates = [row["lr"] for row in metrics(finished / "runs" / "steps")]
    assert rates[3] == rates[-10] == max(rates), "constant until the new fall"


def test_between_failed_steps_no_checkpoint_is_taken_for_the_fall(finished: Path) -> None:
    """The one that a rollback needs is not pruned for it."""
    code = "import math, trainer as t\n" + (
        "old = t.train_step\n"
        "def failing(*given):\n"
        "    result = old(*given)\n"
        "    failing.step += 1\n"
        "    if failing.step in (6, 7):\n"
        "        return t.StepResult(result.means, t.NotFinite(math.nan, math.nan, []))\n"
        "    return result\n"
        "failing.step = 0\n"
        "t.train_step = failing\n"
    )
    settings = {**WSD, "save_checkpoint_iter": 4, "total_iters": 9, "run_name": "sound"}
    done = trainer(finished, code=code, **settings)
    assert done.returncode == 0, done.stderr
    kept = sorted(path.name for path in (finished / "runs" / "sound").glob("step_*"))
    assert kept == ["step_000008", "step_000009"], "the first sound step of the fall, and the end"
