"""torchrun itself, for real: ranks killed and stopped, machines that go and come back. Minutes: pytest -m faults."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from forks import fork
from safetensors.torch import load_file
from toy import QUIET, ROOT, TINY, flags, metrics, toy_dataset

pytestmark = pytest.mark.faults
LONG = {
    **TINY,
    "total_iters": 240,
    "save_checkpoint_iter": 20,
    "eval_iters": 120,
    "epochs": 100,
    "keep_checkpoints": 2,
    "micro_batch_size": 4,
    "stall_minutes": 0.2,
}


AGENTS = []  # each in a session of its own, which would outlive a test that failed


@pytest.fixture
def folder(tmp_path):
    toy_dataset(tmp_path / "data")
    yield tmp_path
    while AGENTS:
        if (agent := AGENTS.pop()).poll() is None:
            os.killpg(agent.pid, signal.SIGKILL)


def torchrun(folder, *words, **settings):
    """torchrun in a session of its own, as on a machine of its own, with the store that the README asks for."""
    log = (folder / f"log-{time.time_ns()}.txt").open("w")
    AGENTS.append(
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *words,
                str(ROOT / "trainer.py"),
                *flags(
                    {**LONG, "data_dir": folder / "data", "save_checkpoint_dir": folder / "runs", **settings}
                ),
            ],
            stdout=log,
            stderr=log,
            env={**QUIET, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            start_new_session=True,
        )
    )
    return AGENTS[-1]


def ranks_of(agent):
    """Process ids of the ranks of an agent, in order."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent.pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def wait_for_steps(folder, name, steps, seconds=180):
    """Until a run has made so many steps."""
    log, deadline = folder / "runs" / name / "metrics.jsonl", time.time() + seconds
    while not (log.is_file() and log.read_text().count('"train"') >= steps):
        assert time.time() < deadline, "\n".join(path.read_text() for path in folder.glob("log-*"))
        time.sleep(0.05)


def finished(folder, *agents, seconds=400):
    """Each agent has ended well."""
    for agent in agents:
        assert agent.wait(seconds) == 0, "\n".join(path.read_text() for path in folder.glob("log-*"))


def same_weights(folder, a, b):
    ours, theirs = (
        load_file(folder / "runs" / name / "step_000240" / "model.safetensors") for name in (a, b)
    )
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_rank_brings_all_back_without_a_person(folder, fault, number):
    """A stopped one is found by the watchdog of the others."""
    whole = fork(folder, run_name="whole", ranks=2, **LONG)
    agent = torchrun(folder, "--standalone", "--nproc_per_node=2", "--max-restarts=3", run_name="lost")
    for steps in (30, 120) if number == signal.SIGKILL else (30,):
        wait_for_steps(folder, "lost", steps)
        fault()
        os.kill(ranks_of(agent)[1], number)
    finished(folder, agent)
    assert whole.wait(200) == [0, 0], whole.said
    assert [row["step"] for row in metrics(folder / "runs" / "lost")] == list(range(1, 241))
    assert same_weights(folder, "lost", "whole")


def test_a_machine_that_goes_and_comes_back(folder, fault):
    """Two agents with one rank each; the second dies with all it has started, the first goes on alone until it is back.

    Losses are those of the unbroken run to the last digits, since sums over one and two ranks differ in order.
    """
    still = dict(dropout=0.0, attn_dropout=0.0, total_iters=600, eval_iters=600, lr_decay_iters=600)
    whole = fork(folder, run_name="whole", ranks=2, **{**LONG, **still})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = (
        "--nnodes=1:2",
        "--nproc_per_node=1",
        "--max-restarts=9",
        "--rdzv-backend=c10d",
        "--rdzv-id=together",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-conf=last_call_timeout=2",
    )
    first = torchrun(folder, *words, run_name="two", **still)
    time.sleep(1)
    second = torchrun(folder, *words, run_name="two", **still)
    wait_for_steps(folder, "two", 50)
    fault()
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    wait_for_steps(folder, "two", 90)
    again = torchrun(folder, *words, run_name="two", **still)
    finished(folder, first, again)
    said = "\n".join(path.read_text() for path in sorted(folder.glob("log-*")))
    assert "x 2 ranks" in said and "x 1 ranks" in said and said.count("resuming from") >= 2
    assert whole.wait(200) == [0, 0], whole.said
    ours, theirs = (metrics(folder / "runs" / name) for name in ("two", "whole"))
    assert [row["step"] for row in ours] == list(range(1, 601))
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs, strict=True)) < 1e-2
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(ours[:50], theirs[:50], strict=True)) < 1e-5
