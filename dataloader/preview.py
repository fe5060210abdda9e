"""A prepared row as a person can check it: what is learned in green, ends of text and cuts visible."""

import os
from pathlib import Path

import numpy as np

from dataloader.loader import truncate_to_context
from dataprep.shards import TokenDataset, read_meta
from runtime.errors import UserError
from tokenizer import Tokenizer, load_tokenizer

GREEN, GRAY, RED, PLAIN = "\x1b[32m", "\x1b[90m", "\x1b[31m", "\x1b[0m"
WIDEST = 4096  # tokens of one text that are shown


def show(folder: Path, split: str, row: int, block_size: int | None) -> str:
    """Row `row`, from 1, of a split: a text, a conversation, or the answers of a pair. Raises UserError past the end.

    Learned tokens are green, the others gray; with a block_size, marks in red tell what training leaves out.
    """
    meta = read_meta(folder)
    store, tokenizer = TokenDataset(folder, split, meta), load_tokenizer(folder / "tokenizer")
    names = ("chosen: ", "rejected: ") if meta["kind"] == "preference" else ("",)
    rows = store.documents // len(names)
    if row > rows:
        raise UserError(f"--row {row}: the {split} set of {folder} has {rows:,} rows")
    lines = [f"row {row:,} of {rows:,}, {split} set of {folder} ({meta['kind']})"]
    texts = [store.document((row - 1) * len(names) + n) for n in range(len(names))]
    places = [(np.arange(len(ids)), keep) for ids, keep in texts]
    if block_size and meta["kind"] != "text":
        places = truncate_to_context(places, block_size + 1)
    for name, (ids, _), (left, keep) in zip(names, texts, places, strict=True):
        left, keep = left[:WIDEST], keep[:WIDEST]
        lines.append(f"{name}{len(ids):,} tokens, {int(keep.sum()):,} of those below learned")
        lines.append(_cut(left[0]) + _painted(ids[left], keep, tokenizer) + _cut(len(ids) - 1 - left[-1]))
    return "\n".join(lines)


def _painted(ids: np.ndarray, keep: np.ndarray, tokenizer: Tokenizer) -> str:
    """The text of ids (T,), run by run of what is learned and what is not."""
    runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(keep)) + 1)
    return "".join(
        _colored(
            tokenizer.hf.decode(ids[run].tolist(), skip_special_tokens=False), GREEN if keep[run[0]] else GRAY
        )
        for run in runs
    )


def _cut(tokens: int) -> str:
    return _colored(f"[... {tokens:,} tokens ...]", RED) if tokens else ""


def _colored(text: str, color: str) -> str:
    return text if "NO_COLOR" in os.environ else color + text + PLAIN
