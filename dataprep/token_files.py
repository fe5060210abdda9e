"""Token files of datatrove: NAME.ds with the token ids, uint16 or uint32, and NAME.ds.index with the document ends."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime.errors import UserError
from tokenizer import Tokenizer

INDEX = ".index"  # uint64, the position after the last token of each document
METADATA = ".metadata"  # "tokenizer|bytes of a token", then the number of tokens
LOSS = ".loss"  # a mask for each token
COMPANIONS = (INDEX, METADATA, LOSS)
SAMPLE = 1000  # documents whose last token is compared with the tokenizer's


def read_ends(path: str) -> np.ndarray:
    """Return the position after the last token of each document (N,). Raises UserError for an incomplete file."""
    index = Path(path + INDEX)
    if not index.is_file():
        raise UserError(
            f"{path} has no {index.name} beside it: write it with save_index=True, as datatrove does"
        )
    if Path(path + LOSS).exists():
        raise UserError(
            f"{path} has a mask of what is learned in {path + LOSS}, which is not read: move it away"
        )

    size = Path(path).stat().st_size
    ends = np.fromfile(index, "<u8") if index.stat().st_size % 8 == 0 else np.empty(0)
    is_sorted = len(ends) > 0 and bool((np.diff(ends.astype(np.int64)) >= 0).all())
    if not is_sorted or size not in (2 * int(ends[-1]), 4 * int(ends[-1])):
        raise UserError(
            f"{path} and {index.name} do not belong together, or one was cut short: copy both again"
        )
    return ends.astype(np.int64)


def read_tokens(path: str, ends: np.ndarray) -> np.ndarray:
    """Return the token ids (T,) of a file as a memory map."""
    width = Path(path).stat().st_size // int(ends[-1])
    return np.memmap(path, f"<u{width}", "r")


def iter_token_documents(
    path: str, start: int, stop: int, tokenizer: Tokenizer
) -> Iterator[tuple[np.ndarray, str]]:
    """Yield (ids (T,), key for the split) of documents start .. stop; the end-of-text token ends each.

    Raises UserError where another tokenizer than this one has written them.
    """
    ends = read_ends(path)
    tokens = read_tokens(path, ends)
    _check_end(path, tokens, ends[:SAMPLE], tokenizer)

    bounds = np.concatenate([[0], ends])[start : stop + 1]
    for first, last in zip(bounds, bounds[1:], strict=False):
        ids = tokens[first:last].astype(np.uint32)
        if not len(ids):
            continue
        if int(ids.max()) >= tokenizer.vocab_size:
            raise UserError(
                f"{path} holds token {int(ids.max()):,}, and the tokenizer has {tokenizer.vocab_size:,}: "
                f"{_advice(path)}"
            )
        key = hashlib.blake2b(ids.data, digest_size=16).hexdigest()
        if ids[-1] != tokenizer.eos_id:
            ids = np.append(ids, np.uint32(tokenizer.eos_id))
        yield ids, key


def _check_end(path: str, tokens: np.ndarray, ends: np.ndarray, tokenizer: Tokenizer) -> None:
    """Raise UserError where the token that is at the end of all documents, and nowhere else, is not the tokenizer's."""
    last_tokens = tokens[ends - 1]
    end = int(last_tokens[0])
    is_end = (
        len(ends) > 1
        and (last_tokens == end).all()
        and np.count_nonzero(tokens[: ends[-1]] == end) == len(ends)
    )
    if is_end and end != tokenizer.eos_id:
        raise UserError(
            f"the documents of {path} end with token {end:,}, and the end-of-text token of the "
            f"tokenizer is {tokenizer.eos_id:,}: {_advice(path)}"
        )


def _advice(path: str) -> str:
    """Return what to do about a file of another tokenizer, which its metadata may name."""
    metadata = Path(path + METADATA)
    name = ""
    if metadata.is_file():
        name = metadata.read_text(encoding="utf-8", errors="replace").partition("\n")[0].rpartition("|")[0]
    return f"give --tokenizer the one that wrote it{f', {name}' if name else ''}"
