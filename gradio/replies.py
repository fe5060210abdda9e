"""Models of the three stages and their replies: loading, streaming, and the probability of each token.

A model is loaded on first use and kept. If a newer run or step appears, the next request loads that one instead.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from config import ModelArgs
from generation.chat import ChatModel, Messages, ReplyPiece, answers, choose_model, load_chat_model
from generation.generate import move_for_generation
from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from tokenization.guest_files import read_files, read_template
from tokenization.prompt_template import BEGIN_OF_TEXT, CHAT_TEMPLATE
from tokenizer import Tokenizer

MAX_PROMPT_CHARS = 8_000
ENDED_WITH_EOS = "ended with EOS"
ENDED_OR_STOPPED = "ended with EOS or a --stop text"


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

    `dropped_turns` counts the oldest turns of the conversation that did not fit the context.
    """

    text: str
    prompt_ids: list[int]
    output_ids: list[int]
    first_token_seconds: float
    seconds: float
    dropped_turns: int = 0
    end_reason: str | None = None

    @property
    def ended(self) -> bool:
        """Return True if the model ended the reply; others were cut, or are still written."""
        return self.end_reason in (ENDED_WITH_EOS, ENDED_OR_STOPPED)

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
        if self.dropped_turns:
            parts.append(f"the context is full: skipped the oldest {self.dropped_turns} turns")
        return " · ".join(parts)


class TokenProbs(NamedTuple):
    """Token of a reply, the probability that the model gave to it, and the most probable tokens at its position."""

    text: str
    probability: float
    alternatives: list[tuple[str, float]]


class LoadedModel(NamedTuple):
    """Model in memory with the version of the folder that it was loaded from."""

    version: tuple[Path, int, int]
    chat_model: ChatModel


def page_model(folder: Path) -> PageModel:
    """Return how the model in a folder appears on the page: a step with the name of its run."""
    is_step = (folder.parent / "latest").is_file()
    template = read_template(read_files(folder))
    return PageModel(
        title=f"{folder.parent.name}/{folder.name}" if is_step else folder.name,
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

    def stream_reply(self, stage: str, messages: Messages, args: ModelArgs) -> Iterator[Reply]:
        """Yield the reply to a conversation as it grows; the last one has its `end_reason`.

        Closing the generator stops the decoding. Raises UserError if the prompt does not fit the context.
        """
        chat_model = self.load(stage)
        prompt = chat_model.build_prompt(messages, args.max_length)
        room = chat_model.model.args.block_size - len(prompt.ids)
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
                dropped_turns=prompt.dropped,
                end_reason=end_reason,
            )

        for piece in self._with_autocast(chat_model.stream_reply(prompt, args)):
            output_ids = piece.out_ids
            room = piece.room
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

    @torch.inference_mode()
    def token_probs(self, stage: str, reply: Reply, top: int = 6) -> list[TokenProbs]:
        """Return the probabilities of the reply's tokens: one pass without a cache, temperature 1, no filters."""
        chat_model = self.load(stage)
        tokenizer = chat_model.tokenizer

        output_ids = list(reply.output_ids)
        if reply.end_reason == ENDED_WITH_EOS:
            output_ids.append(chat_model.stop_ids[0])

        tokens = torch.tensor([reply.prompt_ids + output_ids], device=self.env.device)  # 1 T
        with self.env.autocast():
            hidden = chat_model.model(tokens[:, :-1], return_hidden=True)  # 1 T-1 C
            # The hidden state of the last prompt token predicts the first token of the reply.
            hidden = hidden[0, len(reply.prompt_ids) - 1 :]  # N C, N tokens of the reply
            probs = chat_model.model.lm_head(hidden).float().softmax(-1)  # N V

        top_probs, top_ids = probs.topk(min(top, probs.shape[-1]))  # N top
        result = []
        for position, token in enumerate(output_ids):
            alternatives = [
                (token_text(tokenizer, other), probability)
                for other, probability in zip(
                    top_ids[position].tolist(), top_probs[position].tolist(), strict=True
                )
            ]
            probability = probs[position, token].item()
            result.append(TokenProbs(token_text(tokenizer, token), probability, alternatives))
        return result


def reply_end_reason(num_tokens: int, room: int, args: ModelArgs) -> str:
    """Return why a reply ended after `num_tokens` tokens, where the context had room for `room`."""
    if num_tokens >= min(args.max_length, room):
        if room < args.max_length:
            return "the context is full"
        return "reached --max_length"

    if args.stop:
        return ENDED_OR_STOPPED
    return ENDED_WITH_EOS


def check_prompt(prompt: str) -> None:
    """Raise UserError if the prompt is empty or longer than the page accepts."""
    if not prompt.strip():
        raise UserError("The text is empty: write something first.")
    if len(prompt) > MAX_PROMPT_CHARS:
        raise UserError(
            f"The text has {len(prompt):,} characters, the limit is {MAX_PROMPT_CHARS:,}: shorten it."
        )


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of one token; one that ends a reply has no text of its own and is shown as ⟨end⟩."""
    if token in tokenizer.stop_ids:
        return "⟨end⟩"
    return tokenizer.decode([token])
