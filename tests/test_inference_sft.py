"""Command line, streaming and conversations of inference_sft.py in-process; test_scripts.py runs it."""

import dataclasses
import io
import sys
from types import SimpleNamespace

import pytest

from config import ModelArgs
from inference_sft import CommandLine, parse_command_line, read_prompt


def command(line: str, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setattr(sys, "argv", ["inference_sft.py", *line.split()])
    return parse_command_line()


def test_the_command_line_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = command("--model sft --chat --quantize int8 --temperature 0 --max_length 7", monkeypatch)
    assert (parsed.model, parsed.chat, parsed.raw, parsed.quantize) == ("sft", True, False, "int8")
    assert "prompt" not in parsed.typed and (parsed.args.temperature, parsed.args.max_length) == (0, 7)
    assert command("--prompt fox --raw", monkeypatch).typed["prompt"] == "fox"
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.model = "dpo"


@pytest.mark.parametrize("flag", ["--quantize int4", "--embeddings_dims 64", "--chat 1"])
def test_a_wrong_flag_is_refused(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as exit:
        command(flag, monkeypatch)
    assert exit.value.code == 2


@pytest.mark.parametrize(
    "line, piped, prompt",
    [
        ("--prompt fox", b"owl\n", "fox"),
        ("", b"an owl\nand \xff\n", "an owl\nand \ufffd"),
        ("", b"", ModelArgs().prompt),
    ],
)
def test_the_prompt_is_the_flags_then_the_pipes(
    line: str, piped: bytes, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = command(line, monkeypatch)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(piped)))
    assert read_prompt(parsed) == prompt


@pytest.mark.parametrize(
    "line, message",
    [
        ("--prompts a.jsonl", "--prompts FILE and --to FILE go together"),
        ("--to a.jsonl", "--prompts FILE and --to FILE go together"),
        ("--prompts a.jsonl --to b.jsonl --chat", "drop --chat and --prompt"),
        ("--prompts a.jsonl --to b.jsonl --prompt fox", "drop --chat and --prompt"),
    ],
)
def test_files_of_prompts_go_alone(
    line: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as exit:
        command(line, monkeypatch)
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_a_repeated_stop_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("--stop Tom --stop baker cook", monkeypatch).args.stop == ["Tom", "baker", "cook"]
