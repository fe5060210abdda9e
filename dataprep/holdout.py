"""Validation split of a dataset whose documents all fell on one side, because it has few.

Usually a document's hash decides on its split (`in_validation` in dataprep/documents.py).
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataprep.shards import SPLITS, SplitWriter, id_dtype, part_files


class Piece(NamedTuple):
    """Token ids (T,) and loss mask (T,) of a document, or of the piece of it that is in one shard."""

    ids: np.ndarray
    loss_mask: np.ndarray
    is_complete: bool


# A text or a conversation is one piece; a preference pair is two.
Example = list[Piece]


def split_validation(
    folder: Path,
    shards: list[dict],
    kind: str,
    fraction: float,
    vocab_size: int,
    first_index: int,
    text_bytes: Callable[[np.ndarray], int],
) -> dict[str, list[dict]]:
    """Make a validation split when hashing put every document on the same side (few documents).

    The last `fraction` of the tokens is held out. Equal texts (or equal prompts) stay on one side. A text at the
    boundary is cut; conversations and pairs are not. Writes new shards numbered from `first_index`; the old ones stay
    until the dataset is committed. `text_bytes` returns the bytes of the text of some ids.
    """
    dtype = id_dtype(vocab_size)
    bounds = _distinct_bounds(_iter_examples(folder, shards, kind, dtype), kind)
    total = max(stop for _, stop in bounds.values())
    boundary = total - round(total * fraction)

    splits: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for index, shard in enumerate(shards, first_index):
        writer = SplitWriter(folder, index, vocab_size, kind)
        for example in _iter_examples(folder, [shard], kind, dtype):
            start, stop = bounds[_example_key(example, kind)]
            if kind == "text":
                _write_text(writer, example[0], boundary - start, text_bytes)
            else:
                split = "train" if start == 0 or stop <= boundary else "val"
                for ids, loss_mask, is_complete in example:
                    writer.add(split, ids, loss_mask, text_bytes(ids[loss_mask > 0]), is_complete)

        for split, entry in writer.close().items():
            if entry["tokens"]:
                splits[split].append(entry)
    return splits


def _write_text(
    writer: SplitWriter, piece: Piece, boundary: int, text_bytes: Callable[[np.ndarray], int]
) -> None:
    """Write a text to train up to the boundary, counted from its first token, and to val from there."""
    cut = min(max(boundary, 0), len(piece.ids))
    train_ids = piece.ids[:cut]
    val_ids = piece.ids[cut:]
    if len(train_ids):
        # The last document of train ends at the boundary, whether or not its text continues in val.
        is_complete = piece.is_complete or boundary <= len(piece.ids)
        writer.add("train", train_ids, None, text_bytes(train_ids), is_complete)
    if len(val_ids):
        writer.add("val", val_ids, None, text_bytes(val_ids), piece.is_complete)


def _distinct_bounds(examples: Iterator[Example], kind: str) -> dict[bytes, tuple[int, int]]:
    """Return (start, stop) in tokens of each distinct example, laid one after the other in order of appearance."""
    bounds: dict[bytes, tuple[int, int]] = {}
    start = 0
    for example in examples:
        key = _example_key(example, kind)
        if key not in bounds:
            stop = start + sum(len(piece.ids) for piece in example)
            bounds[key] = (start, stop)
            start = stop
    return bounds


def _iter_examples(folder: Path, shards: list[dict], kind: str, dtype: type) -> Iterator[Example]:
    """Yield what stays together: a document, or a pair. Only the last text of a shard may be incomplete."""
    size = 2 if kind == "preference" else 1
    for shard in shards:
        files = part_files(shard)
        ids = np.fromfile(folder / files["tokens"], dtype)
        document_ends = np.fromfile(folder / files["ends"], np.int64)
        if "keep" in files:
            loss_mask = np.fromfile(folder / files["keep"], np.uint8)
        else:
            loss_mask = np.ones_like(ids, np.uint8)

        pieces = [
            Piece(piece_ids, piece_mask, is_complete=number < len(document_ends))
            for number, (piece_ids, piece_mask) in enumerate(
                zip(np.split(ids, document_ends), np.split(loss_mask, document_ends), strict=True)
            )
            if len(piece_ids)
        ]
        for first in range(0, len(pieces), size):
            yield pieces[first : first + size]


def _example_key(example: Example, kind: str) -> bytes:
    """Return the hash of a text, or of the prompt of a conversation or pair."""
    ids, loss_mask, _ = example[0]
    if kind != "text":
        ids = ids[: loss_mask.argmax()]
    return hashlib.blake2b(ids.tobytes(), digest_size=16).digest()
