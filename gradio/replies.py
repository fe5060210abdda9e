"""What the demo page works with: the newest model of each stage, replies as they grow, probabilities, votes; no page.

Models are loaded on first use and kept; where a newer run or step has appeared, it takes the older one's place.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from config import ModelArgs
from generation.chat import ChatModel, Messages, ReplyPiece, choose_model, load_chat_model
from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from tokenizer import Tokenizer

Item = TypeVar("Item")
PROMPT_LIMIT = 8_000  # characters
BY_ITSELF = "ended by itself"


class Stage(NamedTuple):
    """A stage of training on the page: its title, and whether its models answer or continue."""

    title: str
    instruct: bool


STAGES = {"pretrained": Stage("Pretrained", False), "sft": Stage("SFT", True), "dpo": Stage("DPO", True)}


@dataclass(frozen=True)
class Reply:
    """A reply so far: its text, the prompt's ids and its own, seconds to the first token and in all, what ended it.

    `dropped` are the turns of the conversation that had to be left out, the oldest ones.
    """

    text: str
    prompt: list[int]
    ids: list[int]
    first: float
    seconds: float
    dropped: int = 0
    ended: str | None = None

    @property
    def summary(self) -> str:
        """What is known of it, in a line; the speed leaves out the wait for the first token."""
        known = [f"{len(self.ids)} tokens"]
        if len(self.ids) > 1:
            known.append(f"{(len(self.ids) - 1) / (self.seconds - self.first):.0f} tokens/s")
        known += [f"first after {1000 * self.first:.0f} ms", *filter(None, [self.ended])]
        if self.dropped:
            known.append(f"the context is full: the oldest {self.dropped} turns left out")
        return " · ".join(known)


@dataclass(frozen=True)
class Duel:
    """Replies of several stages to one prompt, in the order in which they are shown."""

    prompt: str
    order: list[str]
    replies: list[Reply | None]

    @property
    def texts(self) -> list[str]:
        """The replies' texts; empty where nothing has come yet."""
        return [reply.text if reply else "" for reply in self.replies]


class Seen(NamedTuple):
    """A token, the probability that the model gave to it, and the most probable ones in its place."""

    text: str
    probability: float
    alternatives: list[tuple[str, float]]


class Models:
    """The models of the three stages under --save_checkpoint_dir, each loaded when it is first asked for."""

    def __init__(self, args: ModelArgs, env: DistributedEnv):
        self.args, self.env = args, env
        self.kept: dict[str, tuple[tuple[Path, int, int], ChatModel]] = {}
        self.lock = threading.Lock()

    def find(self, stage: str) -> Path:
        """The newest model folder of a stage. Raises UserError with the commands that make one."""
        return choose_model(stage, self.args)

    def found(self) -> dict[str, Path]:
        """The newest model folder of each stage that has one, in the order of the stages."""
        folders = {}
        for stage in STAGES:
            with contextlib.suppress(UserError):
                folders[stage] = self.find(stage)
        return folders

    def load(self, stage: str) -> ChatModel:
        """The newest model of a stage, on its device. Raises UserError when there is none or it cannot be read."""
        with self.lock:
            folder = self.find(stage)
            stat = folder.stat()
            version = (
                folder,
                stat.st_ino,
                stat.st_mtime_ns,
            )  # a run trained anew has folders of the same names
            if stage not in self.kept or self.kept[stage][0] != version:
                self.kept[stage] = version, load_chat_model(folder)
                self.kept[stage][1].model.to(self.env.device)
            return self.kept[stage][1]

    def reply(self, stage: str, messages: Messages, args: ModelArgs) -> Iterator[Reply]:
        """Yield the reply to a conversation as it grows, the last time with what ended it; closing it ends the work.

        Raises UserError where the prompt does not fit.
        """
        speaker = self.load(stage)
        prompt, dropped = speaker.build_prompt(messages, args.max_length)
        count = min(args.max_length, speaker.model.args.block_size - len(prompt))
        ids: list[int] = []
        text, first, t0 = "", 0.0, time.perf_counter()
        for piece in self._steps(speaker.stream_reply(prompt, args)):
            ids = piece.out_ids
            if not piece.text:
                continue
            text, first = text + piece.text, first or time.perf_counter() - t0
            yield Reply(text, prompt, list(ids), first, time.perf_counter() - t0, dropped)
        ended = (
            ("the context is full" if count < args.max_length else "reached --max_length")
            if len(ids) >= count
            else "met --stop or ended"
            if args.stop
            else BY_ITSELF
        )
        yield Reply(text, prompt, ids, first, time.perf_counter() - t0, dropped, ended)

    def _steps(self, pieces: Iterator[ReplyPiece]) -> Iterator[ReplyPiece]:
        """The pieces; autocast belongs to a thread, and each step may run in another one, so it is entered for each."""
        while True:
            with self.env.autocast():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    @torch.inference_mode()
    def look(self, stage: str, reply: Reply, top: int = 6) -> list[Seen]:
        """The reply's tokens as the model sees them: one pass without a cache, at temperature 1, nothing filtered."""
        speaker = self.load(stage)
        ids = [*reply.ids, speaker.tokenizer.eos_id] if reply.ended == BY_ITSELF else reply.ids
        tokens = torch.tensor([reply.prompt + ids], device=self.env.device)
        with self.env.autocast():
            states = speaker.model(tokens[:, :-1], return_hidden=True)[0, len(reply.prompt) - 1 :]
            probabilities = speaker.model.lm_head(states).float().softmax(-1)  # (T, V)
        text = partial(token_text, speaker.tokenizer)
        best, places = (found.tolist() for found in probabilities.topk(min(top, probabilities.shape[-1])))
        return [
            Seen(text(token), row[token].item(), list(zip(map(text, others), values, strict=True)))
            for token, row, others, values in zip(ids, probabilities, places, best, strict=True)
        ]


def check(prompt: str) -> None:
    """Raises UserError for a prompt that is empty or longer than the page takes."""
    if not prompt.strip():
        raise UserError("Write something first.")
    if len(prompt) > PROMPT_LIMIT:
        raise UserError(f"The text has {len(prompt):,} characters; the page takes {PROMPT_LIMIT:,}.")


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token; the end of text by its name."""
    return "⟨end⟩" if token == tokenizer.eos_id else tokenizer.decode([token])


def side_by_side(streams: Sequence[Iterator[Item]]) -> Iterator[list[Item | None]]:
    """Yield what each stream has brought last, one step of each stream at a time, until all have ended."""
    last: list[Item | None] = [None] * len(streams)
    going = list(range(len(streams)))
    while going:
        for place in list(going):
            item = next(streams[place], None)
            if item is None:
                going.remove(place)
            else:
                last[place] = item
        if going:
            yield list(last)


def paced(items: Iterable[Item], seconds: float = 0.05) -> Iterator[Item]:
    """The first item at once, then at most one in so many seconds, and the last one: a browser needs no more."""
    due, waiting = 0.0, []
    for item in items:
        waiting = [item]
        if time.perf_counter() >= due:
            yield waiting.pop()
            due = time.perf_counter() + seconds
    yield from waiting


def keep_vote(file: Path, duel: Duel, choice: int) -> int:
    """Append a preference row for each other text that the chosen one was better than; returns how many.

    Equal and empty texts teach nothing and make no row.
    """
    best, *others = dict.fromkeys(text.strip() for text in [duel.texts[choice], *duel.texts])
    rows = [
        {
            side: [{"role": "user", "content": duel.prompt}, {"role": "assistant", "content": text}]
            for side, text in (("chosen", best), ("rejected", other))
        }
        for other in others
        if best and other
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with file.open("ab", buffering=0) as output:  # one write, so that two votes never mix
        output.write(lines.encode())
        os.fsync(output.fileno())
    return len(rows)
