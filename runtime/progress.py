"""Progress of a long job on stderr: a bar on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

LINE_SECONDS = 10  # between two lines where stderr is no terminal


class Progress:
    """Position of a job, shown by `update`; `note` is the text beside it.

    Without a terminal, a line is printed when LINE_SECONDS have passed, so a short job prints none; `log_ends` prints
    one for the first and the last update too. `leave` keeps the finished bar on a terminal.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        total: int | None,
        position: int = 0,
        enabled: bool = True,
        log_ends: bool = False,
        leave: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.title = title
        self.unit = unit
        self.total = total
        self.position = position
        self.note = ""
        self._log_ends = log_ends
        self._clock = clock

        on_terminal = sys.stderr.isatty()
        self._prints_lines = enabled and not on_terminal
        self._bar = tqdm(
            total=total,
            initial=position,
            desc=title,
            unit=unit if unit == "B" else f" {unit or title}",
            unit_scale=unit in ("B", "tokens"),
            dynamic_ncols=True,
            leave=leave,
            disable=not (enabled and on_terminal),
        )
        self._start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Advance by a count and show the position when it is due."""
        self.position += count
        self._bar.set_postfix_str(self.note, refresh=False)
        self._bar.update(count)
        if self._prints_lines and self._line_is_due():
            self._last_line = self._clock()
            print(self.line(), file=sys.stderr, flush=True)

    def go_to(self, position: int) -> None:
        """Continue from an earlier or later position, such as that of a rollback."""
        self.position = position
        self._bar.reset(self.total)
        self._bar.update(position)
        self._start()

    def set_total(self, total: int) -> None:
        """Let the job end sooner or later than it was thought to."""
        self.total = total
        self._bar.total = total

    def line(self) -> str:
        """Return the position, the note and the time left as one line."""
        if self.unit == "B":
            position = f"{self.position / 1e6:,.1f}"
            total = f"{(self.total or 0) / 1e6:,.1f}"
            unit = "MB"
        else:
            position = f"{self.position:,}"
            total = f"{self.total or 0:,}"
            unit = self.unit

        line = f"{self.title} {position}"
        if self.total:
            line += f"/{total}"
        if unit:
            line += f" {unit}"

        details = [self.note, self._time_left()]
        text = ", ".join(detail for detail in details if detail)
        return f"{line}: {text}" if text else line

    def _start(self) -> None:
        """Measure speed and time from here on."""
        self._first_position: int | None = None  # after the first update, which may compile and warm up
        self._first_time = self._clock()
        self._last_line = self._clock()

    def _line_is_due(self) -> bool:
        """Return True when it is time for a line, or at the ends of the job."""
        is_first = self._first_position is None
        if is_first:
            self._first_position = self.position
            self._first_time = self._clock()
        is_end = is_first or self.position == self.total
        return (self._log_ends and is_end) or self._clock() - self._last_line >= LINE_SECONDS

    def _time_left(self) -> str:
        """Return the time left as minutes and seconds, empty where it is not known."""
        if not self.total or self._first_position is None:
            return ""
        seconds = self._clock() - self._first_time
        done = self.position - self._first_position
        if not done or self.position >= self.total:
            return ""
        return f"{tqdm.format_interval(seconds / done * (self.total - self.position))} left"


def track(items: Iterable, title: str, unit: str, enabled: bool = True) -> Iterator:
    """Yield the items, and show how many of them are done."""
    total = len(items) if hasattr(items, "__len__") else None
    with Progress(title, unit, total, enabled=enabled, leave=False) as progress:
        for item in items:
            yield item
            progress.update()
