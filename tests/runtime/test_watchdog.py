"""Stop signals and the watchdog."""

import faulthandler
import os
import signal
import types

import pytest

from runtime.watchdog import StopSignal, Watchdog

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


def test_a_handler_that_python_did_not_install_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    restored = []

    def replace_handler(number: int, handler: object) -> None:
        if isinstance(handler, types.MethodType):
            return None  # as signal.signal does for a handler that was installed from C
        restored.append(number)

    monkeypatch.setattr(signal, "signal", replace_handler)
    with StopSignal():
        pass
    assert restored == []


def test_each_item_restarts_the_watchdog_and_zero_minutes_disable_it(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = []

    def dump_traceback_later(seconds: float, exit: bool, file: object) -> None:
        beats.append((seconds, exit))

    monkeypatch.setattr(faulthandler, "dump_traceback_later", dump_traceback_later)
    assert list(Watchdog(0.5).watch("abc")) == ["a", "b", "c"]
    assert beats == [(30.0, True)] * 3

    Watchdog(0).beat()
    assert len(beats) == 3
