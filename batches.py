"""From prepared data to batches: rows by number, their order by (seed, epoch), and a position that is one integer."""

import hashlib
from collections.abc import Iterator

import numpy as np

from batch import Batch, collate
from config import IGNORE, UserError
from store import Store


class StreamRows:
    """The documents as one stream, cut into rows of T tokens; each epoch cuts at other places.

    A token attends to its own document only: what stands before it in the row is another text. On the story world a
    model that saw it all had a loss of 0.72 instead of 0.56 after the same tokens (benchmarks/LOG.md).
    """

    def __init__(self, store: Store, T: int, seed: int):
        if len(store) <= T:
            raise UserError(f"the {store.split} set in {store.folder} holds {len(store):,} tokens, fewer than one row "
                            f"of --block_size {T} + 1: choose a smaller block_size or prepare more text")
        self.store, self.T, self.seed = store, T, seed

    def __len__(self) -> int:
        """Rows in an epoch."""
        return len(self.store) // self.T

    def __getitem__(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, labels and document ids (T,) of row n, of all epochs; the stream's end is followed by its start."""
        epoch, place = divmod(n, len(self))
        offset = keyed_hash(self.seed, epoch) % self.T if epoch else 0
        place = shuffled(place, len(self), keyed_hash(self.seed, epoch, "order"))
        row = self.store.read(offset + place * self.T, self.T + 1)
        return row[:-1], row[1:], documents(row[:-1], self.store)


class Loader:
    """Endless batches of B rows; all ranks together take B x world rows of the one order at a time."""

    def __init__(self, rows: StreamRows, batch_size: int, rank: int, world_size: int, cursor: int = 0):
        self.rows, self.batch_size, self.rank, self.world_size = rows, batch_size, rank, world_size
        self.cursor = cursor  # rows that all ranks together have taken: the whole position in the data

    def next(self) -> Batch:
        """This rank's share of the next rows."""
        first = self.cursor + self.rank * self.batch_size
        self.cursor += self.batch_size * self.world_size
        return collate([self.rows[n] for n in range(first, first + self.batch_size)])


def validation_batches(store: Store, T: int, batch_size: int, rank: int, world_size: int,
                       limit: int | None = None) -> Iterator[Batch]:
    """This rank's share of the validation rows: all of them, or `limit` rows spread evenly over the set.

    Rows are cut from the start of the stream, each label belongs to one row, and the last row is filled up with labels
    that are ignored: a whole evaluation counts every token but the first exactly once, on any number of ranks.
    """
    if len(store) < 2:
        raise UserError(f"the {store.split} set in {store.folder} holds {len(store)} tokens: nothing to evaluate on")
    total = -(-(len(store) - 1) // T)
    wanted = total if limit is None else min(total, limit)
    numbers = [i * total // wanted for i in range(wanted)]
    for first in range(0, wanted, batch_size * world_size):
        own = numbers[first + rank * batch_size:first + (rank + 1) * batch_size]
        # Every rank takes part in every round; one without rows of its own gets a row of which nothing counts.
        yield collate([_validation_row(store, n * T, T) for n in own] or [_validation_row(store, len(store) - 1, T)])


def _validation_row(store: Store, start: int, T: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row = store.read(start, min(T + 1, len(store) - start))
    missing = T + 1 - len(row)
    tokens = np.pad(row[:-1], (0, missing))
    return tokens, np.pad(row[1:], (0, missing), constant_values=IGNORE), documents(tokens, store)


def documents(tokens: np.ndarray, store: Store) -> np.ndarray:
    """The number of the document within the row (T,) that each token (T,) belongs to; a document ends with its EOS."""
    ended = np.cumsum(tokens == store.meta["tokenizer"]["eos_id"])
    return np.concatenate([[0], ended[:-1]])


def keyed_hash(*key: object) -> int:
    """A 64-bit number that is a function of the key alone."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def shuffled(n: int, size: int, key: int) -> int:
    """Where n stands in a random order of range(size) named by key: a bijection that needs no memory.

    A four-round Feistel network on the next power of four, walked on until it lands inside the range
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
    """
    half = max(1, (size - 1).bit_length() + 1 >> 1)
    mask = (1 << half) - 1
    while True:
        left, right = n >> half, n & mask
        for turn in range(4):
            mixed = (right + 1) * 0x9E3779B97F4A7C15 + (key >> 16 * turn | key << 64 - 16 * turn)
            mixed = (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ mixed >> 32 & mask
        n = left << half | right
        if n < size:
            return n
