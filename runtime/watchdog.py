"""What watches over a run from outside its loop: signals that ask it to stop, a watchdog, the launcher's own end."""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.files import write_text


class StopSignal:
    """Raised by SIGTERM, SIGINT and SIGUSR1 (as Slurm sends it): finish the step, save, leave.

    A second Ctrl-C leaves at once.
    """

    def __init__(self) -> None:
        self.received = False
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: object) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Watchdog:
    """Ends the process with the stacks of all its threads when nothing has happened for some minutes (0 = never).

    The clock is faulthandler's own thread, which needs no interpreter, so it also ends a process that hangs inside C.
    """

    def __init__(self, minutes: float):
        self.seconds = min(60 * minutes, 1e9)  # of longer times faulthandler overflows

    def beat(self) -> None:
        """Something has happened: wind the clock up."""
        if self.seconds:
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=sys.__stderr__)

    def watch(self, items: Iterable) -> Iterator:
        """The items, each of which is something that happens."""
        for item in items:
            self.beat()
            yield item

    def end(self) -> None:
        """Watch no longer."""
        faulthandler.cancel_dump_traceback_later()


def exit_when_torchrun_dies() -> None:
    """Leave when torchrun is gone: ranks that it left behind would hold the run's folder against those started next."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        print(
            "torchrun is gone, so this rank leaves too; start again with --resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    launcher = os.getppid()
    threading.Thread(target=watch, daemon=True).start()


def restarted_by_torchrun(run: Path) -> bool:
    """Whether torchrun has started these ranks again, or changed their number, in the middle of this run.

    What torchrun counts as a restart says so. It does not count machines that come and go: there the run's folder is
    known by the --rdzv-id of the command that made it.
    """
    launch, name = os.environ.get("TORCHELASTIC_RUN_ID", "none"), run / "launch"
    known = launch != "none" and name.is_file() and name.read_text() == launch
    return known or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def save_launch_id(run: Path) -> None:
    """Note by which torchrun a run was started."""
    if launch := os.environ.get("TORCHELASTIC_RUN_ID"):
        write_text(run / "launch", launch)


def is_local_main_process() -> bool:
    """Whether this rank is the first on its machine: the one that reads what the machine's ranks share."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
