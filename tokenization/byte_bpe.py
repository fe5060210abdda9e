"""Ranked byte-level BPE: tokens as bytes, their ranks as ids, and the same tokenizer for Hugging Face's library."""

import json
import re

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from config import EOS

# tiktoken's stack overflows in white space of a million characters; longer runs than this go through
# tokenizers.
LONG_SPACE = 500_000

# GPT-2's pre-tokenizer, written for tiktoken; it cuts a text where tokenizers' ByteLevel does.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def has_long_space(text: str) -> bool:
    """Return True if a text has a run of white space that tiktoken cannot encode."""
    if len(text) <= LONG_SPACE:
        return False
    # The look-behind lets the search begin only at the start of a run: without it the time would be
    # quadratic.
    return re.search(rf"(?<!\s)\s{{{LONG_SPACE}}}", text) is not None


def ranked_bpe(ranks: dict[bytes, int]) -> tokenizers.Tokenizer:
    """Return the ranks as a tokenizer of Hugging Face's library, with the end-of-text token added."""
    model = models.BPE(
        vocab={to_text(token): rank for token, rank in ranks.items()},
        merges=[(to_text(left), to_text(right)) for left, right in _merges(ranks)],
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


def ranks_of(hf: tokenizers.Tokenizer) -> dict[bytes, int] | None:
    """Return the ranks of a tokenizer of from_ranks; None for any other: tiktoken might give other ids."""
    content = bare_json(hf)
    vocabulary = json.loads(content)["model"]["vocab"]
    if not isinstance(vocabulary, dict):
        return None

    characters = set(map(ord, "".join(vocabulary)))
    if not characters <= TO_BYTE.keys():
        return None

    ranks = {to_bytes(token): rank for token, rank in vocabulary.items()}
    if not all(bytes([byte]) in ranks for byte in range(256)):
        return None
    if ranked_bpe(ranks).to_str() != content:
        return None
    return ranks


def bare_json(hf: tokenizers.Tokenizer) -> str:
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


def to_text(token: bytes) -> str:
    """Return a token in GPT-2's alphabet."""
    return token.decode("latin-1").translate(TO_TEXT)


def to_bytes(token: str) -> bytes:
    """Return the bytes of a token in GPT-2's alphabet."""
    return token.translate(TO_BYTE).encode("latin-1")
