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


@pytest.mark.parametrize(
    "words, line",
    [
        (["--step", "5"], "--step is no flag of prog: did you mean --steps, --stop or --stage?"),
        (["-stage", "S"], "-stage is no flag of prog: did you mean --stage?"),
        (
            ["--of-it", "5"],
            "--of-it is no flag of prog: did you mean --steps, --name or --stage?",
        ),  # in the help
        (["--x", "5"], "--x is no flag of prog (see"),
        (["--steps", "5x"], "argument --steps: '5x' is not an integer, such as 1000"),
        (["--steps", ""], "--steps is empty: give a value, or drop the flag"),
        (["--name="], "--name is empty: give a value, or drop the flag"),
        (["--compile", "yes"], "--compile takes no value: drop 'yes'"),
        (["5"], "'5' belongs to no flag"),
        (["--stage", "a\nb"], r"invalid choice: 'a\nb'"),
        (["a\nb"], r"'a\nb' belongs to no flag"),
    ],
    ids=str,
)
def test_the_line_says_what_to_type(
    words: list[str], line: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["prog"])
    with pytest.raises(SystemExit):
        parse(*words)
    message = capsys.readouterr().err
    assert line in message and message.count("\n") == 1


def test_a_value_may_begin_with_a_dash() -> None:
    assert parse("--name", "-1e-3") == {"name": "-1e-3"}
    assert parse("--name", "--- a b") == {"name": "--- a b"}
    assert parse("--stop", "-x", "--steps", "-5") == {"stop": ["-x"], "steps": -5}


def test_a_text_may_be_empty() -> None:
    parser = Parser("test")
    parser.add_argument("--prompt")
    assert parser.parse_args(["--prompt", ""]).prompt == ""
