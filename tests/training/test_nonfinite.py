"""Steps without a finite loss: left out on all ranks alike, then the way back, then the end; resumed bit for bit."""

import json
import os
import re
import signal

import pytest
import torch
from examples import plant
from forks import fork
from safetensors.torch import load_file
from toy import metrics, toy_dataset

import trainer
from dataloader.loader import Loader
from training.nonfinite import SkipState


@pytest.fixture
def folder(tmp_path):
    toy_dataset(tmp_path / "data")
    return tmp_path


def weights(run):
    return load_file(run / "step_000006" / "model.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return all(torch.equal(a[name], b[name]) for name in a)


def state(step):
    return json.loads((step / "train_state" / "state.json").read_text())


def dies_in_step(number, before):
    """As `before`, and SIGKILL in a step of the process."""

    def both(rank):
        before(rank)
        real, count = trainer.train_step, [0]

        def train_step(*args):
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        trainer.train_step = train_step

    return both


def test_one_bad_row_costs_one_step_on_all_ranks_alike(folder):
    """Row 22 is in the second rank's half of step 3; the run is killed after it and resumed to the same end."""
    settings = dict(ranks=2, micro_batch_size=2, before=plant([22]), save_checkpoint_iter=3)
    whole = fork(folder, run_name="whole", **settings)
    assert whole.wait() == [0, 0], whole.said
    run = folder / "runs" / "whole"
    assert re.search(
        r"step 3: loss nan, gradient norm nan in rows 16 to 23, not finite in rows 22 to 23: the step is "
        r"skipped \(1 of 3 in a row\)",
        whole.said,
    )
    assert [row["step"] for row in metrics(run)] == [1, 2, 4, 5, 6]
    assert "step_000003" not in os.listdir(run)  # of a run of failed steps nothing is kept that is due
    assert all(value.isfinite().all() for value in weights(run).values())
    settings["before"] = dies_in_step(5, settings["before"])
    broken = fork(folder, run_name="broken", **{**settings, "save_checkpoint_iter": 2})
    assert -signal.SIGKILL in broken.wait()
    resumed = fork(folder, "--resume", run_name="broken", **{**settings, "before": plant([22])})
    assert resumed.wait() == [0, 0] and "step 4," in resumed.said, resumed.said
    assert same(run, folder / "runs" / "broken")


def test_rows_that_fail_again_and_again_are_passed_over(folder):
    """Rows 20 and 25 spoil steps 3 and 4: back to step 2, on with rows 32 and up; killed after that, the same end."""
    taken = folder / "taken"
    whole = fork(folder, run_name="whole", skip_limit=2, before=plant([20, 25], taken))
    assert whole.wait() == [0], whole.said
    assert "(2 of 2 in a row)" in whole.said
    assert "rolled back to step_000002; the rows of these steps are skipped" in whole.said
    run, rows = folder / "runs" / "whole", [json.loads(line) for line in taken.read_text().splitlines()]
    assert [row[0] for row in rows] == [0, 8, 16, 24, 32, 40, 48, 56]
    assert [row["step"] for row in metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert state(run / "step_000006")["skips"] == {
        "in_a_row": 0,
        "first": 16,
        "returned_to": [2],
        "left_out": [[16, 16]],
    }
    assert state(run / "step_000006")["cursor"] == 48
    dying = dies_in_step(8, plant([20, 25]))  # the last one: step 6, after step 4 has been saved
    broken = fork(folder, run_name="broken", skip_limit=2, before=dying)
    assert broken.wait() == [-signal.SIGKILL]
    resumed = fork(folder, "--resume", run_name="broken", before=plant([20, 25]))
    assert resumed.wait() == [0] and "step 4," in resumed.said, resumed.said
    assert same(run, folder / "runs" / "broken")


@pytest.mark.parametrize(
    "bad, said",
    [
        (
            range(16, 1000),
            "again after a rollback to step_000002: resume from there with --resume and a smaller --max_lr",
        ),
        (range(1000), "there is no checkpoint to roll back to: a smaller --max_lr"),
    ],
)
def test_a_run_that_cannot_be_cured_stops_with_one_line(folder, bad, said):
    failed = fork(folder, skip_limit=2, before=plant(bad))
    assert failed.wait() == [1]
    assert said in failed.said.splitlines()[-1] and "Traceback" not in failed.said


def test_positions_after_what_is_left_out_are_whole_on_any_split():
    loader = Loader(range(100), 4, 0, 1, skipped_ranges=[[16, 16], [20, 5]])
    rows = [loader.row_index(n) for n in range(100)]
    assert rows[:16] == list(range(16)) and rows[16:20] == [32, 33, 34, 35]
    assert rows[20] == 41 and len(set(rows)) == 100
    assert set(range(121)) - set(rows) == {*range(16, 32), *range(36, 41)}


def test_a_row_of_failures_begins_where_its_first_step_began():
    skips = SkipState()
    skips.add(8)
    skips.add(16)
    assert (skips.first, skips.in_a_row) == (8, 2)
