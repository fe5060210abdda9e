"""What happens to machines, done for real: kills, full disks, flipped bits, stopped ranks, NaN, a hub that stumbles.

The default suite takes a short form. All of it, some minutes:  python -m pytest -m faults
Each fault ends in the weights of the unbroken run, bit for bit, or in one line that names it, with nothing lost.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import corpus_hub
import pytest
import torch
from examples import TEXTS, Inline, files, plant
from forks import Forked, fork, start
from safetensors.torch import load_file
from toy import metrics, toy_dataset

import checkpoint
import config
import data
import trainer
from dataprep import prepare, registry, shards, worker
from runtime import errors
from runtime.errors import UserError
from training import reference_logps, state

# A stage's settings: 256 tokens a step in all of them.
STAGES = {
    "P": dict(optimizer="muon"),
    "S": dict(train="S", dataset="toy-instruct", block_size=64, batch_size=4),
    "D": dict(train="D", dataset="toy-preference", block_size=64, batch_size=2, max_lr=1e-3),
}
stumbling = corpus_hub.server  # the fixture: a hub on this machine
WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with toy data of each kind."""
    folder = tmp_path_factory.mktemp("faults")
    for name, kind in ("toy", "text"), ("toy-instruct", "instruct"), ("toy-preference", "preference"):
        toy_dataset(folder / "data", name, 200, kind)
    return folder


@pytest.fixture(scope="module")
def unbroken(place):
    """The folder of a run of a stage that nothing disturbed."""
    runs = {}

    def run(stage):
        if stage not in runs:
            done = fork(place, run_name=f"whole-{stage}", **STAGES[stage])
            assert done.wait() == [0], done.said
            runs[stage] = place / "runs" / f"whole-{stage}"
        return runs[stage]

    return run


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


def kill_again_and_again(place, unbroken, stage, kills, fault, seed):
    """A run that is killed so often, half of the times at a write, half after a time; then left to end."""
    rng, name = random.Random(seed), f"killed-{stage}-{kills}"
    run, settings = place / "runs" / name, {**STAGES[stage], "keep_checkpoints": 1}
    for number in range(kills):
        fault()
        words = ["--resume"] if (run / "latest").is_file() else []
        if number % 2:
            process = fork(place, *words, run_name=name, **settings)
            time.sleep(rng.uniform(0.2, 1.2))
            os.kill(process.pids[0], signal.SIGKILL)
        else:
            process = fork(place, *words, run_name=name, before=dies_at_write(rng.randint(2, 40)), **settings)
        assert process.wait()[0] in (0, -signal.SIGKILL), process.said
        if (run / "step_000006").is_dir() and (run / "latest").read_text() == "step_000006":
            shutil.rmtree(run / "step_000006")  # it got to its end: break it off again
            (run / "latest").unlink()
    words = ["--resume"] if (run / "latest").is_file() else []
    done = fork(place, *words, run_name=name, **settings)
    assert done.wait() == [0], done.said
    assert_same_run(run, unbroken(stage))


def test_a_few_kills_leave_nothing_behind(place, unbroken):
    kill_again_and_again(place, unbroken, "P", 4, lambda: None, seed=1)


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_twenty_kills_leave_nothing_behind(place, unbroken, stage, fault):
    kill_again_and_again(place, unbroken, stage, 20, fault, seed=ord(stage))


@pytest.mark.faults
def test_twenty_kills_of_a_preparation_change_nothing(tmp_path, fault):
    """At a write or after a time; also a shard's, and while shards are taken in."""
    corpus, rng = tmp_path / "rows.jsonl", random.Random(7)
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def prepared(data_dir, *words, kill=None, log=tmp_path / "log.txt"):
        def before():
            prepare.ProcessPoolExecutor, worker._end_with_main = Inline, lambda: None
            registry.unit_bytes = lambda total: 3_000
            if kill and kill < 0:
                dies_at_write(-kill)(0)

        log.touch()
        words = [
            "--files",
            str(corpus),
            "--name",
            "mine",
            "--tokenizer",
            "bytes",
            "--data_dir",
            str(data_dir),
            *words,
        ]
        process = Forked([start(log, data.main, words, {}, before)], log)
        if kill and kill > 0:
            time.sleep(kill)
            os.kill(process.pids[0], signal.SIGKILL)
        return process.wait()[0]

    assert prepared(tmp_path / "whole") == 0
    for number in range(20):
        fault()
        words = ["--shard", f"{number % 2 + 1}/2"] if number < 10 else []
        assert prepared(
            tmp_path / "data", *words, kill=rng.uniform(0.05, 0.5) if number % 3 else -rng.randint(5, 90)
        ) in (0, -signal.SIGKILL)
        if (tmp_path / "data" / "mine").is_dir():
            assert files(tmp_path / "data" / "mine") == files(tmp_path / "whole" / "mine")
            shutil.rmtree(tmp_path / "data" / "mine")
    assert prepared(tmp_path / "data") == 0
    assert files(tmp_path / "data" / "mine") == files(tmp_path / "whole" / "mine")
    shards.verify_dataset(tmp_path / "data" / "mine")


@pytest.mark.faults
@pytest.mark.parametrize("what", corpus_hub.FAULTS)
def test_the_hub_stumbles_and_nothing_is_lost(stumbling, fault, what):
    match, how = corpus_hub.FAULTS[what]
    stumbling.fault(match, **how)
    fault()
    assert corpus_hub.read() == corpus_hub.ROWS


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_every_file_of_a_checkpoint_and_of_a_dataset_with_a_flipped_bit(
    place, unbroken, tmp_path, fault, stage
):
    step, rng = (
        shutil.copytree(unbroken(stage) / "step_000006", tmp_path / "step_000006"),
        random.Random(ord(stage)),
    )
    folder = shutil.copytree(
        place / "data" / STAGES[stage].get("dataset", "toy"),
        tmp_path / "data",
        ignore=shutil.ignore_patterns("reference"),
    )
    for where, whole in (step, whole_step), (folder, shards.verify_dataset):
        for _ in damaged_one_by_one(where, rng):
            fault()
            with pytest.raises(UserError, match=re.escape(str(where))):
                whole(where)


def test_a_flipped_bit_in_the_reference_of_preferences_is_named(place, unbroken):
    """The table stops a run that resumes; its remedy is to make the table again."""
    unbroken("D")
    tables = sorted((place / "data" / "toy-preference" / "reference").glob("*"))
    assert [path.suffix for path in tables] == [".npy", ".sha256"] * 2
    for path in tables:
        whole = path.read_bytes()
        flip(path, random.Random(8))
        with pytest.raises(UserError, match=f"{path.stem}.npy is damaged"):
            reference_logps.read_table(path.with_suffix(".npy"), 0)
        path.write_bytes(whole)


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_small_disk_that_is_really_full(place, unbroken, tmp_path, fault):
    """A tmpfs with room for one checkpoint and a half: the first is kept, the rest fail, until something is removed."""
    disk, step = tmp_path / "disk", unbroken("P") / "step_000006"
    disk.mkdir()
    room = 200_000 + int(1.7 * sum(path.stat().st_size for path in step.rglob("*") if path.is_file()))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        fault()
        (disk / "ballast").write_bytes(bytes(200_000))
        failed = fork(
            place, save_checkpoint_dir=disk, run_name="small", before=disk_usage_lies, **STAGES["P"]
        )
        assert failed.wait() == [1], failed.said
        assert "warning: the checkpoint of step" in failed.said and "make room, then go on" in failed.said
        assert "Traceback" not in failed.said
        assert [step.name for step in checkpoint.steps(disk / "small")] == ["step_000002"]
        (disk / "ballast").unlink()
        done = fork(
            place,
            "--resume",
            save_checkpoint_dir=disk,
            run_name="small",
            keep_checkpoints=1,
            before=disk_usage_lies,
        )
        assert done.wait() == [0], done.said
        assert_same_run(disk / "small", unbroken("P"))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def disk_usage_lies(rank):
    """The look before a save sees plenty of room, so that the disk is full in the middle of a file."""
    state.shutil.disk_usage = lambda folder, real=shutil.disk_usage: real(folder)._replace(free=1 << 40)


@pytest.mark.faults
def test_memory_files_and_threads_stay_flat_over_2000_steps(place, tmp_path, fault):
    fault()
    seen = tmp_path / "seen"

    def before(rank):
        real = trainer.record

        def record(run, *rest):
            real(run, *rest)
            if run.progress.step % 100 == 0:
                now = {
                    "rss": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
                    "files": len(os.listdir("/proc/self/fd")),
                    "threads": len(os.listdir("/proc/self/task")),
                }
                with seen.open("a") as file:
                    file.write(json.dumps(now) + "\n")

        trainer.record = record

    done = fork(
        place,
        run_name="long",
        before=before,
        total_iters=2000,
        epochs=1000,
        save_checkpoint_iter=250,
        eval_iters=250,
        val_epochs=0,
        keep_checkpoints=2,
    )
    assert done.wait(400) == [0], done.said
    rows = [json.loads(line) for line in seen.read_text().splitlines()]
    print(rows[3], rows[-1])
    assert len(rows) == 20
    for row in rows[4:]:
        assert row["files"] == rows[3]["files"] and row["threads"] == rows[3]["threads"]
        assert row["rss"] < 1.03 * rows[3]["rss"], (rows[3], row)


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


def test_a_flipped_bit_in_any_file_of_a_checkpoint_or_dataset_is_named(place, unbroken, tmp_path):
    rng, seen = random.Random(3), 0
    step = shutil.copytree(unbroken("P") / "step_000006", tmp_path / "run" / "step_000006")
    data = shutil.copytree(place / "data" / "toy", tmp_path / "toy")
    for folder, whole in (step, whole_step), (data, shards.verify_dataset):
        whole(folder)
        for path in damaged_one_by_one(folder, rng):
            with pytest.raises(UserError, match=re.escape(str(folder))) as said:
                whole(folder)
            assert path.name in str(said.value) or path.name == "SHA256SUMS"
            seen += 1
        whole(folder)
    assert seen == 10 + 10


@pytest.mark.parametrize(
    "words, damaged, remedy",
    [
        (
            ["--resume"],
            "runs/P-toy/step_000006/train_state/rng.pt",
            "remove that folder, --resume then goes on from step_000004",
        ),
        (
            ["--init_from", "{tmp}/runs/P-toy", "--run_name", "new"],
            "runs/P-toy/step_000006/model.safetensors",
            "remove that folder",
        ),
        (
            ["--run_name", "new"],
            "data/toy/train-00001.tokens.bin",
            "run the data.py command that made it again",
        ),
    ],
)
def test_a_flipped_bit_stops_a_run_before_it_begins(place, unbroken, tmp_path, words, damaged, remedy):
    shutil.copytree(place / "data", tmp_path / "data")
    shutil.copytree(unbroken("P"), tmp_path / "runs" / "P-toy")
    flip(tmp_path / damaged, random.Random(4))
    failed = fork(tmp_path, *(word.format(tmp=tmp_path) for word in words))
    assert failed.wait() == [2]
    assert f"{tmp_path / damaged} is damaged" in failed.said and remedy in failed.said
    assert failed.said.startswith("error: ") and failed.said.count("\n") == 1


def test_verify_reads_a_run_or_a_dataset_and_names_what_is_damaged(
    place, unbroken, tmp_path, capsys, monkeypatch
):
    run = shutil.copytree(unbroken("P"), tmp_path / "run")

    def verify(folder):
        monkeypatch.setattr("sys.argv", ["checkpoint.py", "verify", str(folder)])
        checkpoint.main()
        return capsys.readouterr().out

    assert verify(run).count(" files\n") == 6 and verify(place / "data" / "toy").endswith(
        "as they were written\n"
    )
    flip(run / "step_000004" / "config.json", random.Random(5))
    with pytest.raises(UserError, match=r"step_000004/config.json is damaged"):
        verify(run)
    with pytest.raises(UserError, match="nothing to compare"):
        verify(tmp_path)


def test_a_model_without_its_training_state_is_whole(unbroken, tmp_path):
    model = shutil.copytree(unbroken("P") / "step_000006", tmp_path / "model")
    flip(model / "train_state" / "rng.pt", random.Random(6))
    checkpoint.verify_checkpoint(model)  # --init_from does not read it
    shutil.rmtree(model / "train_state")
    checkpoint.verify_checkpoint(model)


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


def test_a_full_disk_costs_no_more_than_a_warning(place, unbroken):
    """The save of step 4 finds no room, that of step 6 does."""
    done = fork(place, run_name="full", before=no_room(4, 5), **STAGES["P"])
    assert done.wait() == [0], done.said
    assert re.search(
        r"warning: the checkpoint of step 4 could not be written to .*runs/full \(.*\); the newest is "
        r"step_000002: make room; the run continues",
        done.said,
    )
    assert_same_run(place / "runs" / "full", unbroken("P"))
    assert not (place / "runs" / "full" / "step_000004").exists()


def test_a_full_disk_at_the_end_is_one_line_and_the_run_goes_on_from_what_there_was(place, unbroken):
    failed = fork(place, run_name="fuller", before=no_room(5, 6), keep_checkpoints=1, **STAGES["P"])
    assert failed.wait() == [1]
    assert (
        "error: the checkpoint of step 6 could not be written" in failed.said
        and "Traceback" not in failed.said
    )
    assert "the newest is step_000004: make room, then rerun with --resume" in failed.said
    done = fork(place, "--resume", run_name="fuller", keep_checkpoints=1)
    assert done.wait() == [0], done.said
    assert_same_run(place / "runs" / "fuller", unbroken("P"))


def test_too_little_space_is_seen_before_anything_is_written(place, monkeypatch, tmp_path):
    free = shutil.disk_usage(place)._replace(free=1000)
    monkeypatch.setattr(state.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(errors.RunError, match=r"step 5 could not .* \(it needs 0.02 GB, 0.00 GB are free\)"):
        state.save(tmp_path, state.TrainState(5, 0, 0), config.ModelArgs(), None, {}, {}, {})
    assert not list(tmp_path.iterdir())


def test_two_runs_in_one_folder_are_refused_and_the_dead_hold_nothing(place):
    run = place / "runs" / "shared"
    slow = fork(
        place, run_name="shared", before=lambda rank: setattr(trainer, "record", lambda *a: time.sleep(30))
    )
    deadline = time.time() + 60
    while not (run / "metrics.jsonl").is_file() and time.time() < deadline:
        time.sleep(0.02)
    for words in [], ["--resume"]:
        if words:  # as if there were something to go on from
            shutil.copytree(place / "runs" / "whole-P" / "step_000002", run / "step_000002")
        refused = fork(place, *words, run_name="shared")
        assert refused.wait() == [2]
        assert f"error: another process is at work in {run}: wait for it, or stop it first" in refused.said
    os.kill(slow.pids[0], signal.SIGKILL)
    assert slow.wait() == [-signal.SIGKILL]
    done = fork(place, "--resume", run_name="shared")
    assert done.wait() == [0], done.said


def test_a_run_that_hangs_ends_with_the_stacks_of_its_threads(place):
    def hang(*args):
        time.sleep(60)

    hung = fork(
        place, run_name="hung", stall_minutes=0.02, before=lambda rank: setattr(trainer, "log_step", hang)
    )
    assert hung.wait() == [1]
    assert "Timeout (0:00:01" in hung.said and " in hang" in hung.said and " in train" in hung.said


def test_ranks_come_and_go_and_no_row_is_taken_twice_or_never(place, tmp_path):
    """One rank, then two of which one is killed, two again, then one: torchrun's restarts, without --resume."""
    name, taken, launch = "elastic", [], {"TORCHELASTIC_RUN_ID": "job"}

    def dies(number, before):
        def both(rank):
            before(rank)
            real, count = trainer.train_step, [0]

            def train_step(*args):
                count[0] += 1
                if rank and count[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args)

            trainer.train_step = train_step

        return both

    for part, (ranks, last, restarts, kill) in enumerate(
        [(1, 2, 0, 0), (2, 6, 0, 2), (2, 4, 1, 0), (1, 6, 0, 0)]
    ):
        files = [tmp_path / f"{part}-{rank}" for rank in range(ranks)]

        def before(rank, files=files, kill=kill):
            noting = plant([], files[rank])
            (dies(kill, noting) if kill else noting)(rank)

        process = fork(
            place,
            run_name=name,
            ranks=ranks,
            micro_batch_size=8 // ranks,
            total_iters=last,
            lr_decay_iters=6,
            eval_iters=100,
            before=before,
            environment={**launch, "TORCHELASTIC_RESTART_COUNT": str(restarts)},
        )
        codes = process.wait()
        assert codes == [0] * ranks or kill and codes[1] == -signal.SIGKILL, process.said
        assert part == 0 or f"resuming from {place / 'runs' / name}" in process.said
        if not kill:
            taken += [
                sum(rows, [])
                for rows in zip(
                    *([json.loads(line) for line in file.read_text().splitlines()] for file in files),
                    strict=True,
                )
            ]
    assert taken == [list(range(first, first + 8)) for first in range(0, 48, 8)]
    assert [row["step"] for row in metrics(place / "runs" / name)] == [1, 2, 3, 4, 5, 6]
