"""JSON that is read block by block: the same values as json.loads, and mistakes with their line."""

import io
import json

import pytest

from dataprep import json_stream
from dataprep.json_stream import iter_values
from runtime.errors import UserError

VALUES = [{"text": 'a, [b] {c} \\" \n é\u2028'}, 123456, [], {}, None, "x" * 50, -1.5e10, [[1, 2]], True]


@pytest.fixture(params=[1, 3, 1 << 20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "BLOCK_CHARACTERS", request.param)


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_and_values_in_a_row_are_the_same(block: None, indent: int | None) -> None:
    array = json.dumps(VALUES, indent=indent)
    assert list(iter_values(io.StringIO(f" \n{array}\n "), "a.json")) == VALUES
    others = VALUES[:2] + VALUES[3:]  # the first one of a file that is not an array is no array
    lines = "\n".join(json.dumps(value, indent=indent) for value in others)
    assert list(iter_values(io.StringIO(lines), "a.json")) == others
    for empty in ("", " \n", "[]", "[ ]"):
        assert list(iter_values(io.StringIO(empty), "a.json")) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1,\n2,\n]", r"Expecting value \(line 3\)"),
        ("[1,\n2", r"',' or '\]' is missing \(line 2\)"),
        ("[1\n2]", r"',' or '\]' is missing \(line 2\)"),
        ("[1]\n\n3", r"more follows after the array \(line 3\)"),
        ('{"a": 1}\n{"b" 2}', r"Expecting ':' delimiter \(line 2\)"),
        ("[" * 100_000, "too many brackets inside each other"),
    ],
)
def test_a_mistake_has_its_line(block: None, text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^a.json is not JSON: {message}"):
        list(iter_values(io.StringIO(text), "a.json"))


def test_one_value_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "BLOCK_CHARACTERS", 100)
    file = io.StringIO(json.dumps(["x" * 30] * 1000))
    values = iter_values(file, "a.json")
    next(values)
    assert file.tell() <= 200
