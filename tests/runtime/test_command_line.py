"""Flags from the fields of a dataclass, and one line for a wrong flag."""

import dataclasses
import typing
from dataclasses import dataclass

import pytest

from runtime.command_line import Parser


def field(default: object, group: str = "run") -> typing.Any:
    """Return a field with the metadata that flags need."""
    return dataclasses.field(default=default, metadata={"group": group, "help": "100 % of it"})


@dataclass(frozen=True)
class Settings:
    """Fields of each type that makes a flag."""

    steps: int = field(3)
    name: str | None = field(None)
    stage: typing.Literal["P", "S"] = field("P")
    compile: bool | None = field(None)
    stop: tuple[str, ...] = field((), "sampling")


def parse(*words: str, wanted: tuple[str, ...] = ("run", "stop")) -> dict:
    """Return what a command line says."""
    parser = Parser("test")
    parser.add_fields(Settings, wanted)
    return vars(parser.parse_args(words))


def test_only_what_was_typed_is_in_the_result() -> None:
    assert parse() == {}
    words = ["--steps", "5", "--name", "x", "--stage", "S", "--no-compile", "--stop", "a", "b"]
    assert parse(*words) == {"steps": 5, "name": "x", "stage": "S", "compile": False, "stop": ["a", "b"]}


@pytest.mark.parametrize(
    "words", [["--steps", "x"], ["--step", "5"], ["--stage", "Q"], ["--unknown", "1"], ["--stop"]]
)
def test_a_wrong_flag_is_one_line(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(*words)
    message = capsys.readouterr().err
    assert exit.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1
    assert "--help)" in message


def test_only_wanted_flags_exist(capsys: pytest.CaptureFixture) -> None:
    assert parse("--stop", "a", wanted=("sampling",)) == {"stop": ["a"]}
    with pytest.raises(SystemExit):
        parse("--steps", "5", wanted=("sampling",))
