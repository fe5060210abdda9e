"""Token ids of a text of any length in bounded memory.

A tokenizer needs up to 200 bytes of memory for each byte of a text, so a long one is encoded piece by piece.
"""

import itertools
import re

import numpy as np

from tokenizer import Tokenizer

PIECE_CHARACTERS = 1 << 20
# Pre-tokenizers of byte-level tokenizers cut there whatever follows, so the pieces have the tokens of the text.
CUT = re.compile(r"(?<=\S)(?=\s)")
# Other tokenizers may have a token that spans such a place; where they have none, they have none in the text either.
CONTEXT = 64  # characters on either side that decide on this
MAX_TRIES = 1000  # cuts that are tried before a cut inside a token is accepted
LETTER = "a"  # context of a text whose start is elsewhere


def encode_text(text: str, tokenizer: Tokenizer, ends: bool, continues: bool = False) -> np.ndarray:
    """Return the token ids (T,) of a text, after those that begin a text; with `ends`, the end-of-text token follows.

    A text that continues an earlier piece has neither these nor the blank that some tokenizers put before a text.
    """
    first = [] if continues else tokenizer.begin_ids
    last = [tokenizer.eos_id] if ends else []
    context = LETTER if continues else ""
    if len(text) <= PIECE_CHARACTERS:
        return np.array(first + tokenizer.encode_after(context, text) + last, np.uint32)

    pieces = [np.array(first, np.uint32)]
    start = 0
    while start < len(text):
        stop = _next_cut(text, start + PIECE_CHARACTERS, tokenizer)
        pieces.append(np.array(tokenizer.encode_after(context, text[start:stop]), np.uint32))
        context = text[max(0, stop - CONTEXT) : stop]
        start = stop
    return np.concatenate([*pieces, np.array(last, np.uint32)])


def _next_cut(text: str, position: int, tokenizer: Tokenizer) -> int:
    """Return the next place from a position on where a text can be cut between two tokens, or its end."""
    cuts = [match.start() for match in itertools.islice(CUT.finditer(text, position), MAX_TRIES)]
    if tokenizer.fast is None:
        for cut in cuts:
            before = text[max(0, cut - CONTEXT) : cut]
            if tokenizer.begins_token(before, text[cut : cut + CONTEXT]):
                return cut
    return cuts[0] if cuts else len(text)
