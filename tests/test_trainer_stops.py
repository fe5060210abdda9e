"""Stop signals in the middle of things: saved at once, and the resumed run equals the unbroken one bit for bit."""

import os
import signal

import pytest
from forks import fork, forked
from injected_faults import settings_of
from kills import same_run
from toy import metrics, toy_dataset

from checkpoint import steps
from dataloader.loader import Loader
from training import objectives, reference_table, validation

TWO_MICRO_BATCHES = {"batch_size": 4, "total_batch_size": 256}  # 8 rows of 32 tokens


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with toy data of each kind."""
    folder = tmp_path_factory.mktemp("stops")
    for name, kind in ("toy", "text"), ("toy-instruct", "instruct"), ("toy-preference", "preference"):
        toy_dataset(folder / "data", name, 200, kind)
    return folder


@pytest.fixture(scope="module")
def unbroken(place):
    """The folder of an undisturbed run of a stage."""

    def run(stage):
        folder = place / "runs" / f"whole-{stage}"
        if not folder.exists():
            settings = settings_of(stage, run)
            forked(place, run_name=folder.name, **(TWO_MICRO_BATCHES if stage == "P" else {}), **settings)
        return folder

    return run


def stop_in(owner, name, call):
    """Return a function that arms a process: the so-many-th call of a function sends it SIGTERM."""

    def before(rank):
        real, calls = getattr(owner, name), [0]

        def counted(*args, **options):
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(*args, **options)

        setattr(owner, name, counted)

    return before


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stop_between_micro_batches_drops_the_step(place, unbroken, ranks):
    settings = {**settings_of("P", unbroken), **TWO_MICRO_BATCHES, "run_name": f"between-{ranks}"}
    if ranks == 2:
        settings |= {"batch_size": 2}
        forked(place, ranks=2, **{**settings, "run_name": "whole-2"})

    # The first micro-batch of step 4: two a step; nothing was saved since step 2.
    said = forked(place, ranks=ranks, before=stop_in(Loader, "next", 2 * 3 + 1), **settings)
    run = place / "runs" / settings["run_name"]
    assert f"stopped after step 3 of 6, saved in {run / 'step_000003'}" in said
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]

    forked(place, "--resume", ranks=ranks, **settings)
    assert same_run(run, place / "runs" / "whole-2" if ranks == 2 else unbroken("P"))


def test_a_stop_in_an_evaluation_has_saved_before(place, unbroken):
    settings = {**settings_of("P", unbroken), **TWO_MICRO_BATCHES, "run_name": "evaluating"}
    # One evaluation before the first step, one at step 3; step 4 is saved, step 3 is not.
    said = forked(place, before=stop_in(validation, "evaluate", 2), **settings, save_checkpoint_iter=3)
    run = place / "runs" / "evaluating"
    assert "stopped after step 3 of 6" in said
    assert [row["step"] for row in metrics(run, "val")] == [0]

    # The evaluation that was stopped is made up for.
    forked(place, "--resume", **settings)
    assert same_run(run, unbroken("P"))


def test_a_stop_while_the_reference_is_computed_keeps_its_part(place, unbroken):
    settings = {**settings_of("D", unbroken), "run_name": "referring", "micro_batch_size": 1}
    whole = {**settings, "run_name": "whole-referring"}
    said = forked(place, before=stop_in(reference_table, "_score_batch", 3), **settings)
    assert said.endswith("stopped before the first step: start again with the same command\n")
    tables = place / "data" / "toy-preference" / "reference"
    assert [path.name.partition(".")[2] for path in tables.iterdir()] == ["part.npz"]

    forked(place, **settings)
    assert not list(tables.glob("*.part.npz"))
    forked(place, **whole)
    assert same_run(place / "runs" / "referring", place / "runs" / "whole-referring")


def test_a_stop_in_the_first_step_leaves_nothing_to_resume(place, unbroken):
    settings = {**settings_of("P", unbroken), **TWO_MICRO_BATCHES, "run_name": "first"}
    said = forked(place, before=stop_in(objectives, "hidden_at_labels", 3), **settings)
    assert "stopped before the first step" in said and not steps(place / "runs" / "first")
    forked(place, **settings)
    assert same_run(place / "runs" / "first", unbroken("P"))


def test_a_stop_in_the_last_step_ends_a_complete_run(place, unbroken):
    settings = {**settings_of("P", unbroken), **TWO_MICRO_BATCHES, "run_name": "last"}
    process = fork(place, before=stop_in(Loader, "next", 12), **settings)
    assert process.wait() == [0] and "done: 1,536 tokens" in process.said
    assert [path.name for path in steps(place / "runs" / "last")][-1] == "step_000006"
