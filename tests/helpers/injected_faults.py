"""Faults that tests of tests/faults/ cause: kills at writes, flipped bits, disks without room; and how runs compare."""

import os
import resource
import shutil
import signal
import sys

import torch
from safetensors.torch import load_file
from toy import metrics

import checkpoint
import trainer
from training import state

# A stage's settings: 256 tokens a step in all of them.
STAGES = {
    "P": dict(optimizer="muon"),
    "S": dict(train="S", dataset="toy-instruct", block_size=64, batch_size=4),
    "D": dict(train="D", dataset="toy-preference", block_size=64, batch_size=2, max_lr=1e-3),
}


WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


def settings_of(stage, unbroken):
    """The settings of a stage; of DPO with the run that it starts from, which is made where it is missing."""
    if stage == "D":
        return {**STAGES[stage], "init_from": unbroken("S")}
    return STAGES[stage]


def weights(run, step=6):
    return load_file(run / f"step_{step:06d}" / "model.safetensors")


def assert_same_run(run, whole):
    """The weights and metrics of the unbroken run, bit for bit, every file whole."""
    ours, theirs = weights(run), weights(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    timeless = [
        [
            {k: v for k, v in row.items() if k not in ("tokens_per_second", "mfu")}
            for split in ("train", "val")
            for row in metrics(folder, split)
        ]
        for folder in (run, whole)
    ]
    assert timeless[0] == timeless[1] != []
    for step in checkpoint.steps(run):
        checkpoint.verify_checkpoint(step, resumed=True)
    assert not [path for path in run.iterdir() if path.name.startswith(".step")]


def dies_at_write(number):
    """SIGKILL before the so-many-th write of the process to a folder or a file."""

    def before(rank):
        count = [0]

        def hook(event, args):
            if event in WRITES or event == "open" and args[1] is not None and set(str(args[1])) & set("wax+"):
                count[0] += 1
                if count[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return before


def disk_usage_lies(rank):
    """The look before a save sees plenty of room, so that the disk is full in the middle of a file."""
    state.shutil.disk_usage = lambda folder, real=shutil.disk_usage: real(folder)._replace(free=1 << 40)


def flip(path, rng):
    """Turn a random bit of a file over."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def whole_step(folder):
    """Raises UserError unless a run can go on from a step."""
    checkpoint.verify_checkpoint(folder, resumed=True)


def damaged_one_by_one(folder, rng):
    """Each file of a folder, with one bit wrong while it is handed out."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".verified"):
        whole = path.read_bytes()
        flip(path, rng)
        yield path
        path.write_bytes(whole)


def no_room(first, last, size=30_000):
    """No file may grow past `size` bytes in steps first .. last of the process."""

    def before(rank):
        real, count = trainer.train_step, [0]

        def train_step(*args):
            count[0] += 1
            limit = size if first <= count[0] <= last else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            return real(*args)

        trainer.train_step = train_step

    return before
