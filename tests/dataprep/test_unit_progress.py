"""Progress of preparing: the share by bytes of units, the time left without what an earlier run did, whole lines."""

import multiprocessing
from concurrent.futures import Future
from dataclasses import replace

import pytest

from dataprep.ranges import FileRange
from dataprep.registry import PrepConfig
from dataprep.unit_progress import UnitProgress
from runtime.progress import LINE_SECONDS

UNITS = [
    [FileRange(f"{n}.txt", "txt", 0, size, size)] for n, size in enumerate((10**6, 3 * 10**6, 4 * 10**6))
]
CONFIG = PrepConfig("text", "", {}, {}, 0.1, None, UNITS)
ENTRY = {"shards": {"train": {"tokens": 900}, "val": {"tokens": 100}}}


class Clock:
    """Clock that advances only when a test does."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def started(config: PrepConfig, stored: dict[int, dict]) -> tuple[UnitProgress, Clock]:
    """Return progress whose clock stands still, after its first update, without any unit done."""
    progress = UnitProgress(config, range(len(UNITS)), stored, multiprocessing.Value("q", 0))
    progress.bar._clock = clock = Clock()
    progress.bar._start()
    progress.show()
    return progress, clock


def finish(progress: UnitProgress, number: int) -> None:
    future: Future = Future()
    progress.watch(number, future)
    future.set_result(ENTRY)


def test_share_tokens_and_time_left(capsys: pytest.CaptureFixture) -> None:
    progress, clock = started(CONFIG, {})
    finish(progress, 0)
    progress._counter.value = 1000
    clock.now = LINE_SECONDS
    progress.show()
    progress.show()
    finish(progress, 2)
    clock.now = 2 * LINE_SECONDS
    progress.show()
    assert capsys.readouterr().err.splitlines() == [
        "preparing 1.0/8.0 MB: 12%, 1,000 tokens, 01:10 left",
        "preparing 5.0/8.0 MB: 62%, 1,000 tokens, 00:12 left",
    ]


def test_the_time_left_does_not_count_what_an_earlier_run_did(capsys: pytest.CaptureFixture) -> None:
    progress, clock = started(CONFIG, {2: ENTRY})
    finish(progress, 2)  # done from the start, not twice
    finish(progress, 0)
    clock.now = LINE_SECONDS
    progress.show()
    assert capsys.readouterr().err == "preparing 5.0/8.0 MB: 62%, 1,000 tokens, 00:30 left\n"


def test_units_that_failed_or_are_not_needed_do_not_count() -> None:
    progress, _ = started(CONFIG, {})
    failed: Future = Future()
    dropped: Future = Future()
    progress.watch(0, failed)
    progress.watch(1, dropped)
    failed.set_exception(OSError())
    dropped.cancel()
    progress.show()
    assert progress.bar.position == 0


def test_a_wanted_number_of_tokens_is_the_measure(capsys: pytest.CaptureFixture) -> None:
    progress, clock = started(replace(CONFIG, max_tokens=4000), {})
    progress._counter.value = 1000
    clock.now = LINE_SECONDS
    progress.show()
    progress._counter.value = 5000  # a unit that is prepared again counts twice
    clock.now = 2 * LINE_SECONDS
    progress.show()
    assert capsys.readouterr().err.splitlines() == [
        "preparing 1,000/4,000 tokens: 00:30 left",
        "preparing 4,000/4,000 tokens",
    ]
