"""Ranks of the trainer as copies of the test's own process: in seconds, with whatever the test has put in its way."""

import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toy import TINY, flags

import trainer
from runtime import distributed, errors
from training import plots


@dataclass
class Forked:
    """Ranks of a trainer in processes that are copies of this one, so that none of them imports torch again."""

    pids: list[int]
    log: Path

    def wait(self, timeout: float = 60) -> list[int]:
        """The exit status of each rank, minus the signal that ended it."""
        deadline, codes = time.time() + timeout, {}
        while len(codes) < len(self.pids):
            for pid in set(self.pids) - codes.keys():
                done, status = os.waitpid(pid, os.WNOHANG)
                codes |= {pid: os.waitstatus_to_exitcode(status)} if done else {}
            if time.time() > deadline:
                for pid in set(self.pids) - codes.keys():
                    os.kill(pid, signal.SIGABRT)  # leaves its stacks in the log
                time.sleep(0.5)
                raise TimeoutError(self.said)
            time.sleep(0.01)
        return [codes[pid] for pid in self.pids]

    @property
    def said(self) -> str:
        """What the ranks have printed."""
        return self.log.read_text()


def fork(
    folder: Path,
    *extra: str,
    ranks: int = 1,
    before: Callable[[int], object] | None = None,
    environment: dict[str, str] | None = None,
    **settings,
) -> Forked:
    """Start trainer.py on the toy dataset as trainer() does; `before` is called with the rank in each process first."""
    words = [
        *flags({**TINY, "data_dir": folder / "data", "save_checkpoint_dir": folder / "runs", **settings}),
        *extra,
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    forked = Forked([], folder / f"log-{time.time_ns()}.txt")
    forked.log.touch()
    for rank in range(ranks):
        places = (
            {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            if ranks > 1
            else {}
        )
        forked.pids.append(
            start(
                forked.log,
                trainer.main,
                words,
                {**places, **(environment or {})},
                lambda rank=rank: before and before(rank),
            )
        )
    return forked


def start(
    log: Path,
    main: Callable[[], None],
    words: list[str],
    environment: dict[str, str],
    before: Callable[[], object],
) -> int:
    """Run a script's main in a copy of this process, its output in a file; returns the process id."""
    if pid := os.fork():
        return pid
    code = 99
    try:
        distributed.peak_flops = lambda env: None  # both take seconds and are not what is tested with forks
        plots.loss_curves = lambda folder: None
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        sys.__stderr__, sys.argv = sys.stderr, ["script.py", *words]
        os.environ.update(environment)
        faulthandler.enable()
        before()
        errors.run_cli(main)
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def forked(folder: Path, *extra: str, code: int = 0, **settings: object) -> str:
    """Run the trainer on the data in folder/data in a copy of this process to its end; return its output."""
    done = fork(folder, *extra, **settings)
    assert set(done.wait(200)) == {code}, done.said
    return done.said
