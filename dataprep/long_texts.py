"""Token ids of a text of any length in bounded memory.

A tokenizer needs up to 200 bytes of memory for each byte of a text, so a long one is encoded piece by piece.
"""

import re

import numpy as np

from tokenizer import Tokenizer

PIECE_CHARACTERS = 1 << 20
# Pre-tokenizers of byte-level tokenizers cut there whatever follows, so the pieces have the tokens of the text.
CUT = re.compile(r"(?<=\S)(?=\s)")


def encode_text(text: str, tokenizer: Tokenizer, ends: bool) -> np.ndarray:
    """Return the token ids (T,) of a text; with `ends`, the end-of-text token follows."""
    last = [tokenizer.eos_id] if ends else []
    if len(text) <= PIECE_CHARACTERS:
        return np.array(tokenizer.encode(text) + last, np.uint32)

    pieces = []
    start = 0
    while start < len(text):
        cut = CUT.search(text, start + PIECE_CHARACTERS)
        stop = cut.start() if cut else len(text)
        pieces.append(tokenizer.encode_array(text[start:stop]))
        start = stop
    return np.concatenate([*pieces, np.array(last, np.uint32)])
