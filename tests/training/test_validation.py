"""Evaluations of a run while it trains: what they cover, the sample, the advice."""

import pytest
from toy import metrics

from runtime.distributed import DistributedEnv
from training.metrics import Metrics


def test_a_sample_continues_the_prompt_and_leaves_the_model_in_training(
    make_run, env: DistributedEnv
) -> None:
    run = make_run(temperature=0.0)
    run.attach_hardware(env)
    run.load_model()
    run.build()
    assert len(run.validation.sample(run.model)) == 5
    assert run.model.training


def test_a_sample_is_shown_once_and_evaluations_say_what_they_cover(
    make_run, env: DistributedEnv, capsys: pytest.CaptureFixture
) -> None:
    run = make_run(temperature=0.0, eval_check=1, batch_size=2)
    run.attach_hardware(env)
    run.load_model()
    run.build()
    run.folder.mkdir(parents=True)
    shown = Metrics(run.folder, "disabled", {})
    run.progress.step = 2
    run.validate(shown, complete=False)
    run.validate(shown, complete=True)
    shown.close()
    assert [row["whole"] for row in metrics(run.folder, "val")] == [False, True]
    assert capsys.readouterr().err.count("the fox") == 1


def test_advice_is_given_once_and_in_the_second_half(
    make_run, env: DistributedEnv, capsys: pytest.CaptureFixture
) -> None:
    run = make_run(total_iters=100)
    run.attach_hardware(env)
    run.load_model()
    run.build()
    run.folder.mkdir(parents=True)
    shown = Metrics(run.folder, "disabled", {})
    for step in range(1, 41):
        shown.write(step, "train", {"loss": float(step)})
    for step in (40, 60, 80):
        run.validation.advise(shown, [], step, run.steps)
    shown.close()
    assert capsys.readouterr().err.count("advice: the training loss rose") == 1
