"""Conversation in a terminal: turns, commands that begin with a slash, and what Ctrl-C does."""

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from config import ModelArgs
from generation.chat import ChatModel, Messages, Prompt
from runtime.errors import RunError, UserError

HELP = """\
/clear           begin a new conversation
/system TEXT     system turn of this and later conversations; /system alone removes it
/regen           another reply to the last message
/model MODEL     another model: sft, dpo, pretrained or a folder
/NAME VALUE      a setting, such as /temperature 0.5, /max_length 200, /top_p 0.9, /seed 7
/save FILE       write the conversation as a row of messages, which data.py reads; /load FILE reads one
/quit            leave, as Ctrl-D does
\"\"\"             begins and ends a message of several lines; // begins one with a slash
Ctrl-C ends a reply, not the conversation; twice at the prompt it leaves."""
QUOTES = '"""'
SAMPLING = {field.name: field for field in fields(ModelArgs) if field.metadata["group"] == "sampling"}


def note(text: str) -> None:
    """Write a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def say(chat_model: ChatModel, prompt: Prompt, args: ModelArgs) -> str:
    """Stream the reply to stdout, and its speed and why it was cut to stderr; return the text.

    Ctrl-C ends it.
    """
    text = ""
    num_tokens = 0
    room = chat_model.model.args.block_size - len(prompt.ids)
    first = last = time.perf_counter()  # of the first token, and of the newest
    stopped = ""

    try:
        for piece in chat_model.stream_reply(prompt, args):
            last = time.perf_counter()
            if not num_tokens:
                first = last
            print(piece.text, end="", flush=True)
            text += piece.text
            num_tokens = len(piece.out_ids)
            room = piece.room
    except KeyboardInterrupt:
        stopped = "; stopped by Ctrl-C"
    except RunError:
        print(flush=True)  # the error gets a line of its own
        raise

    print(flush=True)
    parts = [f"{num_tokens} tokens"]
    if num_tokens > 1:
        parts.append(f"{(num_tokens - 1) / max(last - first, 1e-9):.0f} tokens/s")
    note(", ".join(parts) + (stopped or cut_note(num_tokens, room, args.max_length)))
    return text


def cut_note(num_tokens: int, room: int, max_length: int) -> str:
    """Return what to say of a reply that did not end but was cut; empty for one that ended."""
    if num_tokens < min(room, max_length):
        return ""
    if room <= max_length:
        return f"; cut: the context has no room for more than {room} tokens after this prompt"
    return f"; cut at --max_length {max_length}: a larger one lets it continue"


class Conversation:
    """Turns with a model, and the settings by which it replies.

    `load` gives the model of a name, its settings, and a line on what it does.
    """

    def __init__(
        self,
        chat_model: ChatModel,
        args: ModelArgs,
        system: str | None = None,
        raw: bool = False,
        load: Callable[[str], tuple[ChatModel, ModelArgs, str]] | None = None,
    ):
        self.chat_model = chat_model
        self.args = args
        self.system = system
        self.raw = raw
        self.load = load
        self.turns: list[dict[str, str]] = []
        self.commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: note(HELP),
            "clear": self._clear,
            "system": self._set_system,
            "regen": self._regenerate,
            "model": self._change_model,
            "save": self._save,
            "load": self._load,
        }

    def run(self, first_lines: list[str]) -> None:
        """Answer each message, first_lines and then stdin's, until stdin ends or /quit."""
        for line in itertools.chain(first_lines, read_messages()):
            if line == "/quit":
                return
            try:
                self.take(line)
            except (UserError, RunError) as error:
                note(f"error: {error}")
            except KeyboardInterrupt:
                note("")  # between two replies, as while a model is loaded

    def take(self, line: str) -> None:
        """Answer a message, or do what a command says. Raises UserError for what cannot be done."""
        if not line.startswith("/") or line.startswith("//"):
            self._answer(line.removeprefix("/") if line.startswith("//") else line)
            return
        name, _, value = line[1:].partition(" ")
        if name in self.commands:
            self.commands[name](value.strip())
        elif name in SAMPLING:
            self._set(name, value.strip())
        else:
            raise UserError(f"/{name} is no command: /help lists them, //{name} sends it to the model")

    def system_turn(self) -> Messages:
        """Return the system turn, [] without one. Raises UserError where there is no prompt template to hold it."""
        return system_turn(self.system, self.chat_model, self.raw)

    def _answer(self, message: str, args: ModelArgs | None = None) -> None:
        """Stream a reply; a message that does not fit is skipped and is no part of the conversation."""
        args = args or self.args
        question = {"role": "user", "content": message}
        prompt = self.chat_model.build_prompt(
            [*self.system_turn(), *self.turns, question], args.max_length, self.raw
        )
        if prompt.dropped:
            note(f"the context is full: the oldest {prompt.dropped} turns are dropped")
        self.turns += [question, {"role": "assistant", "content": say(self.chat_model, prompt, args)}]

    def _clear(self, _: str) -> None:
        self.turns.clear()
        note("a new conversation")

    def _set_system(self, text: str) -> None:
        system_turn(text or None, self.chat_model, self.raw)
        self.system = text or None
        note("the system turn is set" if text else "no system turn")

    def _regenerate(self, _: str) -> None:
        if not self.turns:
            raise UserError("/regen needs a reply to replace: write a message first")
        *self.turns, question, _ = self.turns
        if self.args.seed is not None:
            self.args = self.args.replace(seed=self.args.seed + 1)
        if self.args.temperature == 0 or self.args.num_beams > 1:
            note("the reply is the most probable one: it changes with /temperature 0.8")
        self._answer(question["content"])

    def _set(self, name: str, value: str) -> None:
        """Change a sampling setting, checked as its flag is."""
        kind = type(getattr(ModelArgs, name))
        if not value:
            note(f"{name} is {getattr(self.args, name)}")
            return
        try:
            parsed = tuple(value.split()) if kind is tuple else kind(value)
        except ValueError:
            raise UserError(f"/{name} {value} is not {'an integer' if kind is int else 'a number'}") from None
        self.args = self.args.replace(**{name: parsed})
        note(f"{name} is {parsed}")

    def _change_model(self, name: str) -> None:
        if not self.load or not name:
            raise UserError("/model needs a name: sft, dpo, pretrained or a folder")
        self.chat_model, self.args, description = self.load(name)
        note(description)

    def _save(self, file: str) -> None:
        if not file or Path(file).exists():
            raise UserError(f"/save {file or 'FILE'} needs the name of a new file")
        if not self.turns:
            raise UserError("/save has no conversation to write: write a message first")
        row = {"messages": [*self.system_turn(), *self.turns]}
        try:
            Path(file).write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"/save {file}: {error.strerror}") from None
        note(f"{len(self.turns)} turns written to {file}")

    def _load(self, file: str) -> None:
        try:
            with Path(file or "?").open(encoding="utf-8") as lines:
                messages = json.loads(lines.readline())["messages"]
            turns = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in messages]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"/load {file or 'FILE'} needs a file that /save wrote") from None
        if turns and turns[0]["role"] == "system":
            self._set_system(turns.pop(0)["content"])
        self.turns = turns
        note(f"{len(turns)} turns read from {file}")


def system_turn(text: str | None, chat_model: ChatModel, raw: bool) -> Messages:
    """Return a system turn, [] without a text. Raises UserError where there is no prompt template to hold it."""
    if text is None:
        return []
    if raw or not chat_model.is_instruct:
        what_continues = "--raw" if raw else "a base model"
        raise UserError(
            f"--system is a turn of the prompt template, and {what_continues} continues a text: drop it"
        )
    if chat_model.model.legacy:
        raise UserError("--system is a turn that the published weights were trained without: drop it")
    return [{"role": "system", "content": text}]


def read_messages() -> Iterator[str]:
    """Yield the messages of stdin that are not empty: a line each, or several between two lines of three quotes.

    At a terminal, lines can be edited and the earlier ones come back with the arrow keys.
    """
    read_line = _terminal_reader() if sys.stdin.isatty() else _read_plain_line
    while (line := read_line("> ")) is not None:
        if line.lstrip().startswith(QUOTES):
            line = _read_quoted(line.lstrip().removeprefix(QUOTES), read_line)
        if line.strip():
            yield line


def _read_quoted(first: str, read_line: Callable[[str], str | None]) -> str:
    """Return the lines up to the closing quotes."""
    lines = [first]
    while QUOTES not in lines[-1]:
        line = read_line(". ")
        if line is None:
            break
        lines.append(line)
    return "\n".join(lines).replace(QUOTES, "").strip("\n")


def _read_plain_line(_: str) -> str | None:
    """Return the next line of a pipe or file; None at its end."""
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _terminal_reader() -> Callable[[str], str | None]:
    """Return a function that reads a line of a terminal with a prompt sign; None when the user leaves.

    The first Ctrl-C empties the line, a second one leaves.
    """
    try:
        import readline  # noqa: F401  (input() edits lines with it; Windows has its own)
    except ImportError:
        pass
    interrupted = False

    def read_line(sign: str) -> str | None:
        nonlocal interrupted
        while True:
            try:
                if not sys.stdout.isatty():  # input() would write the sign into the reply
                    print(sign, end="", file=sys.stderr, flush=True)
                line = input(sign if sys.stdout.isatty() else "")
            except EOFError:
                note("")
                return None
            except KeyboardInterrupt:
                note("")
                if interrupted:
                    return None
                interrupted = True
                note("Ctrl-C again, Ctrl-D or /quit leaves")
                continue
            interrupted = False
            return line

    return read_line
