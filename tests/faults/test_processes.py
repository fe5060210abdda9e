"""Processes: two in one folder, hangs, ranks that come and go, memory over 2,000 steps.

The default suite takes a short form; all of it, some minutes:  python -m pytest -m faults
"""

import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from examples import plant
from forks import fork
from toy import metrics

import trainer


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


def test_two_runs_in_one_folder_are_refused_and_the_dead_hold_nothing(place, unbroken):
    run = place / "runs" / "shared"
    slow = fork(
        place, run_name="shared", before=lambda rank: setattr(trainer, "log_step", lambda *a: time.sleep(30))
    )
    deadline = time.time() + 60
    while not (run / "metrics.jsonl").is_file() and time.time() < deadline:
        time.sleep(0.02)
    for words in [], ["--resume"]:
        if words:  # as if there were something to go on from
            shutil.copytree(unbroken("P") / "step_000002", run / "step_000002")
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
