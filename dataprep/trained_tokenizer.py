"""Byte-level BPE trained on the corpus that is being prepared: data.py --tokenizer bpe or bpe:SIZE."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from dataprep.documents import iter_documents
from dataprep.examples import DTYPE, group
from dataprep.holdout import choose, key_hash
from dataprep.ranges import FileRange
from dataprep.resplit import cut_examples
from dataprep.turns import AS_IT_IS, RowOptions
from runtime.errors import UserError
from runtime.progress import track
from tokenizer import Tokenizer, byte_level, train_bpe

NAME = "bpe"
MIN_SIZE = 257  # 256 bytes and the end-of-text token
SMALLEST = 512  # of the sizes that are chosen by the amount of text
LARGEST = 32768
MAX_TRAINING_BYTES = 64 << 20  # of a larger corpus, evenly spread parts are read


def is_trained(name: str | None) -> bool:
    """Return True if the name of a tokenizer asks for one that is trained here."""
    return name is not None and name.split(":")[0] == NAME


def vocabulary_size(name: str, corpus_bytes: int) -> int:
    """Return the size in `bpe:SIZE`, or one that suits the amount of text. Raises UserError for a wrong size.

    Twice the square root of the bytes, as a power of two: 512 tokens for 0.1 MB, 2,048 for 1 MB, 8,192 for 20 MB. A
    token of a larger vocabulary would be seen too rarely to be learned, and its embedding would outweigh the model.
    """
    _, colon, size = name.partition(":")
    if not colon:
        suitable = 2 ** round(math.log2(2 * math.sqrt(max(1, corpus_bytes))))
        return min(max(suitable, SMALLEST), LARGEST)
    if not size.isdecimal() or not MIN_SIZE <= int(size) <= 2**31:
        raise UserError(f"--tokenizer {name} needs a number of tokens from {MIN_SIZE} on, such as bpe:4096")
    return int(size)


def train(
    name: str, ranges: list[FileRange], kind: str, val_fraction: float, options: RowOptions = AS_IT_IS
) -> Tokenizer:
    """Train the tokenizer that `bpe` or `bpe:SIZE` names on the training documents of a corpus."""
    size = vocabulary_size(name, sum(file_range.bytes for file_range in ranges))
    texts = training_texts(ranges, kind, val_fraction, options)
    first = next(texts, None)
    if first is None:
        raise UserError(f"--tokenizer {name} has no text to be trained on: use gpt2, bytes or a folder")
    return train_bpe(track(itertools.chain([first], texts), "reading", "documents"), size)


def training_texts(
    ranges: list[FileRange], kind: str, val_fraction: float, options: RowOptions = AS_IT_IS
) -> Iterator[str]:
    """Yield the texts and rendered conversations of the training split, at most about MAX_TRAINING_BYTES.

    What is held out is chosen as the split chooses it (dataprep/holdout.py), but by bytes: tokens are not known yet.
    """
    read = byte_level()  # its ids are the bytes of the text
    texts: list[str] = []
    examples: list[tuple] = []
    for file_range in spread([each for each in ranges if each.split != "val"]):
        for document in iter_documents(file_range, kind, read, options):
            texts.append("".join(read.decode(ids) for ids, _, _ in document.token_parts))
            size = document.num_tokens
            examples.append((key_hash(document.split_key), size, size, False, document.is_complete))

    has_splits = any(file_range.split for file_range in ranges)
    if has_splits or not val_fraction or not examples:
        yield from texts
        return

    table = np.array(examples, DTYPE)
    choice = choose(group(table), kind, val_fraction)
    (unit,) = cut_examples([table], choice, kind, val_fraction)
    for text, cut, size in zip(texts, unit.cut.tolist(), table["tokens"].tolist(), strict=True):
        if cut >= size:
            yield text
        elif cut:
            yield text.encode()[:cut].decode("utf-8", "ignore")


def spread(ranges: list[FileRange]) -> list[FileRange]:
    """Return all ranges, or evenly spread ones of about MAX_TRAINING_BYTES together."""
    total = sum(file_range.bytes for file_range in ranges)
    parts = math.ceil(total / MAX_TRAINING_BYTES)
    return ranges[::parts] if parts > 1 else ranges
