"""The loop: its gradients on any split, its resume after any kill, its signals, its plan."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from forks import forked
from kills import KILLS, in_subprocess, same_run, weights
from safetensors.torch import load_file
from toy import QUIET, ROOT, TINY, flags, metrics, toy_dataset, trainer
from transformers import AutoModelForCausalLM

import config
import trainer as trainer_module
from training.optimizers import schedule


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A folder with the toy data and a run of 6 steps that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    toy_dataset(folder / "data")
    done = trainer(folder, optimizer="muon")
    assert done.returncode == 0, done.stderr
    return folder


def test_run_learns_and_writes_what_it_promises(unbroken):
    run = unbroken / "runs" / "P-toy"
    rows = metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert (
        rows[0]["loss"] == pytest.approx(math.log(320), abs=0.2) and rows[-1]["loss"] < rows[0]["loss"] - 0.5
    )
    assert {"step", "split", "loss", "tokens", "lr", "grad_norm", "tokens_per_second"} <= rows[0].keys()
    assert rows[-1]["tokens"] == 6 * 256
    assert [row["step"] for row in metrics(run, "val")] == [0, 3, 6]
    assert (run / "latest").read_text() == "step_000006"
    assert sorted(path.name for path in run.glob("step_*")) == ["step_000002", "step_000004", "step_000006"]
    assert (run / "loss_curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("where, arm, whole", KILLS, ids=[kill[0] for kill in KILLS])
def test_killed_run_resumes_bit_identical(unbroken, tmp_path, where, arm, whole):
    toy_dataset(tmp_path / "data")
    keep = 1 if "pruned" in where else 0
    killed = trainer(tmp_path, code=in_subprocess(arm.__name__), optimizer="muon", keep_checkpoints=keep)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run = tmp_path / "runs" / "P-toy"
    assert (run / "latest").read_text() == f"step_{whole:06d}"
    resumed = trainer(tmp_path, "--resume", optimizer="muon", keep_checkpoints=keep)
    assert resumed.returncode == 0, resumed.stderr
    assert f"step {whole}," in resumed.stdout
    assert same_run(run, unbroken / "runs" / "P-toy")
    assert not [path for path in run.iterdir() if path.name.startswith(".step")]


def test_resume_needs_generator_and_position(unbroken, tmp_path):
    """The comparison above is not vacuous: another seed gives another run."""
    toy_dataset(tmp_path / "data")
    assert trainer(tmp_path, optimizer="muon", seed=7).returncode == 0
    assert not same_run(tmp_path / "runs" / "P-toy", unbroken / "runs" / "P-toy")


def test_any_split_gives_the_same_gradients_and_losses(tmp_path):
    """8 rows as 8 x 1, as 2 x 4 micro-batches, and on 2 ranks as 2 x 2 each."""
    toy_dataset(tmp_path / "data")
    still = dict(dropout=0.0, attn_dropout=0.0, max_lr=1e-3)
    splits = {"8x1": {}, "2x4": dict(micro_batch_size=2), "2 ranks": dict(micro_batch_size=2, ranks=2)}
    for name, split in splits.items():
        done = trainer(tmp_path, run_name=name, **still, **split)
        assert done.returncode == 0, done.stderr
        assert "2 ranks" not in name or "2 rows x 32 tokens x 2 micro-batches x 2 ranks" in done.stdout
    expected = metrics(tmp_path / "runs" / "8x1")
    for name in ("2x4", "2 ranks"):
        for split in ("train", "val"):
            for row, other in zip(
                metrics(tmp_path / "runs" / "8x1", split),
                metrics(tmp_path / "runs" / name, split),
                strict=True,
            ):
                assert row["loss"] == pytest.approx(other["loss"], rel=1e-6)
                assert row.get("grad_norm", 0) == pytest.approx(other.get("grad_norm", 0), rel=1e-5)
        for key, value in weights(tmp_path / "runs" / "8x1").items():
            torch.testing.assert_close(weights(tmp_path / "runs" / name)[key], value, rtol=1e-4, atol=1e-5)
    assert expected[0]["loss"] != expected[1]["loss"]


def test_micro_batches_with_unequal_counts_are_summed_not_averaged():
    """Two micro-batches of 4 and 1 labels give the gradient of the mean over 5."""
    weight = torch.nn.Linear(1, 1, bias=False)
    batches = iter([torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0])])

    class Feed:
        def next(self, device):
            return next(batches)

    def objective(model, batch):
        return (model(batch[:, None])).sum(), torch.tensor(len(batch)), {}

    env = trainer_module.distributed.init("cpu", "float32")
    args = config.ModelArgs(gradient_accumulation_steps=2, clip=0.0)
    before = weight.weight.item()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    result = trainer_module.train_step(
        objective, weight, [torch.optim.SGD(weight.parameters(), lr=1.0)], scaler, Feed(), args, env
    )
    assert result.means["grad_norm"] == pytest.approx((1 + 2 + 3 + 4 + 10) / 5)
    assert before - weight.weight.item() == pytest.approx(4.0, rel=1e-5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_says_how_to_resume(unbroken, tmp_path, number):
    toy_dataset(tmp_path / "data")
    # The process asks itself in its third step, so the test does not depend on timing.
    code = in_subprocess("signal_in_step", int(number), 3)
    stopped = trainer(tmp_path, code=code, optimizer="muon")
    assert stopped.returncode == 0, stopped.stderr
    said = re.search(
        r"stopped after step 3 of 6, saved in .*step_000003\. To continue: python (.*)", stopped.stdout
    )
    command = said[1]
    resumed = subprocess.run(
        [sys.executable, str(ROOT / command.split()[0]), *command.split()[1:]],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        timeout=300,
        env=QUIET,
    )
    assert resumed.returncode == 0, resumed.stderr
    finished, wanted = weights(tmp_path / "runs" / "P-toy"), weights(unbroken / "runs" / "P-toy")
    assert all(torch.equal(finished[name], wanted[name]) for name in wanted)


def test_torchrun_stops_on_sigterm(tmp_path):
    """SIGTERM to torchrun itself reaches the ranks: they save and the newest step is whole."""
    toy_dataset(tmp_path / "data")
    words = flags(
        {
            **TINY,
            "data_dir": tmp_path / "data",
            "save_checkpoint_dir": tmp_path / "runs",
            "batch_size": 4,
            "total_iters": 100_000,
            "save_checkpoint_iter": 100_000,
            "epochs": 1000,
            "eval_iters": 100_000,
        }
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            str(ROOT / "trainer.py"),
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=QUIET,
    )
    log, deadline = tmp_path / "runs" / "P-toy" / "metrics.jsonl", time.time() + 120
    while time.time() < deadline and not (log.is_file() and log.read_text().count("\n") >= 3):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert "stopped after step" in output
    run = tmp_path / "runs" / "P-toy"
    assert (run / (run / "latest").read_text() / "train_state" / "optimizer.pt").is_file()


def test_typed_settings_count_when_a_run_is_resumed(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "P-toy"
    before = weights(run)
    still = {"max_lr": 1e-30, "muon_lr": 1e-30, "micro_batch_size": 2}
    assert "nothing left" in forked(tmp_path, "--resume", optimizer="muon")
    forked(tmp_path, "--resume", optimizer="muon", total_iters=7, save_checkpoint_iter=7, **still)
    after = load_file(run / "step_000007" / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    said = forked(
        tmp_path,
        "--resume",
        optimizer="muon",
        total_iters=8,
        save_checkpoint_iter=8,
        max_lr=1e-2,
        muon_lr=1e-30,
    )  # TINY has a batch_size of 8
    assert "8 rows x 32 tokens" in said
    after = load_file(run / "step_000008" / "model.safetensors")
    matrix = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(after[matrix], before[matrix])
    assert not torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    typed = config.ModelArgs(max_lr=1e-2, warmup_iters=2, total_iters=8)
    assert metrics(run)[-1]["lr"] == pytest.approx(schedule(7, typed, 8))
    assert "cannot resume a run of --optimizer muon with --optimizer adamw" in forked(
        tmp_path, "--resume", optimizer="adamw", code=2
    )
    said = forked(tmp_path, optimizer="muon", init_from=run / "step_000006", code=2)
    assert "belongs to the run that this one would replace" in said and (run / "step_000006").is_dir()


def test_a_resumed_run_ends_with_its_epochs_however_large_its_steps_are(tmp_path):
    toy_dataset(tmp_path / "data", sentences=40)
    start = {"epochs": 1, "save_checkpoint_iter": 2, "eval_iters": 1000}
    forked(tmp_path, total_iters=2, **start)
    said = forked(tmp_path, "--resume", total_iters=10_000, total_batch_size=128, batch_size=4, **start)
    tokens = int(re.search(r"\(([\d,]+) tokens", said)[1].replace(",", ""))
    assert metrics(tmp_path / "runs" / "P-toy")[-1]["step"] == 2 + (tokens // 32 - 2 * 8) // 4


def test_a_signal_in_the_last_step_ends_a_whole_run(tmp_path):
    toy_dataset(tmp_path / "data")

    def ask(rank):
        real = trainer_module.train_step
        trainer_module.train_step = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), real(*a))[1]

    assert "done: 256 tokens" in forked(tmp_path, total_iters=1, before=ask)
    assert [row["step"] for row in metrics(tmp_path / "runs" / "P-toy", "val")] == [0]


def test_a_full_device_is_said_in_one_line(tmp_path):
    toy_dataset(tmp_path / "data")

    def fill(rank):
        def train_step(*a):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        trainer_module.train_step = train_step

    said = forked(tmp_path, before=fill, code=1, environment={"LOCAL_RANK": "1"})  # no other rank will say it
    assert (
        "error: the device's memory is full: take a smaller --micro_batch_size" in said
        and "Traceback" not in said
    )


def test_dry_run_prints_the_plan_and_makes_nothing(tmp_path):
    toy_dataset(tmp_path / "data")
    done = trainer(tmp_path, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "256 = 8 rows x 32 tokens x 1 micro-batches x 1 ranks" in done.stdout
    assert "float32" in done.stdout and "parameters" in done.stdout and "memory: about" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_run_ends_after_its_epochs(tmp_path):
    toy_dataset(tmp_path / "data", sentences=40)
    done = trainer(tmp_path, total_iters=10_000, epochs=2, val_epochs=1, eval_iters=10_000)
    assert done.returncode == 0, done.stderr
    rows = metrics(tmp_path / "runs" / "P-toy")
    tokens = int(re.search(r"\(([\d,]+) tokens", done.stdout)[1].replace(",", ""))
    assert 0 < rows[-1]["step"] == 2 * (tokens // 32) // 8
    # Before the first step and after each epoch, the last one being the end.
    assert len(metrics(tmp_path / "runs" / "P-toy", "val")) == 3


@pytest.mark.parametrize(
    "settings, evaluated",
    [
        # Epochs of 7 steps, 240 steps: complete with each scheduled evaluation, and at the end.
        ({}, {50: True, 100: True, 150: True, 200: True, 240: True}),
        ({"val_epochs": 0}, {50: False, 100: False, 150: False, 200: False, 240: False}),
        # Epochs that are longer than --eval_iters bring evaluations of their own.
        (
            {"rows": 120, "eval_iters": 100},
            {60: True, 100: False, 120: True, 180: True, 200: False, 240: True},
        ),
        ({"rows": 120, "eval_iters": 1000}, {60: True, 120: True, 180: True, 240: True}),
        # A run that is short for its data is not followed by hours of evaluation.
        ({"rows": 100_000, "val_rows": 20_000, "eval_iters": 100}, {100: False, 200: False, 240: False}),
    ],
)
def test_evaluations_do_not_crowd(settings, evaluated):
    values = {"rows": 7, "val_rows": 3, "val_epochs": 1, "eval_iters": 50, **settings}
    args = config.ModelArgs(
        eval_iters=values["eval_iters"],
        val_epochs=values["val_epochs"],
        batch_size=2,
        gradient_accumulation_steps=1,
    )
    run = SimpleNamespace(
        args=args,
        rows=range(values["rows"]),
        val_rows=range(values["val_rows"]),
        steps=240,
        progress=SimpleNamespace(step=0),
        loader=SimpleNamespace(rows_consumed=0),
    )
    result = {}
    for step in range(1, 241):
        run.progress.step = step
        first_row = run.loader.rows_consumed
        run.loader.rows_consumed += 2
        due, complete = trainer_module.evaluation_due(run, first_row)
        if due or step == 240:
            result[step] = complete
    assert result == evaluated


def test_a_log_has_lines_and_no_carriage_returns(unbroken, tmp_path):
    toy_dataset(tmp_path / "data")
    log = trainer(tmp_path).stderr
    assert "\r" not in log and "\n\n" not in log
    assert re.search(r"^step 1/6: loss \d\.\d{3}, [\d,]+ tokens/s", log, re.MULTILINE)
    assert re.search(r"^step 6/6: loss \d\.\d{3}, [\d,]+ tokens/s", log, re.MULTILINE)


def test_second_run_of_a_name_leaves_the_first_whole(tmp_path):
    toy_dataset(tmp_path / "data")
    assert trainer(tmp_path, total_iters=2).returncode == 0
    again = trainer(tmp_path, total_iters=2)
    assert again.returncode == 0 and "P-toy.old1" in again.stderr
    assert (tmp_path / "runs" / "P-toy.old1" / "latest").read_text() == "step_000002"


def test_finished_run_has_nothing_left_to_do(unbroken):
    before = weights(unbroken / "runs" / "P-toy")
    again = trainer(unbroken, "--resume", optimizer="muon")
    assert again.returncode == 0 and "nothing left to do: step 6 of 6" in again.stdout
    assert "--resume --total_iters 12" in again.stdout
    assert all(
        torch.equal(before[name], value) for name, value in weights(unbroken / "runs" / "P-toy").items()
    )


@pytest.mark.parametrize("tokenizer", [True, False])
def test_init_from_takes_weights_and_a_new_context(unbroken, tmp_path, tokenizer):
    toy_dataset(tmp_path / "data")
    source = start = unbroken / "runs" / "P-toy"
    if not tokenizer:  # as transformers saves a model alone
        start = tmp_path / "bare"
        AutoModelForCausalLM.from_pretrained(source / "step_000006").save_pretrained(start)
    settings = {"init_from": start, "block_size": 16, "run_name": "tuned", "max_lr": 1e-5}
    left_out = "embeddings_dims", "no_of_decoder_layers", "prompt"  # the default has 16 tokens
    words = {name: value for name, value in TINY.items() if name not in left_out}
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "trainer.py"),
            *flags(
                {**words, "data_dir": tmp_path / "data", "save_checkpoint_dir": tmp_path / "runs", **settings}
            ),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"starting from {start}" in done.stdout and ("has no tokenizer" in done.stdout) == (not tokenizer)
    assert metrics(tmp_path / "runs" / "tuned")[0]["loss"] < metrics(source)[0]["loss"] - 0.5


# --- fine-tuning and preference alignment ----------------------------------------------------------------------------

# Six steps of two micro-batches, with dropout. A row of pairs has 128 tokens.


@pytest.mark.slow
def test_compiled_run_has_the_losses_of_the_plain_one(tmp_path):
    toy_dataset(tmp_path / "data")
    still = dict(dropout=0.0, attn_dropout=0.0, total_iters=50)
    assert trainer(tmp_path, run_name="plain", **still).returncode == 0
    compiled = trainer(tmp_path, run_name="compiled", compile=True, **still)
    assert compiled.returncode == 0, compiled.stderr
    assert "compiled" in compiled.stdout
    for a, b in zip(
        metrics(tmp_path / "runs" / "plain"), metrics(tmp_path / "runs" / "compiled"), strict=True
    ):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
