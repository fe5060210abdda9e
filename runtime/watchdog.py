"""Stop signals, and a watchdog that ends a process that hangs."""

import faulthandler
import signal
import sys
from collections.abc import Iterable, Iterator

# Windows has no SIGUSR1.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
MAX_SECONDS = 1e9  # faulthandler overflows above


class StopRequested(Exception):
    """A stop signal has reached one rank or more; raised on all ranks at the same place."""


class StopSignal:
    """Request to stop by SIGTERM, SIGINT or SIGUSR1 (as Slurm sends it): drop the step, save, exit.

    A second Ctrl-C raises KeyboardInterrupt at once. On exit of the context the earlier handlers are restored.
    """

    def __init__(self) -> None:
        self.received = False
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in STOP_SIGNALS:
            self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            if handler is not None:  # None: it was not installed by Python, which cannot restore it
                signal.signal(number, handler)

    def _remember(self, number: int, frame: object) -> None:
        self.received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Watchdog:
    """Timer that ends the process, with the stacks of all threads, after some minutes without a beat (0 = never).

    The clock is faulthandler's own thread, which needs no interpreter, so it also ends a process that hangs inside C.
    """

    def __init__(self, minutes: float):
        self.seconds = min(60 * minutes, MAX_SECONDS)

    def beat(self) -> None:
        """Restart the timer."""
        if self.seconds:
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=sys.__stderr__)

    def watch(self, items: Iterable) -> Iterator:
        """Yield the items, with a beat before each."""
        for item in items:
            self.beat()
            yield item

    def end(self) -> None:
        """Stop the timer."""
        faulthandler.cancel_dump_traceback_later()
