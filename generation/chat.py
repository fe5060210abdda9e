"""Who speaks and what it is told: the models of the stages, a conversation as token ids, the reply as text.

What a model's folder says of its stage decides: base models continue a text, fine-tuned ones answer in the template.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from checkpoint import find_model, load_model, read_config
from config import ModelArgs
from generation.generate import generate, sampling_params, until
from model import Llama
from runtime.errors import UserError
from tokenizer import LEGACY_PROMPT, Tokenizer

STAGES = {"pretrained": "P", "sft": "S", "dpo": "D"}
Messages = Sequence[Mapping[str, str]]  # {"role": system | user | assistant, "content"}


@dataclass(frozen=True)
class ChatModel:
    """A model that is ready to write, and the letter of the stage that trained it (None: not known)."""

    model: Llama
    tokenizer: Tokenizer
    stage: str | None

    @property
    def answers(self) -> bool:
        """Whether it has learned to answer; else it continues a text."""
        return self.stage in ("S", "D")

    def ids(self, messages: Messages, raw: bool = False) -> list[int]:
        """Token ids of a conversation that ends with the user's turn; no template for a base model or where `raw`."""
        if raw or not self.answers:
            return self.tokenizer.encode(joined(messages)) or [self.tokenizer.eos_id]
        if self.model.legacy:  # it has learned single questions only
            return self.tokenizer.encode(LEGACY_PROMPT.format(messages[-1]["content"].strip()))
        return self.tokenizer.render(messages)[0]

    def prompt(self, messages: Messages, max_length: int, raw: bool = False) -> tuple[list[int], int]:
        """(ids of a conversation, how many of its oldest turns were left out so that a reply fits behind the others).

        The reply is given the room of max_length tokens, at most half of the context. A system's turn stays.
        Raises UserError when the last turn alone does not fit.
        """
        context = self.model.args.block_size
        system = list(messages[:1]) if messages[0]["role"] == "system" else []
        turns, room = list(messages[len(system) :]), context - min(max_length, context // 2)
        dropped = 0
        ids = self.ids(system + turns, raw)
        while len(ids) > room and len(turns) > 2:
            turns, dropped = turns[2:], dropped + 2  # a question and its answer
            ids = self.ids(system + turns, raw)
        if len(ids) >= context:
            raise UserError(
                f"the prompt has {len(ids)} tokens; the context holds {context}, the answer included"
            )
        return ids, dropped

    def reply(self, ids: list[int], args: ModelArgs, made: list[int]) -> Iterator[str]:
        """Yield the text that follows the ids, piece by piece; its tokens are appended to `made` as they come."""

        def kept(tokens: Iterable[int]) -> Iterator[int]:
            for token in tokens:
                made.append(token)
                yield token

        tokens = generate(self.model, ids, args.max_length, self.tokenizer.eos_id, **sampling_params(args))
        return until(self.tokenizer.stream(kept(tokens)), args.stop)


def joined(messages: Messages) -> str:
    """The turns of a conversation as one text, for a model that continues text."""
    text = ""
    for message in messages:
        gap = (
            message["role"] == "user"
            and text
            and not text[-1].isspace()
            and not message["content"][:1].isspace()
        )
        text += " " * bool(gap) + message["content"]
    return text


def load_chat_model(folder: Path) -> ChatModel:
    """The model in a folder with what its config.json says of its stage. Raises UserError where it cannot be asked."""
    model, tokenizer = load_model(folder)
    if tokenizer.vocab_size > model.args.vocab_size:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, the model knows only "
            f"{model.args.vocab_size}: they do not belong together"
        )
    return ChatModel(model, tokenizer, stage_of(folder))


def stage_of(folder: Path) -> str | None:
    """The letter of the stage that trained the model in a folder; None where the folder does not say."""
    about = read_config(folder).get("smolllama")
    return about.get("stage") if isinstance(about, dict) else None


def choose_model(name: str | None, args: ModelArgs) -> Path:
    """The model folder that is meant: of a stage's name, or a folder; without a name the newest run.

    Under --save_checkpoint_dir the newest run of the stage is taken, else what was downloaded there.
    Raises UserError with the commands that make one when there is none.
    """
    if name is not None and name not in STAGES:
        return find_model(name)
    stage = STAGES.get(name)
    there = Path(args.save_checkpoint_dir)
    runs, downloads = (
        sorted(there.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
        for pattern in ("*/latest", "*/config.json")
    )
    for path in (*runs, *downloads):
        with suppress(UserError):  # one that is broken is not meant
            folder = find_model(path.parent)
            if stage in (None, stage_of(folder)):
                return folder
    train = f"python trainer.py --train {stage or 'P'}" + (" --init_from RUN" if stage in ("S", "D") else "")
    raise UserError(
        f"no {name or 'model'} in {there}: train one with {train} (bash install.sh quickstart trains all "
        f"three), get the published one with python download_model_weight.py --model_type "
        f"{name or 'pretrained'}, or give --model FOLDER"
    )
