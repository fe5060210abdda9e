"""Signals, the watchdog, and how ranks know that torchrun has started them again."""

import faulthandler
import os
import signal
from pathlib import Path

import pytest

from runtime.watchdog import StopSignal, Watchdog, restarted_by_torchrun, save_launch_id

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def test_each_signal_asks_to_stop_and_the_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    for number in SIGNALS:
        with StopSignal() as stop:
            assert not stop.received
            os.kill(os.getpid(), number)
            assert stop.received
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_ctrl_c_leaves_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received
        os.kill(os.getpid(), signal.SIGINT)


def test_the_watchdog_is_wound_up_by_each_item_and_may_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    wound = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda seconds, exit, file: wound.append((seconds, exit))
    )
    assert list(Watchdog(0.5).watch("abc")) == ["a", "b", "c"]
    assert wound == [(30.0, True)] * 3
    Watchdog(0).beat()
    assert len(wound) == 3


def test_a_relaunch_is_known_by_its_count_or_by_the_name_of_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(name: str, count: int) -> bool:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", name)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))
        return restarted_by_torchrun(tmp_path)

    assert not restarted_by_torchrun(tmp_path)  # without torchrun
    assert not launched("one", 0) and launched("one", 1)
    save_launch_id(tmp_path)
    assert launched("one", 0) and not launched("two", 0) and launched("none", 2)
    launched("none", 0)
    save_launch_id(tmp_path)
    assert not restarted_by_torchrun(tmp_path)  # what torchrun calls a launch that was given no name
