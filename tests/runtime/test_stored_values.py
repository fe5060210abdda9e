"""Values of a file against type hints."""

from typing import Literal

import pytest

from runtime.stored_values import fits, wrong_value


@pytest.mark.parametrize(
    "hint, right, wrong",
    [
        (int, [0, -5, 10**30], [True, 1.0, "1", None, []]),
        (float, [0, 1.5], [False, "1", None]),
        (bool, [True], [1, "true", None]),
        (str | None, ["", None], [0, [], {}]),
        (Literal["a", "b"], ["a"], ["c", None, ["a"], 5]),
        (int | Literal["auto"] | None, [5, "auto", None], ["other", 5.0]),
        (tuple[str, ...], [[], ["a"], ("a",)], ["a", [1], None, {}]),
        (list[list[int]], [[], [[1]]], [[1], [["a"]]]),
        (dict[str, object], [{}, {"a": 5}], [[], None, "x"]),
        (dict[str, dict], [{"a": {}}], [{"a": 5}]),
    ],
    ids=str,
)
def test_values_fit_their_hint(hint: object, right: list, wrong: list) -> None:
    assert all(fits(value, hint) for value in right)
    assert not any(fits(value, hint) for value in wrong)


def test_the_first_wrong_value_is_named() -> None:
    hints = {"a": int, "b": str, "c": int}
    assert wrong_value({"a": 5, "b": "x", "more": []}, hints) is None
    assert wrong_value({"a": 5, "b": ["x" * 100]}, hints) == f"b is ['{'x' * 38}"
