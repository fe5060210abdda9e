"""Command line, streaming and conversations of inference_sft.py in-process; test_scripts.py runs it."""

import dataclasses
import io
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import inference_sft
from config import ModelArgs
from generation.chat import Prompt, ReplyPiece
from inference_sft import CommandLine, parse_command_line, read_prompt
from runtime.errors import UserError


class Parrot:
    """Chat model that repeats the question, a token for each character; more than 9 do not fit."""

    model = SimpleNamespace(args=SimpleNamespace(block_size=30))

    def __init__(self) -> None:
        self.conversations: list[list[dict[str, str]]] = []

    def build_prompt(self, messages: list, max_length: int, raw: bool) -> Prompt:
        question = messages[-1]["content"]
        if len(question) > 9:
            raise UserError("the prompt has many tokens")
        self.conversations.append(list(messages))
        dropped = 2 if len(messages) > 3 else 0
        return Prompt([ord(character) for character in question], dropped)

    def stream_reply(self, prompt: Prompt, args: ModelArgs) -> Iterator[ReplyPiece]:
        out_ids: list[int] = []
        for token in prompt.ids:
            out_ids.append(token)
            yield ReplyPiece(chr(token), out_ids, 30 - len(prompt.ids))


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


def test_say_streams_text_to_stdout_and_counts_to_stderr(capsys: pytest.CaptureFixture) -> None:
    assert inference_sft.say(Parrot(), Prompt([102, 111, 120]), ModelArgs()) == "fox"
    out, err = capsys.readouterr()
    assert out == "fox\n" and err.startswith("3 tokens, ") and err.endswith(" tokens/s\n")


def test_a_conversation_skips_a_turn_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\n\nfar too long a line\nthree\n"))
    parrot = Parrot()
    inference_sft.chat(parrot, ["one"], ModelArgs(), raw=False)

    out, err = capsys.readouterr()
    assert out == "one\ntwo\nthree\n"
    assert err.count("tokens/s") == 3
    assert "error: the prompt has many tokens\n" in err
    assert err.count("the context is full: the oldest 2 turns are dropped\n") == 1
    assert [message["content"] for message in parrot.conversations[-1]] == [
        "one",
        "one",
        "two",
        "two",
        "three",
    ]


def test_a_system_turn_begins_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    instruct = SimpleNamespace(is_instruct=True)
    typed = command("--system Brief --prompt one", monkeypatch)
    (turn,) = inference_sft.system_turn(typed, instruct)
    assert turn == {"role": "system", "content": "Brief"}
    assert inference_sft.system_turn(command("--prompt one", monkeypatch), instruct) == []

    monkeypatch.setattr(sys, "stdin", io.StringIO("two\n"))
    parrot = Parrot()
    inference_sft.chat(parrot, ["one"], ModelArgs(), raw=False, system=[turn])
    assert [message["content"] for message in parrot.conversations[-1]] == ["Brief", "one", "one", "two"]


@pytest.mark.parametrize("flags, is_instruct, words", [("--raw", True, "--raw"), ("", False, "a base model")])
def test_a_system_turn_needs_the_template(
    flags: str, is_instruct: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = command(f"--system Brief {flags}", monkeypatch)
    with pytest.raises(UserError, match=f"{words} continues a text: drop it"):
        inference_sft.system_turn(typed, SimpleNamespace(is_instruct=is_instruct))


def test_a_cut_reply_says_so() -> None:
    assert inference_sft.cut_note(5, room=20, max_length=10) == ""
    assert "cut at --max_length 10" in inference_sft.cut_note(10, room=20, max_length=10)
    assert "no room for more than 7 tokens" in inference_sft.cut_note(7, room=7, max_length=10)
