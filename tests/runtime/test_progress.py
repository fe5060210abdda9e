"""Progress on a terminal and in a log file."""

import io
import sys

import pytest

from runtime.progress import LINE_SECONDS, Progress, track


class Clock:
    """Clock that advances only when a test does."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_job(seconds_a_step: float, steps: int, **options: object) -> None:
    clock = Clock()
    with Progress("step", "", steps, clock=clock, **options) as progress:
        for step in range(steps):
            clock.now += seconds_a_step
            progress.note = f"loss {3 - step / steps:.2f}"
            progress.update()


def test_a_log_gets_a_line_every_ten_seconds(capsys: pytest.CaptureFixture) -> None:
    run_job(1, 60)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 60 // LINE_SECONDS
    assert lines[0] == "step 10/60: loss 2.85, 00:50 left"


def test_a_log_of_a_training_run_has_its_first_and_last_step(capsys: pytest.CaptureFixture) -> None:
    run_job(0.1, 60, log_ends=True)
    assert capsys.readouterr().err == "step 1/60: loss 3.00\nstep 60/60: loss 2.02\n"


def test_a_short_job_and_a_disabled_one_print_nothing(capsys: pytest.CaptureFixture) -> None:
    run_job(0.1, 60)
    run_job(20, 60, log_ends=True, enabled=False)
    assert capsys.readouterr().err == ""


def test_a_log_has_no_carriage_return_and_a_terminal_has_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    run_job(20, 3, log_ends=True)
    assert "\r" in terminal.getvalue() and "3/3" in terminal.getvalue() and "loss 2.33" in terminal.getvalue()

    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    run_job(20, 3, log_ends=True)
    assert "\r" not in log.getvalue() and log.getvalue().count("\n") == 3


def test_the_time_left_is_that_of_the_speed_since_the_last_jump(capsys: pytest.CaptureFixture) -> None:
    clock = Clock()
    with Progress("step", "", 100, position=50, clock=clock) as progress:
        progress.update(1)
        clock.now = 60
        progress.update(9)
        progress.go_to(20)
        clock.now = 160
        progress.update(10)
        clock.now = 180
        progress.update(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step 60/100: 04:26 left", "step 30/100", "step 40/100: 02:00 left"]


@pytest.mark.parametrize(
    "title, unit, total, line",
    [
        ("a.bin", "B", 45_600_000, "a.bin 12.3/45.6 MB"),
        ("27 MB", "tokens", None, "27 MB 12,345,678 tokens"),
        ("answering", "batches", 20_000_000, "answering 12,345,678/20,000,000 batches"),
    ],
)
def test_lines_name_the_unit(title: str, unit: str, total: int | None, line: str) -> None:
    assert Progress(title, unit, total, position=12_345_678).line() == line


def test_tracked_items_are_all_yielded() -> None:
    assert list(track([1, 2, 3], "counting", "numbers")) == [1, 2, 3]
    assert list(track(iter("ab"), "counting", "letters")) == ["a", "b"]


def test_a_job_may_end_later_than_it_was_thought_to(capsys: pytest.CaptureFixture) -> None:
    clock = Clock()
    with Progress("step", "", 2, log_ends=True, clock=clock) as progress:
        progress.update()
        progress.set_total(3)
        progress.update()
        progress.update()
    assert capsys.readouterr().err == "step 1/2\nstep 3/3\n"
