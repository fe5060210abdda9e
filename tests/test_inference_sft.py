"""Command line, streaming and conversations of inference_sft.py in-process; test_scripts.py runs it."""

import dataclasses
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import checkpoint
from config import ModelArgs
from inference_sft import CommandLine, load, parse_command_line, read_prompt
from model import Llama
from runtime import distributed
from tokenizer import byte_level


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


@pytest.mark.parametrize(
    ("flags", "ends"),
    [
        (
            "--dtype float16 --device cpu",
            "on cpu in float32 (float32, because float16 needs CUDA, not cpu): continues the text",
        ),
        ("--device cpu", "on cpu: continues the text"),
        ("--dtype float32 --device cpu", "on cpu in float32: continues the text"),
    ],
)
def test_another_dtype_than_the_typed_one_is_said_with_its_reason(
    flags: str, ends: str, tmp_path: Path, tiny: ModelArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write_model(tmp_path, Llama(tiny.replace(vocab_size=320)), byte_level(), {"stage": "P"})
    parsed = command(f"--model {tmp_path} {flags}", monkeypatch)
    _, _, description = load(parsed.model, parsed, distributed.init(parsed.args.device, parsed.args.dtype))
    assert description == f"{tmp_path} {ends}"
