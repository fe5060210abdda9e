"""Models in copies and in parts: the same losses, and checkpoints that either goes on from, on any number of ranks."""

import pytest
import torch
from forks import fork
from safetensors.torch import load_file
from toy import metrics, toy_dataset

from runtime import distributed

STILL = dict(dropout=0.0, attn_dropout=0.0, max_lr=1e-3, total_batch_size=256, save_checkpoint_iter=2)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with the toy data and the run of one process, without dropout."""
    folder = tmp_path_factory.mktemp("alone")
    toy_dataset(folder / "data")
    done = fork(folder, run_name="alone", **STILL)
    assert done.wait() == [0], done.said
    return folder


def like_the_run_of_one(folder, name):
    """The same losses and weights as the run of one process, to the last digits of sums in another order."""
    for split in ("train", "val"):
        ours, theirs = metrics(folder / "runs" / "alone", split), metrics(folder / "runs" / name, split)
        assert [row["step"] for row in ours] == [row["step"] for row in theirs] != []
        for a, b in zip(ours, theirs, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
            assert a.get("grad_norm", 0) == pytest.approx(b.get("grad_norm", 0), rel=1e-4)
    ours, theirs = (
        load_file(folder / "runs" / run / "step_000006" / "model.safetensors") for run in ("alone", name)
    )
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_parts_have_the_losses_of_copies_and_of_one(alone, optimizer):
    """Two micro-batches on each of two ranks, layers made again in backward."""
    name = f"parts-{optimizer}"
    done = fork(
        alone,
        run_name=name,
        ranks=2,
        parallel="fsdp",
        activation_checkpointing=True,
        micro_batch_size=2,
        optimizer=optimizer,
        **STILL,
    )
    assert done.wait() == [0, 0], done.said
    if optimizer == "adamw":
        like_the_run_of_one(alone, name)
    else:
        other = fork(alone, run_name="copies", ranks=2, micro_batch_size=2, optimizer="muon", **STILL)
        assert other.wait() == [0, 0], other.said
        for a, b in zip(metrics(alone / "runs" / name), metrics(alone / "runs" / "copies"), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def test_a_run_goes_from_parts_to_one_to_copies(alone):
    """Steps 1 and 2 in parts on two ranks, 3 and 4 on one, 5 and 6 in copies on two."""
    for steps, ranks, kind, words in (
        (2, 2, "fsdp", []),
        (4, 1, "ddp", ["--resume"]),
        (6, 2, "ddp", ["--resume"]),
    ):
        done = fork(
            alone,
            *words,
            run_name="moved",
            ranks=ranks,
            parallel=kind,
            micro_batch_size=8 // ranks,
            **STILL,
            total_iters=steps,
            lr_decay_iters=6,
            eval_iters=100 if steps < 6 else 3,
        )
        assert done.wait() == [0] * ranks, done.said
    rows = metrics(alone / "runs" / "moved")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(rows, metrics(alone / "runs" / "alone"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def in_bfloat16(_rank):
    """Let the run take bfloat16 on a CPU that has no instructions for it."""
    distributed.choose_dtype = lambda *_: (torch.bfloat16, "")


def test_parts_in_bfloat16_are_close_to_copies(alone):
    """Weights are gathered in bfloat16, gradients added up in float32, moments and checkpoints in float32."""
    runs = {}
    for kind in ("ddp", "fsdp"):
        name = f"half-{kind}"
        done = fork(
            alone, run_name=name, ranks=2, parallel=kind, micro_batch_size=2, before=in_bfloat16, **STILL
        )
        assert done.wait() == [0, 0], done.said
        runs[kind] = metrics(alone / "runs" / name)
    precise = metrics(alone / "runs" / "alone")
    for copies, parts, full in zip(runs["ddp"], runs["fsdp"], precise, strict=True):
        assert copies["loss"] != full["loss"], "the low precision is at work"
        assert parts["loss"] == pytest.approx(copies["loss"], rel=5e-3)
        assert parts["grad_norm"] == pytest.approx(copies["grad_norm"], rel=5e-2)
    weights = load_file(alone / "runs" / "half-fsdp" / "step_000006" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
