"""Time of a run: measured for a small model on a CPU, otherwise by the peak of the device."""

from dataclasses import replace

import pytest
import torch

from config import ModelArgs
from runtime.distributed import DistributedEnv
from training import run_time
from training.run_time import expected_seconds, run_seconds, step_seconds

CPU = DistributedEnv(0, 0, 1, torch.device("cpu"), torch.float32, "")
SMALL = ModelArgs(embeddings_dims=32, block_size=64, batch_size=4, total_batch_size=512)
LARGE = ModelArgs(embeddings_dims=2048)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_time, "measure_step", lambda *_: 7.0)


@pytest.mark.usefixtures("measured")
def test_a_small_model_is_measured_on_a_cpu() -> None:
    assert step_seconds(None, None, SMALL, CPU, 1e11) == 7


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(("args", "device"), [(LARGE, "cpu"), (SMALL, "cuda")])
def test_others_are_estimated_by_the_peak(args: ModelArgs, device: str) -> None:
    env = replace(CPU, device=torch.device(device))
    assert step_seconds(None, None, args, env, 1e11) == expected_seconds(args, env, 1, 1e11)
    assert expected_seconds(args, env, 20, 1e11) == 2 * expected_seconds(args, env, 10, 1e11)


def test_nothing_is_known_without_a_peak() -> None:
    assert step_seconds(None, None, SMALL, CPU, None) is None


def test_evaluations_and_the_reference_pass_count() -> None:
    args = SMALL.replace(eval_iters=10, eval_check=2)
    # 8 rows a step. Forward: 3 evaluations of 8 rows, all 20 at both ends; then 100 + 20 of the reference pass.
    forward = run_time.FORWARD_SHARE * 2.0 / 8
    assert run_seconds(args, 2.0, 30, 100, 20, False) == pytest.approx(60 + forward * 64)
    assert run_seconds(args, 2.0, 30, 100, 20, True) == pytest.approx(60 + forward * 184)
    # 240 rows to train on: of 1,000 to evaluate on, 8 at both ends, too.
    assert run_seconds(args, 2.0, 30, 100, 1000, False) == pytest.approx(60 + forward * 40)
