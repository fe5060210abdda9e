"""Errors of the operating system: where, what, and what helps, each in its own words."""

import errno
import os

import pytest

from runtime.os_errors import ADVICE, DISK_FULL, in_words


def test_each_error_has_advice_of_its_own() -> None:
    others = [advice for number, advice in ADVICE.items() if number not in DISK_FULL]
    assert not any("make room" in advice for advice in others)
    assert len(set(others)) == len(others) - 2  # permissions and programs in use have two numbers each


@pytest.mark.parametrize(
    "number, advice",
    [
        (errno.ENOSPC, "make room there"),
        (errno.EXDEV, "use a folder instead of a link to another disk"),
        (errno.EMFILE, "raise the limit of open files with ulimit -n 4096"),
        (errno.ENAMETOOLONG, "use a name of at most 255 bytes"),
    ],
)
def test_an_error_says_where_what_and_what_helps(number: int, advice: str) -> None:
    assert in_words(OSError(number, "Fault", "a"), "b") == f"a: Fault: {advice}"
    assert in_words(OSError(number, "Fault"), "b") == f"b: Fault: {advice}"


def test_both_paths_of_a_move_are_named() -> None:
    error = OSError(errno.EXDEV, "Cross-device", "a", None, "b")
    assert in_words(error, "c").startswith("a -> b: Cross-device: ")


def test_a_long_name_fits_a_line() -> None:
    with pytest.raises(OSError) as raised:
        os.stat("x" * 300)
    assert len(in_words(raised.value, "a")) < 250


def test_an_error_without_advice_and_one_without_a_number() -> None:
    assert in_words(OSError(errno.EBADF, "Bad"), "a") == "a: Bad"
    assert in_words(OSError("odd"), "a") == "a: odd"
