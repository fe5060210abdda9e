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

from checkpoint import find_model, load_model
from config import ModelArgs, UserError
from distributed import Env
from generate import generate, sampling_of, until
from model import Llama
from tokenizer import Tokenizer

Item = TypeVar("Item")
Messages = Sequence[dict[str, str]]
PROMPT_LIMIT = 8_000  # characters
BY_ITSELF = "ended by itself"


class Stage(NamedTuple):
    """A stage of training: its letter for --train, its name on the page, whether its models answer or continue."""

    letter: str
    title: str
    instruct: bool


STAGES = {"pretrained": Stage("P", "Pretrained", False), "sft": Stage("S", "SFT", True), "dpo": Stage("D", "DPO", True)}


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to write."""

    folder: Path
    model: Llama
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Reply:
    """A reply so far: its text, the prompt's ids and its own, seconds to the first token and in all, what ended it."""

    text: str
    prompt: list[int]
    ids: list[int]
    first: float
    seconds: float
    ended: str | None = None

    @property
    def summary(self) -> str:
        """What is known of it, in a line; the speed leaves out the wait for the first token."""
        known = [f"{len(self.ids)} tokens"]
        if len(self.ids) > 1:
            known.append(f"{(len(self.ids) - 1) / (self.seconds - self.first):.0f} tokens/s")
        return " · ".join([*known, f"first after {1000 * self.first:.0f} ms", *filter(None, [self.ended])])


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

    def __init__(self, args: ModelArgs, env: Env):
        self.args, self.env = args, env
        self.kept: dict[str, Loaded] = {}
        self.lock = threading.Lock()

    def find(self, stage: str) -> Path:
        """The newest model folder of a stage. Raises UserError with the command that makes one."""
        runs = sorted(Path(self.args.save_checkpoint_dir).glob("*/latest"), key=lambda path: path.stat().st_mtime)
        for latest in reversed(runs):
            folder = find_model(latest.parent)
            state = json.loads((folder / "train_state" / "state.json").read_text(encoding="utf-8"))
            if state["args"]["train"] == STAGES[stage].letter:
                return folder
        raise UserError(f"no {stage} model yet: python trainer.py --train {STAGES[stage].letter} --preset stories")

    def found(self) -> dict[str, Path]:
        """The newest model folder of each stage that has one, in the order of the stages."""
        folders = {}
        for stage in STAGES:
            with contextlib.suppress(UserError):
                folders[stage] = self.find(stage)
        return folders

    def load(self, stage: str) -> Loaded:
        """The newest model of a stage, on its device. Raises UserError when there is none or it cannot be read."""
        with self.lock:
            folder = self.find(stage)
            if stage not in self.kept or self.kept[stage].folder != folder:
                model, tokenizer = load_model(folder)
                self.kept[stage] = Loaded(folder, model.to(self.env.device), tokenizer)
            return self.kept[stage]

    def reply(self, stage: str, messages: Messages, args: ModelArgs) -> Iterator[Reply]:
        """Yield the reply to a conversation as it grows, the last time with what ended it; closing it ends the work.

        Raises UserError where the prompt does not fit.
        """
        loaded = self.load(stage)
        prompt = prompt_ids(loaded, messages, STAGES[stage].instruct)
        count = min(args.max_length, loaded.model.args.block_size - len(prompt))
        text, ids, t0, first, ended = "", [], time.perf_counter(), 0.0, "met --stop"

        def recorded(tokens: Iterator[int]) -> Iterator[int]:
            nonlocal first, ended
            for token in tokens:
                first = first or time.perf_counter() - t0
                ids.append(token)
                yield token
            ended = BY_ITSELF if len(ids) < count else (
                "reached --max_length" if count == args.max_length else "the context is full")

        tokens = generate(loaded.model, prompt, count, loaded.tokenizer.eos_id, **sampling_of(args))
        for piece in until(loaded.tokenizer.stream(recorded(self._steps(tokens))), args.stop):
            text += piece
            yield Reply(text, prompt, list(ids), first, time.perf_counter() - t0)
        yield Reply(text, prompt, ids, first, time.perf_counter() - t0, ended)

    def _steps(self, tokens: Iterator[int]) -> Iterator[int]:
        """The tokens; autocast belongs to a thread, and each step may run in another one, so it is entered for each."""
        while True:
            with self.env.autocast():
                token = next(tokens, None)
            if token is None:
                return
            yield token

    @torch.inference_mode()
    def look(self, stage: str, reply: Reply, top: int = 6) -> list[Seen]:
        """The reply's tokens as the model sees them: one pass without a cache, at temperature 1, nothing filtered."""
        loaded = self.load(stage)
        ids = [*reply.ids, loaded.tokenizer.eos_id] if reply.ended == BY_ITSELF else reply.ids
        tokens = torch.tensor([reply.prompt + ids], device=self.env.device)
        with self.env.autocast():
            states = loaded.model(tokens[:, :-1], head=False)[0, len(reply.prompt) - 1:]
            probabilities = loaded.model.lm_head(states).float().softmax(-1)  # (T, V)
        text = partial(token_text, loaded.tokenizer)
        best, places = (found.tolist() for found in probabilities.topk(min(top, probabilities.shape[-1])))
        return [Seen(text(token), row[token].item(), list(zip(map(text, others), values, strict=True)))
                for token, row, others, values in zip(ids, probabilities, places, best, strict=True)]


def check(prompt: str) -> None:
    """Raises UserError for a prompt that is empty or longer than the page takes."""
    if not prompt.strip():
        raise UserError("Write something first.")
    if len(prompt) > PROMPT_LIMIT:
        raise UserError(f"The text has {len(prompt):,} characters; the page takes {PROMPT_LIMIT:,}.")


def prompt_ids(loaded: Loaded, messages: Messages, instruct: bool) -> list[int]:
    """What the model is given of a conversation. Raises UserError where it leaves no room in the context."""
    if instruct:
        ids, _ = loaded.tokenizer.render(messages)
    else:
        ids = loaded.tokenizer.encode(joined(messages))
    if not ids or len(ids) >= loaded.model.args.block_size:
        raise UserError(f"the prompt has {len(ids)} tokens; the context holds {loaded.model.args.block_size}, "
                        "the answer included")
    return ids


def joined(messages: Messages) -> str:
    """The turns of a conversation as one text, for a model that continues text."""
    text = ""
    for message in messages:
        gap = message["role"] == "user" and text and not text[-1].isspace() and not message["content"][:1].isspace()
        text += " " * bool(gap) + message["content"]
    return text


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
    rows = [{side: [{"role": "user", "content": duel.prompt}, {"role": "assistant", "content": text}]
             for side, text in (("chosen", best), ("rejected", other))} for other in others if best and other]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with file.open("ab", buffering=0) as output:  # one write, so that two votes never mix
        output.write(lines.encode())
        os.fsync(output.fileno())
    return len(rows)
