"""Streams: several advance together, and updates are limited in rate without losing the first or the last."""

from streams import step_together, throttle


def test_streams_advance_together_and_end_on_their_own():
    steps = []

    def stream(name, count):
        for number in range(count):
            steps.append(name)
            yield f"{name}{number}"

    shown = list(step_together([stream("a", 3), stream("b", 1), stream("c", 2)]))
    assert shown == [["a0", "b0", "c0"], ["a1", "b0", "c1"], ["a2", "b0", "c1"]]
    assert "".join(steps) == "abcaca"


def test_an_empty_stream_stays_none():
    assert list(step_together([iter([]), iter("x")])) == [[None, "x"]]


def test_throttle_keeps_the_first_and_the_last():
    assert list(throttle(range(100), 60)) == [0, 99]
    assert list(throttle(range(5), 0)) == [0, 1, 2, 3, 4]
    assert list(throttle([], 0)) == []
