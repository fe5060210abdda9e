"""Fine-tuning and alignment as complete runs: what they learn, kills, ranks, the reference, the stage that is meant."""

import io
import json
import math
import re
import shutil
import signal

import forks
import numpy as np
import pytest
import torch
from forks import forked
from kills import KILLS, in_step, in_writing_the_reference, same_run, weights
from toy import TINY, metrics, toy_dataset

import checkpoint
from training.reference_logps import reference_key

TALKS = {
    "train": "S",
    "dataset": "talks",
    "block_size": 64,
    "batch_size": 4,
    "total_batch_size": 512,
    "dropout": 0.1,
    "attn_dropout": 0.1,
}
PAIRS = {**TALKS, "train": "D", "dataset": "pairs", "total_batch_size": 1024, "max_lr": 5e-3}


def killed(folder, arm, **settings):
    """Run until the process kills itself where one of KILLS says; return the run's folder."""
    forked(folder, before=lambda rank: arm(), code=-signal.SIGKILL, **settings)
    return folder / "runs" / f"{settings['train']}-{settings['dataset']}"


def start_of(stage, aligned):
    """The settings of a stage with the weights that it starts from."""
    return {**stage, "init_from": aligned / "runs" / "S-talks"} if stage is PAIRS else stage


def without_reference(aligned, folder):
    """A copy of the data in which no reference is known."""
    shutil.copytree(aligned / "data", folder / "data", ignore=shutil.ignore_patterns("reference"))


def state_of(run):
    return json.loads((run / (run / "latest").read_text() / "train_state" / "state.json").read_text())


def tables(folder):
    return {
        path.name: path.read_bytes()
        for path in sorted((folder / "data" / "pairs" / "reference").glob("*.npy"))
    }


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A folder with toy conversations and pairs, a run S on the ones and a run D on the others that starts from it."""
    folder = tmp_path_factory.mktemp("aligned")
    toy_dataset(folder / "data", "talks", kind="instruct")
    toy_dataset(folder / "data", "pairs", kind="preference")
    forked(folder, **TALKS)
    forked(folder, **start_of(PAIRS, folder))
    return folder


def test_fine_tuning_learns_to_answer(aligned):
    run = aligned / "runs" / "S-talks"
    rows = metrics(run)
    assert (
        rows[0]["loss"] == pytest.approx(math.log(320), abs=0.2) and rows[-1]["loss"] < rows[0]["loss"] - 0.5
    )
    validation = metrics(run, "val")
    assert [row["step"] for row in validation] == [0, 3, 6] and validation[2]["loss"] < validation[1]["loss"]
    assert [row["count"] for row in rows] != [row["tokens"] for row in rows]
    assert all(0 < row["count"] < 512 / 4 for row in rows)  # of the tokens of a step, the answers alone
    assert state_of(run)["stage"] == "fine-tuning" and state_of(run)["reference"] is None


def test_alignment_learns_what_is_preferred(aligned):
    run, source = aligned / "runs" / "D-pairs", aligned / "runs" / "S-talks" / "step_000006"
    rows, validation = metrics(run), metrics(run, "val")
    names = {"accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logps", "rejected_logps"}
    assert all(names <= row.keys() for row in rows + validation)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=0.1)  # not exactly, for there is dropout
    assert validation[-1]["loss"] < 0.6 < math.log(2) and validation[-1]["accuracy"] > 0.7
    assert validation[2]["margin"] > validation[1]["margin"] > validation[0]["margin"] == 0
    for row in rows + validation:
        assert row["margin"] == pytest.approx(
            row["chosen_reward"] - row["rejected_reward"], abs=1e-6
        )  # in float32
    assert state_of(run)["init_from"] == f"../S-talks/{source.name}"  # from wherever both are moved to
    key = state_of(run)["reference"]
    model, _ = checkpoint.load_model(source)
    assert key == reference_key(
        model, state_of(run)["data"], 64, torch.float32
    )  # of the weights that it started from
    assert list(tables(aligned)) == [f"{key}-train.npy", f"{key}-val.npy"]


@pytest.mark.parametrize("stage", [TALKS, PAIRS], ids="SD")
def test_killed_answers_resume_bit_identical(aligned, tmp_path, stage):
    without_reference(aligned, tmp_path)
    run = killed(tmp_path, in_step, **start_of(stage, aligned))
    assert (run / "latest").read_text() == "step_000002"
    made = tables(tmp_path) if stage is PAIRS else None
    forked(tmp_path, "--resume", **stage)
    assert same_run(run, aligned / "runs" / run.name)
    if stage is PAIRS:
        assert made == tables(tmp_path) == tables(aligned)  # of the first weights, not of those of step 2
        assert (run / state_of(run)["init_from"]).samefile(aligned / "runs" / "S-talks" / "step_000006")


def test_answers_without_their_generators_are_others(aligned, tmp_path):
    """The comparison above is not vacuous: another seed gives another run."""
    shutil.copytree(aligned / "data", tmp_path / "data")
    forked(tmp_path, **start_of(PAIRS, aligned), seed=7)
    assert not same_run(tmp_path / "runs" / "D-pairs", aligned / "runs" / "D-pairs")


@pytest.mark.parametrize("stage", [TALKS, PAIRS], ids="SD")
def test_two_ranks_learn_the_same_answers_as_one(aligned, tmp_path, stage):
    without_reference(aligned, tmp_path)
    still = {**start_of(stage, aligned), "dropout": 0.0, "attn_dropout": 0.0, "max_lr": 1e-3, "batch_size": 8}
    said = forked(tmp_path, ranks=2, run_name="two", **still, micro_batch_size=2)
    assert "micro-batches x 2 ranks" in said
    if stage is PAIRS:
        made = tables(tmp_path)
        shutil.rmtree(tmp_path / "data" / "pairs" / "reference")
    forked(tmp_path, run_name="one", **still)
    for split in ("train", "val"):
        for row, other in zip(
            *(metrics(tmp_path / "runs" / name, split) for name in ("one", "two")), strict=True
        ):
            compared = row.keys() - {"tokens_per_second", "mfu", "lr", "step", "split", "tokens"}
            assert {"loss", "count"} <= compared and row["count"] == other["count"] > 0
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert {name: row[name] for name in compared} == {
                name: pytest.approx(other[name], rel=1e-4, abs=1e-4) for name in compared
            }
    for key, value in weights(tmp_path / "runs" / "one").items():
        torch.testing.assert_close(weights(tmp_path / "runs" / "two")[key], value, rtol=1e-4, atol=1e-4)
    if stage is PAIRS:
        for name, table in tables(tmp_path).items():
            one, two = (np.load(io.BytesIO(content)) for content in (table, made[name]))
            np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize("harm", ["other weights' log-probs", "sides swapped"])
def test_a_wrong_reference_is_refused_before_the_first_step(aligned, tmp_path, harm):
    shutil.copytree(aligned / "data", tmp_path / "data")
    for path in (tmp_path / "data" / "pairs" / "reference").glob("*.npy"):
        path.with_suffix(".sha256").unlink()  # or it would be refused for that
        table = np.load(path)
        np.save(path, table[:, ::-1] if harm == "sides swapped" else table + np.float32([0.0, 0.3]))
    said = forked(tmp_path, **start_of(PAIRS, aligned), code=1)
    assert re.search(r"error: the loss before the first step is .*, not 0.693147: .* delete that", said), said
    assert not (tmp_path / "runs" / "D-pairs" / "latest").exists()


def test_other_weights_get_a_reference_of_their_own(aligned, tmp_path):
    shutil.copytree(aligned / "data", tmp_path / "data")
    forked(tmp_path, **PAIRS, init_from=aligned / "runs" / "S-talks" / "step_000004", run_name="other")
    assert len(tables(tmp_path)) == 4 and tables(aligned).items() < tables(tmp_path).items()


def test_a_resumed_alignment_needs_its_reference(aligned, tmp_path):
    without_reference(aligned, tmp_path)
    shutil.copytree(aligned / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "D-pairs" / "latest").write_text("step_000004")
    said = forked(tmp_path, "--resume", **PAIRS, code=2)
    assert re.search(
        r"error: the reference log-probs of this run are missing .* --init_from .*S-talks", said
    ), said


def test_pretraining_on_instructions_is_fine_tuning(aligned, tmp_path):
    shutil.copytree(aligned / "data", tmp_path / "data")
    assert "fine-tuning on talks" in forked(tmp_path, **{**TALKS, "train": "P"})
    assert same_run(tmp_path / "runs" / "S-talks", aligned / "runs" / "S-talks")
    said = forked(tmp_path, **{**PAIRS, "train": "P"}, code=2)
    assert "--dataset pairs is of kind preference; --train P needs text" in said


def test_a_fine_tuning_is_resumed_as_one_when_pretraining_is_typed(aligned, tmp_path):
    """`--train P --resume --run_name X` goes on with X's own stage, though the folder holds texts as well."""
    shutil.copytree(aligned / "data", tmp_path / "data")
    toy_dataset(tmp_path / "data")
    shutil.copytree(aligned / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "S-talks" / "latest").write_text("step_000004")
    forked(tmp_path, "--resume", **{**TALKS, "train": "P", "dataset": "toy", "run_name": "S-talks"}, code=2)
    words = {name: value for name, value in {**TINY, **TALKS, "train": "P"}.items() if name != "dataset"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forks, "TINY", {})
        said = forked(tmp_path, "--resume", **words, run_name="S-talks")
    assert "fine-tuning on talks" in said
    assert same_run(tmp_path / "runs" / "S-talks", aligned / "runs" / "S-talks")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [TALKS, PAIRS], ids="SD")
@pytest.mark.parametrize("where, arm, whole", KILLS[1:], ids=[kill[0] for kill in KILLS[1:]])
def test_answers_killed_anywhere_resume_bit_identical(aligned, tmp_path, stage, where, arm, whole):
    without_reference(aligned, tmp_path)
    keep = 1 if "pruned" in where else 0
    run = killed(tmp_path, arm, **start_of(stage, aligned), keep_checkpoints=keep)
    assert (run / "latest").read_text() == f"step_{whole:06d}"
    forked(tmp_path, "--resume", **stage, keep_checkpoints=keep)
    assert same_run(run, aligned / "runs" / run.name)


@pytest.mark.slow
def test_killed_while_the_reference_is_made_it_starts_again(aligned, tmp_path):
    without_reference(aligned, tmp_path)
    killed(tmp_path, in_writing_the_reference, **start_of(PAIRS, aligned))
    forked(tmp_path, **start_of(PAIRS, aligned))
    assert tables(tmp_path) == tables(aligned)
    assert same_run(tmp_path / "runs" / "D-pairs", aligned / "runs" / "D-pairs")


def test_default_rates_of_muon_improve_a_trained_model(aligned, tmp_path, monkeypatch):
    """Pretraining's rate would make answers improbable that the model has learned, in a few steps of D."""
    for name in ("max_lr", "warmup_iters"):
        monkeypatch.delitem(forks.TINY, name)
    still = {
        "dropout": 0.0,
        "attn_dropout": 0.0,
        "total_iters": 16,
        "eval_iters": 8,
        "save_checkpoint_iter": 16,
    }
    (tmp_path / "data").symlink_to(aligned / "data")
    forked(tmp_path, **{**TALKS, **still, "total_iters": 40, "max_lr": 1e-2, "run_name": "start"})
    start = {"init_from": tmp_path / "runs" / "start", "optimizer": "muon"}
    before = metrics(tmp_path / "runs" / "start", "val")[-1]["loss"]

    forked(tmp_path, **{**TALKS, **still, **start, "total_iters": 24})
    assert metrics(tmp_path / "runs" / "S-talks", "val")[-1]["loss"] < before - 0.05

    pairs = {name: value for name, value in PAIRS.items() if name != "max_lr"}
    forked(tmp_path, **{**pairs, **still, **start})
    rows, validation = metrics(tmp_path / "runs" / "D-pairs"), metrics(tmp_path / "runs" / "D-pairs", "val")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert math.log(2) - 0.01 > validation[1]["loss"] > validation[-1]["loss"] > 0.5
    assert validation[-1]["chosen_logps"] > validation[0]["chosen_logps"] - 0.5
