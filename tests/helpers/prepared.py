"""Rows to prepare, fixtures that run data.py in this process or in its own, and readers of what it wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from examples import TEXTS, Inline, documents
from toy import ROOT

import data
from dataprep import prepare, registry, worker
from dataprep.shards import TokenDataset, read_meta
from runtime.errors import run_cli
from tokenizer import load_tokenizer, train_bpe

INSTRUCTIONS = [
    {"instruction": f"Say {n // 2}", "input": "", "output": f"{n} is it. " * (1 + n * 7 % 17)}
    for n in range(120)
]  # every prompt twice
PAIRS = [
    {"prompt": row["instruction"], "chosen": row["output"], "rejected": "no, " * (1 + n * 3 % 7)}
    for n, row in enumerate(INSTRUCTIONS)
]
ROWS = {"instruct": INSTRUCTIONS, "preference": PAIRS}
RESPONSES = {"instruct": ("output",), "preference": ("chosen", "rejected")}


class Killed(BaseException):
    """Stand-in for SIGKILL: no handler of the project catches it."""


def kill(*_: object) -> None:
    """Stand in for a function in which the process is killed."""
    raise Killed


# --- data.py in this process -----------------------------------------------------------------------------------------


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare units of a few documents in this process, without syncing."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(prepare, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(worker, "_end_with_main", lambda: None)
    monkeypatch.setattr(registry, "unit_bytes", lambda total: 3_000)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Return a function that runs data.py's main: flags -> (exit code, stdout, stderr)."""

    def call(*flags: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["data.py", "--data_dir", str(tmp_path / "data"), *map(str, flags)])
        try:
            run_cli(data.main)
            code = 0
        except SystemExit as exit:
            code = exit.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Write a corpus of many short documents."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tokenizer whose tokens are longer than bytes, and that loads faster than GPT-2's."""
    folder = tmp_path_factory.mktemp("small")
    train_bpe(TEXTS, 400).save(folder)
    return folder


# --- data.py with its worker processes -------------------------------------------------------------------------------


def script(*flags: object, **environment: str) -> subprocess.Popen:
    """Start data.py with two workers, in a process group of its own."""
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "data.py"), *map(str, flags), "--num_proc", "2"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    """Return (exit code, stdout, stderr) when the process and its workers, which hold its stderr, have ended."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def workers_of(process: subprocess.Popen) -> list[int]:
    """Return the two worker processes, the children of the forkserver, when both run."""

    def children(pid: int) -> dict[int, str]:
        lines = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True
        ).stdout.splitlines()
        return {int(number): args for number, args in (line.split(maxsplit=1) for line in lines)}

    while process.poll() is None:
        pids = [
            pid
            for server, args in children(process.pid).items()
            if "forkserver" in args
            for pid in children(server)
        ]
        if len(pids) == 2:
            return pids
        time.sleep(0.02)
    raise AssertionError(f"it ended before it had workers: {process.communicate()}")


def kill_a_worker(process: subprocess.Popen, workers: list[int], partial: Path) -> None:
    """Kill a worker after the first unit is finished."""
    while not list(partial.glob("unit-*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)


def press_ctrl_c(process: subprocess.Popen, workers: list[int], partial: Path) -> None:
    """Interrupt the workers and then the main process, as a terminal does."""
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)  # so that the work does not end before, however fast the machine
        os.kill(pid, signal.SIGINT)
    process.send_signal(signal.SIGINT)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    time.sleep(0.3)  # in which they could complain


def kill_main(process: subprocess.Popen, workers: list[int], partial: Path) -> None:
    """Kill the main process only."""
    process.kill()


def kill_everything(process: subprocess.Popen, workers: list[int], partial: Path) -> None:
    """Kill the process group."""
    os.killpg(process.pid, signal.SIGKILL)


# --- readers ---------------------------------------------------------------------------------------------------------


def split_texts(folder: Path) -> dict[str, list[str]]:
    """Return the decoded texts of both splits, after checking that every token belongs to one."""
    meta = read_meta(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    ids = {split: documents(folder, meta["splits"][split]) for split in ("train", "val")}
    assert all(
        document[-1] == tokenizer.eos_id and tokenizer.eos_id not in document[:-1] for document in ids["val"]
    )
    return {split: [tokenizer.decode(document) for document in its] for split, its in ids.items()}


def datasets(folder: Path) -> list[TokenDataset]:
    """Return both splits of a dataset."""
    meta = read_meta(folder)
    return [TokenDataset(folder, split, meta) for split in ("train", "val")]


def conversations(folder: Path) -> list[list[str]]:
    """Return the decoded conversations of both splits, after checking that the loss mask covers the response."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    splits = []
    for dataset in datasets(folder):
        decoded = []
        for ids, loss_mask in map(dataset.document, range(dataset.documents)):
            response = int(loss_mask.argmax())
            assert loss_mask[response:].all() and ids[-1] == tokenizer.eos_id
            assert tokenizer.decode(ids[:response]).endswith("### Response:\n")
            decoded.append(tokenizer.decode(ids))
        splits.append(decoded)
    return splits


def check_split(expected: list[str], train: list[str], val: list[str], fraction: float) -> None:
    """Check that each document is on one side, in order, and that `fraction` of the characters are held out, about."""
    assert sorted(train + val) == sorted(expected)
    for split in (train, val):
        rest = iter(expected)
        assert all(document in rest for document in split), "another order"
    held_out = sum(map(len, val)) / sum(map(len, expected))
    assert fraction / 2 <= held_out <= 2 * fraction


def expected_conversations(kind: str, number: int) -> list[str]:
    """Return the conversations that a row of INSTRUCTIONS or PAIRS should become."""
    head = f"### Instruction:\n{INSTRUCTIONS[number]['instruction']}\n\n### Response:\n"
    return [head + ROWS[kind][number][column].strip() for column in RESPONSES[kind]]
