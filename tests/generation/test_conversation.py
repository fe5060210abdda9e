"""Conversations in a terminal: commands, Ctrl-C, several lines; the model repeats what it is told."""

import contextlib
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from toy import ROOT

from config import ModelArgs
from generation.chat import Prompt, ReplyPiece
from generation.conversation import Conversation, cut_note, read_messages, say, system_turn
from runtime.errors import RunError, UserError


class Parrot:
    """Chat model that repeats the question, a token for each character; more than 30 do not fit."""

    model = SimpleNamespace(args=SimpleNamespace(block_size=60), legacy=False)
    is_instruct = True

    def __init__(self) -> None:
        self.conversations: list[list[dict[str, str]]] = []
        self.seeds: list[int | None] = []

    def build_prompt(self, messages: list, max_length: int, raw: bool) -> Prompt:
        question = messages[-1]["content"]
        if len(question) > 30:
            raise UserError("the prompt has many tokens")
        self.conversations.append(list(messages))
        return Prompt([ord(character) for character in question], 2 if len(messages) > 3 else 0)

    def stream_reply(self, prompt: Prompt, args: ModelArgs) -> Iterator[ReplyPiece]:
        self.seeds.append(args.seed)
        out_ids: list[int] = []
        for token in prompt.ids:
            if chr(token) == "!":
                raise KeyboardInterrupt
            if chr(token) == "?":
                raise RunError("the logits are not finite")
            out_ids.append(token)
            yield ReplyPiece(chr(token), out_ids, 60 - len(prompt.ids))


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


def talk(parrot: Parrot, monkeypatch: pytest.MonkeyPatch, *lines: str, **options: object) -> Conversation:
    """Hold a conversation whose lines come from a pipe."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    conversation = Conversation(parrot, ModelArgs(), **options)
    conversation.run([])
    return conversation


def contents(messages: list[dict[str, str]]) -> list[str]:
    return [message["content"] for message in messages]


def test_a_conversation_skips_a_turn_that_does_not_fit(parrot, monkeypatch, capsys) -> None:
    talk(parrot, monkeypatch, "one", "two", "", "far too long " * 5, "three")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\nthree\n" and err.count("tokens/s") == 3
    assert "error: the prompt has many tokens\n" in err
    assert err.count("the context is full: the oldest 2 turns are dropped\n") == 1
    assert contents(parrot.conversations[-1]) == ["one", "one", "two", "two", "three"]


def test_a_reply_that_fails_is_one_line_and_no_turn(parrot, monkeypatch, capsys) -> None:
    conversation = talk(parrot, monkeypatch, "one", "two?", "three")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\nthree\n" and err.count("error: the logits are not finite\n") == 1
    assert contents(conversation.turns) == ["one", "one", "three", "three"]


def test_ctrl_c_ends_the_reply_and_not_the_conversation(parrot, monkeypatch, capsys) -> None:
    conversation = talk(parrot, monkeypatch, "on!e", "two")
    out, err = capsys.readouterr()
    assert out == "on\ntwo\n" and "; stopped by Ctrl-C" in err
    assert contents(conversation.turns) == ["on!e", "on", "two", "two"]


def test_clear_system_and_quit(parrot, monkeypatch, capsys) -> None:
    talk(
        parrot, monkeypatch, "one", "/clear", "/system Be brief.", "two", "/system", "three", "/quit", "four"
    )
    assert list(map(contents, parrot.conversations)) == [
        ["one"],
        ["Be brief.", "two"],
        ["two", "two", "three"],
    ]


def test_settings_change_and_are_checked(parrot, monkeypatch, capsys) -> None:
    conversation = talk(
        parrot,
        monkeypatch,
        "/temperature 0.5",
        "/max_length 7",
        "/top_p 3",
        "/top_k many",
        "/stop a b",
        "/temperature",
        "/nothing",
        "//help",
        "/help",
    )
    out, err = capsys.readouterr()
    assert (conversation.args.temperature, conversation.args.max_length) == (0.5, 7)
    assert conversation.args.stop == ("a", "b") and conversation.args.top_p == ModelArgs.top_p
    assert "--top_p 3" in err and "/top_k many is not an integer" in err
    assert "temperature is 0.5\n" in err
    assert "/nothing is no command: /help lists them, //nothing sends it to the model" in err
    assert out == "/help\n" and "/regen" in err


def test_regenerate_replaces_the_reply_with_another_seed(parrot, monkeypatch, capsys) -> None:
    conversation = talk(parrot, monkeypatch, "/regen", "one", "/regen", "/temperature 0", "/regen")
    _, err = capsys.readouterr()
    assert "/regen needs a reply to replace" in err and "it changes with /temperature 0.8" in err
    assert contents(conversation.turns) == ["one", "one"]
    first, *_, last = parrot.seeds
    assert len(set(parrot.seeds)) == 3 and last == first + 2


def test_a_conversation_is_saved_and_loaded(parrot, monkeypatch, capsys, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    lines = ("/save", "one", f"/save {file}", f"/save {file}", "/clear", "/system", f"/load {file}", "two")
    talk(parrot, monkeypatch, *lines, system="Be brief.")
    assert contents(json.loads(file.read_text())["messages"]) == ["Be brief.", "one", "one"]
    assert contents(parrot.conversations[-1]) == ["Be brief.", "one", "one", "two"]
    _, err = capsys.readouterr()
    assert err.count("needs the name of a new file") == 2
    talk(parrot, monkeypatch, f"/load {tmp_path}/none", f"/load {tmp_path}", "/load")
    assert capsys.readouterr().err.count("needs a file that /save wrote") == 3


def test_nothing_is_saved_where_there_is_nothing_to_save_or_no_place(
    parrot, monkeypatch, capsys, tmp_path: Path
) -> None:
    file = tmp_path / "nowhere" / "talk.jsonl"
    talk(parrot, monkeypatch, f"/save {file}", "one", f"/save {file}")
    _, err = capsys.readouterr()
    assert "/save has no conversation to write" in err and f"/save {file}: No such file or directory" in err


def test_another_model_continues_the_conversation(parrot, monkeypatch, capsys) -> None:
    other = Parrot()

    def load(name: str) -> tuple[Parrot, ModelArgs, str]:
        if name != "sft":
            raise UserError(f"no {name}")
        return other, ModelArgs(temperature=0.1), "another model"

    conversation = talk(parrot, monkeypatch, "one", "/model none", "/model", "/model sft", "two", load=load)
    assert contents(other.conversations[-1]) == ["one", "one", "two"]
    assert conversation.args.temperature == 0.1
    err = capsys.readouterr().err
    assert "another model\n" in err and "error: no none\n" in err and "/model needs a name" in err


def test_several_lines_are_one_message(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('one\n"""two\n  three\n"""\n"""four"""\n\n"""five\nsix'))
    assert list(read_messages()) == ["one", "two\n  three", "four", "five\nsix"]


def test_a_system_turn_needs_the_template(parrot) -> None:
    assert system_turn(None, parrot, False) == []
    assert system_turn("Brief", parrot, False) == [{"role": "system", "content": "Brief"}]
    base = SimpleNamespace(is_instruct=False)
    for model, raw, words in ((parrot, True, "--raw"), (base, False, "a base model")):
        with pytest.raises(UserError, match=f"{words} continues a text: drop it"):
            system_turn("Brief", model, raw)
    published = SimpleNamespace(is_instruct=True, model=SimpleNamespace(legacy=True))
    with pytest.raises(UserError, match="the published weights were trained without"):
        system_turn("Brief", published, False)


def test_say_streams_text_to_stdout_and_counts_to_stderr(parrot, capsys) -> None:
    assert say(parrot, Prompt([102, 111, 120]), ModelArgs()) == "fox"
    out, err = capsys.readouterr()
    assert out == "fox\n" and err.startswith("3 tokens, ") and err.endswith(" tokens/s\n")


def test_a_cut_reply_says_so() -> None:
    assert cut_note(5, room=20, max_length=10) == ""
    assert "cut at --max_length 10" in cut_note(10, room=20, max_length=10)
    assert "no room for more than 7 tokens" in cut_note(7, room=7, max_length=10)


CHILD = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches this process
sys.path[:0] = sys.argv[1:]
from test_conversation import Conversation, ModelArgs, Parrot
Conversation(Parrot(), ModelArgs()).run([])
print("left", flush=True)
"""
WAIT = 60  # seconds for a text: the child imports torch first


class Terminal:
    """A conversation in a process of its own, on a terminal of its own."""

    def __init__(self) -> None:
        self.descriptor, other = pty.openpty()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                CHILD,
                str(ROOT),
                str(Path(__file__).parent),
                str(ROOT / "tests" / "helpers"),
            ],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.seen = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.descriptor)

    def send(self, keys: str, until: str) -> None:
        """Type keys and wait for a text."""
        start = len(self.seen)
        os.write(self.descriptor, keys.encode())
        deadline = time.monotonic() + WAIT
        while until not in self.seen[start:] and time.monotonic() < deadline:
            readable, _, _ = select.select([self.descriptor], [], [], 1)
            if readable:
                with contextlib.suppress(OSError):  # the end of a terminal
                    self.seen += os.read(self.descriptor, 4096).decode(errors="replace")
        assert until in self.seen[start:], self.seen[start:]


def test_keys_in_a_terminal() -> None:
    with Terminal() as terminal:
        terminal.send("", "> ")
        terminal.send("one\n", "tokens/s\r\n> ")
        terminal.send("tw\x1b[DX\n", "tokens/s\r\n> ")  # the left arrow moves, it is no text
        terminal.send("\x1b[A\n", "tokens/s\r\n> ")  # the upper arrow brings the line back
        assert terminal.seen.count("\ntXw\r\n3 tokens") == 2
        terminal.send("half a line\x03", "/quit leaves\r\n> ")
        terminal.send("three\n", "tokens/s\r\n> ")
        terminal.send("\x03", "/quit leaves\r\n> ")
        terminal.send("\x03", "left")

    with Terminal() as terminal:
        terminal.send("", "> ")
        terminal.send("\x04", "left")
