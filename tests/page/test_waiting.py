"""The line: one is served at a time, the others see their place, and who leaves frees it."""

import pytest
import waiting
from waiting import Place, WaitingLine

from runtime.errors import UserError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look again at once."""
    monkeypatch.setattr(waiting, "SECONDS_BETWEEN_LOOKS", 0.001)


def test_the_first_is_served_and_the_others_see_their_place():
    line = WaitingLine()
    first, second, third = (line.wait_then(iter(name)) for name in ("ab", "c", "d"))
    assert next(first) == "a"
    assert next(second) == Place(1) and next(third) == Place(2) and next(second) == Place(1)
    assert Place(1).text == "Waiting: 1 reply is before yours." and "2 replies are" in Place(2).text

    assert list(first) == ["b"]
    assert next(third) == Place(1)
    assert list(second) == ["c"] and list(third) == ["d"] and line.line == []


def test_who_leaves_frees_the_place_and_ends_the_reply():
    line = WaitingLine()
    closed = []

    def reply():
        try:
            yield "a"
            yield "b"
        finally:
            closed.append(True)

    first, second, third = (line.wait_then(each) for each in (reply(), reply(), iter("d")))
    next(first), next(second), next(third)
    second.close()
    assert next(third) == Place(1)
    first.close()
    assert closed == [True]  # what had not begun needs no end
    assert next(third) == "d"


def test_an_error_frees_the_place():
    line = WaitingLine()

    def failing():
        raise UserError("no")
        yield

    with pytest.raises(UserError, match="no"):
        next(line.wait_then(failing()))
    assert list(line.wait_then(iter("a"))) == ["a"]


def test_a_full_line_says_so():
    line = WaitingLine(max_waiting=1)
    visitors = [line.wait_then(iter("a")) for _ in range(3)]
    next(visitors[0]), next(visitors[1])
    with pytest.raises(UserError, match="1 others are waiting"):
        next(visitors[2])
