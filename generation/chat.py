"""Models that write text: the model of a stage, a conversation as token ids, the reply as text.

The stage in a model folder's config.json decides: base models continue a text, fine-tuned ones answer in the
prompt template.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from checkpoint import find_model, find_or_download, load_end_ids, load_model
from config import ModelArgs
from generation.generate import SamplingParams, generate
from model import Llama
from modelfiles.llama_config import own_metadata
from runtime.errors import UserError
from tokenization.guest_files import read_files, read_template
from tokenization.guest_template import RefusedByTemplate
from tokenization.prompt_template import LEGACY_PROMPT
from tokenizer import Tokenizer

INSTRUCT_STAGES = ("S", "D")
STAGE_OF_MODEL_TYPE = {"pretrained": "P", "sft": "S", "dpo": "D"}
Messages = Sequence[Mapping[str, str]]  # {"role": system | user | assistant, "content"}
MIN_ROOM_SHARE = 1 / 8  # of the context, that a prompt leaves to the reply


class Prompt(NamedTuple):
    """Conversation as token ids: without its `dropped` oldest turns; `turns` are those that are left."""

    ids: list[int]
    dropped: int = 0
    turns: Messages = ()
    raw: bool = False


class ReplyPiece(NamedTuple):
    """Next piece of a reply: its text, which may be empty, and the ids of all tokens so far (a growing list).

    `room` is the most tokens that the reply can have in the context, after `dropped` of its oldest turns were dropped.
    """

    text: str
    out_ids: list[int]
    room: int
    dropped: int = 0


@dataclass(frozen=True)
class ChatModel:
    """Model that is ready to write, with the letter of the stage that trained it (None: another program did)."""

    model: Llama
    tokenizer: Tokenizer
    stage: str | None
    end_ids: Sequence[int] = ()  # of generation_config.json

    @property
    def stop_ids(self) -> list[int]:
        """Return the tokens that end what the model writes, by its tokenizer and by its generation_config.json."""
        return list(dict.fromkeys([*self.tokenizer.stop_ids, *self.end_ids]))

    @property
    def is_instruct(self) -> bool:
        """Return True if the model is trained to answer; others continue a text.

        Of a model of another program its folder's chat template says so.
        """
        if self.stage is None:
            return self.tokenizer.has_own_template
        return self.stage in INSTRUCT_STAGES

    def encode(self, messages: Messages, raw: bool = False) -> list[int]:
        """Return the token ids of a conversation that ends with the user's turn.

        A base model, or any model where `raw`, gets the text without the prompt template.

        Raises UserError for a text that UTF-8 cannot encode, and for turns that the chat template refuses.
        """
        for message in messages:
            check_text(message["content"])
        if raw or not self.is_instruct:
            return self.tokenizer.encode_prompt(join_turns(messages))

        # The published weights were trained on single questions only.
        if self.model.legacy:
            return self.tokenizer.encode(LEGACY_PROMPT.format(messages[-1]["content"].strip()))

        try:
            ids, _ = self.tokenizer.render(messages)
        except RefusedByTemplate as error:
            if messages[0]["role"] != "system":
                raise
            raise UserError(f"{error}: drop the system turn (--system; /system alone in a chat)") from None
        return ids

    def build_prompt(
        self, messages: Messages, max_length: int, raw: bool = False, num_reply_tokens: int = 0
    ) -> Prompt:
        """Return the prompt of a conversation, without its oldest turns where they leave too little room.

        A reply that has begun with num_reply_tokens gets room for max_length tokens more, at most MIN_ROOM_SHARE of
        the context: stream_reply makes more room when it is needed. A system message is never dropped.

        Raises UserError when the last turn alone does not fit.
        """
        context = self.model.args.block_size
        room = min(max_length, int(context * MIN_ROOM_SHARE))

        system = list(messages[:1]) if messages[0]["role"] == "system" else []
        turns = list(messages[len(system) :])
        dropped = 0

        ids = self.encode(system + turns, raw)
        while len(ids) + num_reply_tokens > context - room and len(turns) > 2:
            turns = turns[2:]  # a question and its answer
            dropped += 2
            ids = self.encode(system + turns, raw)

        if len(ids) >= context:
            raise UserError(
                f"the prompt has {len(ids)} tokens; the context holds {context}, the answer included: "
                "shorten the prompt"
            )
        return Prompt(ids, dropped, system + turns, raw)

    def stream_reply(self, prompt: Prompt, args: ModelArgs) -> Iterator[ReplyPiece]:
        """Yield the reply to a prompt, a piece for each token, up to a stop string, EOS or --max_length.

        Where the context is full before, the oldest turns are dropped and the reply continues. A piece has no text
        while its token is a part of a character or may begin a stop string; such text comes with a later piece.
        """
        continues_text = prompt.raw or not self.is_instruct
        next_text = self.tokenizer.stream_decoder(prompt.ids if continues_text else ())
        out_ids: list[int] = []
        room = dropped = 0
        held_text = ""  # not shown yet: it may begin a stop string

        for token, room, dropped in self._stream_tokens(prompt, args):
            out_ids.append(token)
            text, held_text, stopped = stop_at(held_text + (next_text(token) or ""), args.stop)
            yield ReplyPiece(text, out_ids, room, dropped)
            if stopped:
                return

        if held_text:
            yield ReplyPiece(held_text, out_ids, room, dropped)

    def _stream_tokens(self, prompt: Prompt, args: ModelArgs) -> Iterator[tuple[int, int, int]]:
        """Yield (token of the reply, most tokens that it can have, turns dropped), making room in a full context."""
        context = self.model.args.block_size
        params = sampling_params(args)
        out_ids: list[int] = []
        dropped = prompt.dropped
        while True:
            room = context - len(prompt.ids)
            left = args.max_length - len(out_ids)
            for token in generate(self.model, prompt.ids + out_ids, left, self.stop_ids, params):
                out_ids.append(token)
                yield token, room, dropped

            # A beam search chooses its text as one, so it cannot be continued.
            is_full = len(out_ids) == room < args.max_length
            if not is_full or params.num_beams > 1 or len(prompt.turns) <= 2:
                return
            shorter = self.build_prompt(
                prompt.turns, args.max_length - len(out_ids), prompt.raw, len(out_ids)
            )
            if not shorter.dropped or len(shorter.ids) + len(out_ids) >= context:
                return
            prompt = shorter
            dropped += shorter.dropped
            params = dataclasses.replace(params, seed=args.seed + len(out_ids))


def check_text(text: str) -> None:
    """Raise UserError for a text with bytes that are no UTF-8, or with half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{text[:40]!r} holds bytes that are no UTF-8: convert it with iconv -t utf-8"
        ) from None


def sampling_params(args: ModelArgs) -> SamplingParams:
    """Return the settings that generate chooses tokens by."""
    names = [field.name for field in dataclasses.fields(SamplingParams)]
    return SamplingParams(**{name: getattr(args, name) for name in names})


def stop_at(text: str, stop_strings: Sequence[str]) -> tuple[str, str, bool]:
    """Split new text into (text to show, text that may begin a stop string, True at a stop string)."""
    starts = [text.index(stop) for stop in stop_strings if stop in text]
    if starts:
        return text[: min(starts)], "", True

    # Find the longest end of the text that a stop string begins with.
    held = 0
    for stop in stop_strings:
        for size in range(1, len(stop)):
            if text.endswith(stop[:size]):
                held = max(held, size)

    cut = len(text) - held
    return text[:cut], text[cut:], False


def join_turns(messages: Messages) -> str:
    """Return the turns of a conversation as one text, for a model that continues text."""
    text = ""
    for message in messages:
        content = message["content"]
        # The model's own turns follow without a space: its tokens bring one where it belongs.
        needs_space = message["role"] == "user" and text and not text[-1].isspace()
        if needs_space and not content[:1].isspace():
            text += " "
        text += content
    return text


def load_chat_model(folder: Path) -> ChatModel:
    """Load the model in a folder and the stage that trained it. Raises UserError when it cannot be used."""
    model, tokenizer = load_model(folder)
    return ChatModel(model, tokenizer, stage_of(folder), load_end_ids(folder))


def answers(folder: Path) -> bool:
    """Return True if the model in a folder is trained to answer, without loading it; others continue a text.

    Of a model of another program its folder's chat template says so.
    """
    stage = stage_of(folder)
    if stage is None:
        return read_template(read_files(folder)) is not None
    return stage in INSTRUCT_STAGES


def stage_of(folder: Path) -> str | None:
    """Return the letter of the stage that trained the model in a folder; None if its config.json has none."""
    stage = own_metadata(folder).get("stage")
    return stage if isinstance(stage, str) else None


def choose_model(name: str | None, args: ModelArgs) -> Path:
    """Return the model folder for a stage (pretrained, sft, dpo) or a folder; without a name, the newest run.

    For a stage it is the newest run under --save_checkpoint_dir, or else the newest download there.

    Raises UserError with the commands that make one when there is none.
    """
    if name is not None and name not in STAGE_OF_MODEL_TYPE:
        return find_or_download(name, args.save_checkpoint_dir)

    stage = STAGE_OF_MODEL_TYPE.get(name)
    checkpoint_dir = Path(args.save_checkpoint_dir)
    runs = _newest_first(checkpoint_dir, "*/latest")
    downloads = _newest_first(checkpoint_dir, "*/config.json")

    for path in runs + downloads:
        with suppress(UserError):  # skip a run that is broken
            folder = find_model(path.parent)
            if stage is None or stage == stage_of(folder):
                return folder

    train = f"python trainer.py --train {stage or 'P'}"
    if stage in ("S", "D"):
        train += " --init_from RUN"
    raise UserError(
        f"no {name or 'model'} in {checkpoint_dir}: train one with {train} "
        "(bash install.sh quickstart trains all three), get the published one with "
        f"python download_model_weight.py --model_type {name or 'pretrained'}, or give --model FOLDER"
    )


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a pattern, the latest modified first."""
    return sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
