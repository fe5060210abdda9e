"""Models that the page offers and their replies: loading, streaming, continuing.

A model is loaded on first use and kept. If a newer run or step appears, the next request loads that one instead.
"""

import contextlib
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from waiting import WaitingLine

from config import ModelArgs
from generation.chat import (
    MIN_ROOM_SHARE,
    ChatModel,
    Messages,
    Prompt,
    ReplyPiece,
    answers,
    choose_model,
    load_chat_model,
)
from generation.generate import move_for_generation
from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from tokenization.guest_files import read_files, read_template
from tokenization.prompt_template import BEGIN_OF_TEXT, CHAT_TEMPLATE

MAX_PROMPT_CHARS = 8_000
ENDED_WITH_EOS = "finished"
ENDED_OR_STOPPED = "finished, or ended at a --stop text"
CUT_BY_LENGTH = "cut: the length is reached"
CONTEXT_FULL = "cut: the context is full"


class PageModel(NamedTuple):
    """Choice on the page: its title, if the model answers (instruct) or continues a text, and in whose template."""

    title: str
    instruct: bool
    own_template: bool = False  # the chat template that its folder brought


PAGE_STAGES = {
    "pretrained": PageModel("Pretrained", instruct=False),
    "sft": PageModel("SFT", instruct=True),
    "dpo": PageModel("DPO", instruct=True),
}


@dataclass(frozen=True)
class Reply:
    """Reply so far: text, token ids, seconds to the first token and in total, and why it ended (None: not yet).

    `prompt_ids` hold what came before, also the beginning of a reply that is continued. `dropped_turns` counts the
    oldest turns of the conversation, `dropped_tokens` the first tokens of a text, that did not fit the context of
    `context` tokens, in which the reply has `room`.
    """

    text: str
    prompt_ids: list[int]
    output_ids: list[int]
    first_token_seconds: float
    seconds: float
    dropped_turns: int = 0
    end_reason: str | None = None
    dropped_tokens: int = 0
    context: int = 0
    room: int = 0

    @property
    def ended(self) -> bool:
        """Return True if the model ended the reply; others were cut, or are still written."""
        return self.end_reason in (ENDED_WITH_EOS, ENDED_OR_STOPPED)

    @property
    def used(self) -> int:
        """Return how many tokens of the context prompt and reply fill."""
        return self.context - self.room + len(self.output_ids)

    @property
    def summary(self) -> str:
        """Return one line of figures; the speed does not count the wait for the first token."""
        num_tokens = len(self.output_ids)
        parts = [f"{num_tokens} tokens"]

        if num_tokens > 1:
            speed = (num_tokens - 1) / (self.seconds - self.first_token_seconds)
            parts.append(f"{speed:.0f} tokens/s")

        parts.append(f"first after {1000 * self.first_token_seconds:.0f} ms")
        if self.end_reason:
            parts.append(self.end_reason)
        return " · ".join(parts)


class LoadedModel(NamedTuple):
    """Model in memory with the version of the folder that it was loaded from."""

    version: tuple[Path, int, int]
    chat_model: ChatModel


def page_model(folder: Path) -> PageModel:
    """Return how the model in a folder appears on the page: a step with the name of its run."""
    template = read_template(read_files(folder))
    return PageModel(
        title=folder_label(folder),
        instruct=answers(folder),
        own_template=template is not None and template.removeprefix(BEGIN_OF_TEXT) != CHAT_TEMPLATE,
    )


class StageModels:
    """Models that the page offers, loaded on first use: those of `names`, else the newest of each stage.

    Raises UserError for a name without a model.
    """

    def __init__(self, args: ModelArgs, env: DistributedEnv, names: Sequence[str] = ()):
        self.args = args
        self.names = names
        self.choices = PAGE_STAGES
        if names:
            self.choices = {name: page_model(choose_model(name, args)) for name in names}
        self.env = env
        self.loaded: dict[str, LoadedModel] = {}
        self.lock = threading.Lock()
        self.line = WaitingLine()

    def newest_folder(self, stage: str) -> Path:
        """Return the newest model folder of a stage.

        Raises UserError with the commands that make one.
        """
        return choose_model(stage, self.args)

    def newest_folders(self) -> dict[str, Path]:
        """Return the newest model folder of each stage that has one, in the order of the stages."""
        folders = {}
        for stage in self.choices:
            with contextlib.suppress(UserError):
                folders[stage] = self.newest_folder(stage)
        return folders

    def newest_stage(self) -> str:
        """Return the first model that was named, or the last stage that has one; "pretrained" if none has."""
        if self.names:
            return self.names[0]
        stages = list(self.newest_folders())
        return stages[-1] if stages else "pretrained"

    def label(self, stage: str) -> str:
        """Return the name of a stage's model as replies carry it: its run and step, or its folder.

        Raises UserError when there is no model.
        """
        return folder_label(self.newest_folder(stage))

    def load(self, stage: str) -> ChatModel:
        """Load the newest model of a stage onto the device, or return it if it is loaded already.

        Raises UserError when there is no model or it cannot be read.
        """
        with self.lock:
            folder = self.newest_folder(stage)

            # A repeated run writes folders of the same names, so the path alone does not identify a model.
            stat = folder.stat()
            version = (folder, stat.st_ino, stat.st_mtime_ns)

            loaded = self.loaded.get(stage)
            if loaded is None or loaded.version != version:
                loaded = LoadedModel(version, load_chat_model(folder))
                move_for_generation(loaded.chat_model.model, self.env)
                self.loaded[stage] = loaded
            return loaded.chat_model

    def stream_reply(
        self, stage: str, messages: Messages, args: ModelArgs, begun: Sequence[int] = ()
    ) -> Iterator[Reply]:
        """Yield the reply to a conversation as it grows; the last one has its `end_reason`.

        With the tokens of a reply that has begun, yield how it continues. Closing the generator stops the decoding.

        Raises UserError if the prompt does not fit the context.
        """
        chat_model = self.load(stage)
        prompt = chat_model.build_prompt(messages, args.max_length, num_reply_tokens=len(begun))
        if begun:
            prompt = Prompt([*prompt.ids, *begun], prompt.dropped, raw=True)
        yield from self._stream(chat_model, prompt, args)

    def stream_text(self, stage: str, text: str, args: ModelArgs) -> Iterator[Reply]:
        """Yield how a text continues; of one that is longer than the context, the model reads the end."""
        chat_model = self.load(stage)
        ids = chat_model.tokenizer.encode_prompt(text)
        context = chat_model.model.args.block_size
        kept = context - min(args.max_length, int(context * MIN_ROOM_SHARE))
        dropped_tokens = max(len(ids) - kept, 0)
        if dropped_tokens:
            ids = chat_model.tokenizer.begin_ids + ids[dropped_tokens:]
        yield from self._stream(chat_model, Prompt(ids, raw=True), args, dropped_tokens)

    def stream_after(self, stage: str, ids: Sequence[int], args: ModelArgs) -> Iterator[Reply]:
        """Yield how token ids continue."""
        yield from self._stream(self.load(stage), Prompt(list(ids), raw=True), args)

    def _stream(
        self, chat_model: ChatModel, prompt: Prompt, args: ModelArgs, dropped_tokens: int = 0
    ) -> Iterator[Reply]:
        """Yield what the model writes after a prompt."""
        context = chat_model.model.args.block_size
        room = context - len(prompt.ids)
        if room < 1:
            raise UserError(
                f"The context of {context} tokens is full: begin a new conversation or a new text."
            )
        vocab_size = chat_model.model.args.vocab_size
        if not all(0 <= token < vocab_size for token in prompt.ids):  # a browser may send any
            raise UserError("This reply has tokens that its model does not have: write the message again.")

        dropped = prompt.dropped
        output_ids: list[int] = []
        text = ""
        first_token_seconds = 0.0
        start = time.perf_counter()

        def reply_so_far(end_reason: str | None = None) -> Reply:
            return Reply(
                text=text,
                prompt_ids=prompt.ids,
                output_ids=list(output_ids),
                first_token_seconds=first_token_seconds,
                seconds=time.perf_counter() - start,
                dropped_turns=dropped,
                end_reason=end_reason,
                dropped_tokens=dropped_tokens,
                context=context,
                room=room,
            )

        for piece in self._with_autocast(chat_model.stream_reply(prompt, args)):
            output_ids = piece.out_ids
            room = piece.room
            dropped = piece.dropped
            if not piece.text:
                continue
            text += piece.text
            if not first_token_seconds:
                first_token_seconds = time.perf_counter() - start
            yield reply_so_far()

        yield reply_so_far(reply_end_reason(len(output_ids), room, args))

    def _with_autocast(self, pieces: Iterator[ReplyPiece]) -> Iterator[ReplyPiece]:
        """Yield the pieces, each computed under autocast.

        Autocast is a state of the thread, and Gradio may run each step in another thread: enter it at each step.
        """
        while True:
            with self.env.autocast():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def folder_label(folder: Path) -> str:
    """Return the name of a model's folder: a step with the name of its run."""
    is_step = (folder.parent / "latest").is_file()
    return f"{folder.parent.name}/{folder.name}" if is_step else folder.name


def fresh_seed() -> int:
    """Return a seed of few enough digits to be typed, for a reply that can be repeated with it."""
    return random.SystemRandom().randrange(1_000_000)


def reply_end_reason(num_tokens: int, room: int, args: ModelArgs) -> str:
    """Return why a reply ended after `num_tokens` tokens, where the context had room for `room`."""
    if num_tokens >= min(args.max_length, room):
        if room < args.max_length:
            return CONTEXT_FULL
        return CUT_BY_LENGTH

    if args.stop:
        return ENDED_OR_STOPPED
    return ENDED_WITH_EOS


def check_prompt(prompt: str, max_chars: int = MAX_PROMPT_CHARS) -> None:
    """Raise UserError if the prompt is empty or longer than the page accepts."""
    if not prompt.strip():
        raise UserError("The text is empty: write something first.")
    if len(prompt) > max_chars:
        raise UserError(f"The text has {len(prompt):,} characters, the limit is {max_chars:,}: shorten it.")
