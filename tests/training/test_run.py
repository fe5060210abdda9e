"""A run in this process: its plan, what its checkpoints keep, samples, and that it leaves no handler behind."""

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from toy import TINY, flags, metrics, toy_dataset

import trainer
from model import Llama
from runtime import capacity
from runtime.distributed import DistributedEnv
from training.memory import BASE_BYTES
from training.run import NOT_STORED, Run


def test_the_plan_names_model_data_and_start(make_run, env: DistributedEnv) -> None:
    plan = "\n".join(make_run().attach_hardware(env))
    for part in ("pretraining on toy-text", "parameters", "tokens per step: 256", "steps: 6", "memory"):
        assert part in plan
    assert "starting from" not in plan  # pretraining starts from random weights unless told otherwise
    instruct = "\n".join(make_run("instruct", train="S", block_size=64).attach_hardware(env))
    assert "starting from random weights (--init_from FOLDER takes a trained model)" in instruct


def test_the_largest_micro_batch_is_found_by_trying(
    make_run, env: DistributedEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(micro_batch_size="auto", total_batch_size=12 * 32)
    tried = []

    def time_micro_batch(self: Run, model: Llama) -> float:
        tried.append(self.args.micro_batch_size)
        if self.args.micro_batch_size > 4:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(Run, "time_micro_batch", time_micro_batch)
    lines = run.attach_hardware(env)
    assert run.args.micro_batch_size == 12 and any("the largest that fits" in line for line in lines)
    run.load_model()
    run.build()
    assert not tried  # a CPU would be killed: there the estimate decides
    run.probe_micro_batch()
    assert tried == [12, 6, 4] and run.args.micro_batch_size == 4
    assert run.args.tokens_per_step == 12 * 32


def test_little_memory_shrinks_the_micro_batch_that_is_not_typed(
    make_run, env: DistributedEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "cpu_memory", lambda: 1.001 * BASE_BYTES)
    run = make_run()
    del run.setup.typed["batch_size"]
    plan = run.attach_hardware(env)
    assert run.args.micro_batch_size == 1 and run.args.tokens_per_step == 256
    assert any(line.startswith("adapted: --micro_batch_size 1 instead of 8") for line in plan)
    typed = make_run()
    typed.attach_hardware(env)
    assert typed.args.micro_batch_size == 8


def test_checkpoints_do_not_keep_what_belongs_to_one_start(make_run, env: DistributedEnv) -> None:
    run = make_run(seed=3)
    run.attach_hardware(env)
    run.load_model()
    run.build()
    kept = run.metadata()["args"]
    assert kept["seed"] == 3 and kept["dtype"] == "float32" and not set(NOT_STORED) & kept.keys()
    assert kept["min_lr"] is None and kept["vocab_size"] == 320


def test_training_in_this_process_restores_signal_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_dataset(tmp_path / "data", "toy", 60)
    settings = {**TINY, "data_dir": tmp_path / "data", "save_checkpoint_dir": tmp_path / "runs"}
    monkeypatch.setattr(sys, "argv", ["trainer.py", *flags(settings)])
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    trainer.main()
    assert [signal.getsignal(number) for number in numbers] == before
    assert len(metrics(tmp_path / "runs" / "P-toy")) == 6


@pytest.mark.parametrize("kind", ["text", "instruct", "preference"])
def test_without_a_validation_set_nothing_is_evaluated(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    settings = {
        **TINY,
        "data_dir": tmp_path / "data",
        "save_checkpoint_dir": tmp_path / "runs",
        "eval_iters": 2,
    }
    toy_dataset(tmp_path / "data", "toy", 60)
    if kind != "text":
        settings |= {"dataset": "answers", "train": "S", "block_size": 64}
    if kind == "preference":
        monkeypatch.setattr(sys, "argv", ["trainer.py", *flags({**settings, "train": "P", "dataset": "toy"})])
        trainer.main()
        settings |= {"train": "D", "init_from": tmp_path / "runs" / "P-toy"}
    folder = tmp_path / "data" / "toy"
    if kind != "text":
        folder = toy_dataset(tmp_path / "data", "answers", 60, kind)
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"]["val"] = []
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "SHA256SUMS").unlink(missing_ok=True)

    monkeypatch.setattr(sys, "argv", ["trainer.py", *flags({**settings, "run_name": "mine"})])
    capsys.readouterr()
    trainer.main()
    text = "".join(capsys.readouterr())
    run = tmp_path / "runs" / "mine"
    assert "no validation set, so no evaluation" in text and ", no validation set. Model: " in text
    assert metrics(run, "val") == [] and len(metrics(run)) > 2
    assert (run / (run / "latest").read_text() / "model.safetensors").is_file() and not (
        run / "best"
    ).exists()
    assert (run / "loss_curves.png").is_file()
