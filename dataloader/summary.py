"""Counts and lengths of a split of a prepared dataset, as lines for a terminal."""

import numpy as np

from dataprep.shards import TokenDataset, part_files

NOUNS = {"text": "documents", "instruct": "conversations", "preference": "answers"}
QUANTILES = {"shortest": 0.0, "10%": 0.1, "half": 0.5, "90%": 0.9, "99%": 0.99, "longest": 1.0}
MAX_BAR = 40  # characters of the longest bar of the histogram


def summary(dataset: TokenDataset, block_size: int | None) -> list[str]:
    """Return the lines that describe a split; with a block_size, one says how much training truncates."""
    kind = dataset.meta["kind"]
    lengths = np.diff(dataset.document_bounds)
    counts = f"{len(lengths):,} {NOUNS[kind]}"
    if kind == "preference":
        counts = f"{len(lengths) // 2:,} pairs"

    learned = dataset.num_loss_tokens
    line = f"{dataset.split} set: {counts}, {len(dataset):,} tokens"
    if kind != "text":
        line += (
            f"; loss on {learned:,} of them ({learned / len(dataset):.0%}) in {_responses(dataset):,} turns"
        )
    per_token = dataset.bytes / max(1, learned)
    lines = [f"{line}; {per_token:.2f} bytes of text a token{' with loss' if kind != 'text' else ''}"]

    if note := _truncation(lengths, kind, block_size):
        lines.append(note)
    for reason, count in dataset.meta.get("left_out", {}).items():
        lines.append(f"left out of both sets when prepared: {count:,} rows: {reason}")
    return [*lines, *length_lines(lengths, NOUNS[kind])]


def length_lines(lengths: np.ndarray, noun: str) -> list[str]:
    """Return quantiles of lengths (N,) in tokens, and a histogram whose bars are ranges from one power of 2 on."""
    quantiles = np.quantile(lengths, list(QUANTILES.values()), method="nearest").astype(int)
    listed = ", ".join(f"{name} {value:,}" for name, value in zip(QUANTILES, quantiles, strict=True))
    lines = [f"tokens of {noun}: {listed}"]

    powers = np.log2(np.maximum(lengths, 1)).astype(int)
    counts = np.bincount(powers)
    for power in range(int(powers.min()), len(counts)):
        bar = "#" * -(-int(counts[power]) * MAX_BAR // int(counts.max()))
        lines.append(f"{2**power:>10,} - {2 ** (power + 1) - 1:<10,} {counts[power]:>10,} {bar}".rstrip())
    return lines


def _truncation(lengths: np.ndarray, kind: str, block_size: int | None) -> str | None:
    """Return the line that says how much is truncated to a block_size; None without one."""
    if not block_size:
        return None
    if kind == "text":
        return f"--block_size {block_size}: texts are one stream of tokens, so nothing is truncated"
    too_long = int((lengths > block_size + 1).sum())
    return f"--block_size {block_size}: {too_long:,} of {len(lengths):,} {NOUNS[kind]} are truncated (prompt first)"


def _responses(dataset: TokenDataset) -> int:
    """Return the number of turns with loss: stretches of the loss mask, which never span two documents."""
    turns = 0
    for shard in dataset.meta["splits"][dataset.split]:
        loss_mask = np.fromfile(dataset.folder / part_files(shard)["keep"], np.uint8)
        turns += int((np.diff(loss_mask, prepend=0) == 1).sum())
    return turns
