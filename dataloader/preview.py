"""Preview of a prepared row: tokens with loss in green, the others gray, truncated parts marked in red."""

import os
from pathlib import Path

import numpy as np

from dataloader.packing import truncate_to_context
from dataprep.shards import TokenDataset, read_meta
from runtime.errors import UserError
from tokenizer import Tokenizer, load_tokenizer

GREEN = "\x1b[32m"
GRAY = "\x1b[90m"
RED = "\x1b[31m"
PLAIN = "\x1b[0m"

MAX_SHOWN = 4096  # tokens of one text


def show(folder: Path, split: str, row: int, block_size: int | None) -> str:
    """Return row `row`, from 1, of a split for a terminal: a text, a conversation, or both answers of a pair.

    With a block_size, red marks stand where training truncates. Raises UserError past the last row.
    """
    meta = read_meta(folder)
    dataset = TokenDataset(folder, split, meta)
    tokenizer = load_tokenizer(folder / "tokenizer")

    # Document 2i of preference data is the chosen, 2i + 1 the rejected answer of pair i.
    labels = [""]
    if meta["kind"] == "preference":
        labels = ["chosen: ", "rejected: "]

    rows = dataset.documents // len(labels)
    if row > rows:
        raise UserError(
            f"--row {row}: the {split} set of {folder} has {rows:,} rows: choose a smaller number"
        )

    first = (row - 1) * len(labels)
    documents = [dataset.document(first + number) for number in range(len(labels))]

    # Truncate positions in place of ids, so that the tokens missing on either side can be counted.
    kept = [(np.arange(len(ids)), loss_mask) for ids, loss_mask in documents]
    if block_size and meta["kind"] != "text":
        kept = truncate_to_context(kept, block_size + 1)

    lines = [f"row {row:,} of {rows:,}, {split} set of {folder} ({meta['kind']})"]
    for label, (ids, _), (positions, loss_mask) in zip(labels, documents, kept, strict=True):
        positions = positions[:MAX_SHOWN]
        loss_mask = loss_mask[:MAX_SHOWN]
        before = int(positions[0])
        after = len(ids) - 1 - int(positions[-1])

        lines.append(f"{label}{len(ids):,} tokens, loss on {int(loss_mask.sum()):,} of those below")
        lines.append(_gap(before) + _colored_text(ids[positions], loss_mask, tokenizer) + _gap(after))
    return "\n".join(lines)


def _colored_text(ids: np.ndarray, loss_mask: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return the text of ids (T,), colored by the loss mask (T,)."""
    changes = np.flatnonzero(np.diff(loss_mask)) + 1
    text = ""
    for stretch in np.split(np.arange(len(ids)), changes):
        color = GREEN if loss_mask[stretch[0]] else GRAY
        decoded = tokenizer.hf.decode(ids[stretch].tolist(), skip_special_tokens=False)
        text += _colored(decoded, color)
    return text


def _gap(tokens: int) -> str:
    """Return the red mark of tokens that are not shown, nothing for none."""
    if tokens == 0:
        return ""
    return _colored(f"[... {tokens:,} tokens ...]", RED)


def _colored(text: str, color: str) -> str:
    """Return a text in a color, or plain where NO_COLOR is set."""
    if "NO_COLOR" in os.environ:
        return text
    return color + text + PLAIN
