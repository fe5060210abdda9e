"""From prepared data to batches: rows by number, their order by (seed, epoch), and a position that is one integer."""

import hashlib
from collections.abc import Iterator

import numpy as np

from config import IGNORE
from dataloader.batch import Batch, Row, collate
from dataprep.shards import TokenDataset
from runtime.errors import UserError


class StreamRows:
    """The documents as one stream, cut into rows of T tokens; each epoch cuts at other places.

    A token attends to its own document only: what stands before it in the row is another text. On the story world a
    model that saw it all had a loss of 0.72 instead of 0.56 after the same tokens (benchmarks/LOG.md).
    """

    def __init__(self, store: TokenDataset, T: int, seed: int):
        if len(store) <= T:
            raise UserError(
                f"the {store.split} set in {store.folder} holds {len(store):,} tokens, fewer than one row "
                f"of --block_size {T} + 1: choose a smaller block_size or prepare more text"
            )
        self.store, self.T, self.seed, self.notes = store, T, seed, []

    def __len__(self) -> int:
        """Rows in an epoch."""
        return len(self.store) // self.T

    def __getitem__(self, n: int) -> Row:
        """Row n, of all epochs; the stream's end is followed by its start."""
        epoch, place = turn(n, len(self), self.seed)
        offset = keyed_hash(self.seed, epoch) % self.T if epoch else 0
        row = self.store.read(offset + place * self.T, self.T + 1)
        return Row(row[:-1], row[1:], documents(row[:-1], self.store))


class StreamValidation:
    """The stream cut from its start, each label in one row, the last row filled up with labels that are ignored.

    All rows together count every token but the first exactly once.
    """

    def __init__(self, store: TokenDataset, T: int, seed: int):
        if len(store) < 2:
            raise UserError(f"the {store.split} set in {store.folder} holds {len(store)} tokens, too few")
        self.store, self.T = store, T

    def __len__(self) -> int:
        """Rows of the whole set."""
        return -(-(len(self.store) - 1) // self.T)

    def at(self, place: int) -> Row:
        """The row at a place of the set."""
        start = place * self.T
        row = self.store.read(start, min(self.T + 1, len(self.store) - start))
        missing = self.T + 1 - len(row)
        tokens = np.pad(row[:-1], (0, missing))
        labels = np.pad(row[1:], (0, missing), constant_values=IGNORE)
        return Row(tokens, labels, documents(tokens, self.store))


class PackedRows:
    """Whole conversations packed into rows of T tokens, learned where their keep-mask says so."""

    def __init__(self, store: TokenDataset, T: int, seed: int):
        self.store, self.T, self.seed = store, T, seed
        lengths = np.diff(store.bounds)
        self.members = best_fit_decreasing(np.minimum(lengths, T + 1) - 1, T)
        long = int((lengths > T + 1).sum())
        self.notes = (
            [
                f"{long:,} of {len(lengths):,} conversations in the {store.split} set are longer than a row: the "
                "oldest part of the prompt is left out"
            ]
            if long
            else []
        )

    def __len__(self) -> int:
        """Rows in an epoch."""
        return len(self.members)

    def __getitem__(self, n: int) -> Row:
        """Row n, of all epochs."""
        return self.at(turn(n, len(self), self.seed)[1])

    def at(self, place: int) -> Row:
        """The row at a place of the packing."""
        row = Row(
            np.zeros(self.T, np.int64), np.full(self.T, IGNORE), np.full(self.T, len(self.members[place]))
        )
        end = 0
        for number, document in enumerate(self.members[place]):
            ((ids, keep),) = truncate_to_context([self.store.document(document)], self.T + 1)
            start, end = end, end + len(ids) - 1
            row.tokens[start:end] = ids[:-1]
            row.labels[start:end] = np.where(keep[1:], ids[1:], IGNORE)
            row.doc_ids[start:end] = number
        return row


class PairRows:
    """Preference pairs packed into rows of 2T tokens: what a pair has in common, then each answer as a branch of it.

    The last common token stands in both branches, since it has two labels. reference (pairs, 2) holds the log-probs of
    the answers under the reference, once they are known.
    """

    def __init__(self, store: TokenDataset, T: int, seed: int):
        self.store, self.context, self.T, self.seed = store, T, 2 * T, seed
        pairs = store.documents // 2
        self.reference = np.zeros((pairs, 2), np.float32)
        sizes, equal, long = np.zeros(pairs, int), 0, int((np.diff(store.bounds) > T + 1).sum())
        for pair in range(pairs):
            (chosen, _), (rejected, _), common = self._pair(pair)
            sizes[pair] = len(chosen) + len(rejected) - 2 - common
            equal += np.array_equal(chosen, rejected)
            sizes[pair] *= not np.array_equal(chosen, rejected)
        used = np.flatnonzero(sizes)
        if not len(used):
            raise UserError(
                f"no pair of the {store.split} set in {store.folder} differs within --block_size {T} + 1 "
                "tokens: choose a larger block_size"
            )
        self.members = [used[row] for row in best_fit_decreasing(sizes[used], self.T)]
        self.notes = (
            [
                f"{long:,} of {2 * pairs:,} answers in the {store.split} set are longer with their prompt than "
                f"--block_size {T} + 1: the oldest part of the prompt is left out, then the end of the answer"
            ]
            if long
            else []
        )
        self.notes += [f"{equal:,} pairs are left out, since nothing tells them apart then"] if equal else []

    def __len__(self) -> int:
        """Rows in an epoch."""
        return len(self.members)

    def __getitem__(self, n: int) -> Row:
        """Row n, of all epochs."""
        return self.at(turn(n, len(self), self.seed)[1])

    def at(self, place: int) -> Row:
        """The row at a place of the packing."""
        T, pairs = self.T, self.members[place]
        row = Row(
            np.zeros(T, np.int64),
            np.full(T, IGNORE),
            np.full(T, len(pairs)),
            np.zeros(T, np.int64),
            np.zeros(T, np.int64),
            self.reference[pairs].ravel(),
        )
        end = 0
        for number, pair in enumerate(pairs):
            *answers, common = self._pair(pair)
            pieces = [
                (0, answers[0][0][: common + 1], None, 0),
                *(
                    (1 + side, ids[common:], keep[common + 1 :], common)
                    for side, (ids, keep) in enumerate(answers)
                ),
            ]
            for branch, ids, learned, position in pieces:
                start, end = end, end + len(ids) - 1
                row.tokens[start:end], row.doc_ids[start:end], row.branches[start:end] = (
                    ids[:-1],
                    number,
                    branch,
                )
                row.positions[start:end] = np.arange(position, position + len(ids) - 1)
                if learned is not None:
                    row.labels[start:end] = np.where(learned, ids[1:], IGNORE)
        return row

    def _pair(self, pair: int) -> tuple[tuple, tuple, int]:
        """(ids, keep) of chosen and rejected as they fit, and how many tokens the branches share before they part."""
        answers = truncate_to_context(
            [self.store.document(2 * pair), self.store.document(2 * pair + 1)], self.context + 1
        )
        first = min(int(keep.argmax()) for _, keep in answers)
        a, b = (ids[:first] for ids, _ in answers)
        differ = np.flatnonzero(a != b)
        return *answers, max(0, (int(differ[0]) if len(differ) else first) - 1)


def truncate_to_context(
    answers: list[tuple[np.ndarray, np.ndarray]], room: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, keep) of one or more answers to one prompt, cut so that each has at most `room` tokens.

    What stands before the last response loses its oldest part, down to half the room; then responses lose their end.
    """
    starts = [len(keep) - int((~keep[::-1]).argmax()) if not keep.all() else 0 for _, keep in answers]
    if len(set(starts)) > 1:  # more turns on one side: what is cut of it must not be cut of the other
        return [truncate_to_context([answer], room)[0] for answer in answers]
    prompt, response = (
        max(starts),
        max(len(ids) - start for (ids, _), start in zip(answers, starts, strict=True)),
    )
    excess = max(0, prompt - max(room - response, min(prompt, room // 2)))
    left = [min(excess, max(0, start - 1)) for start in starts]
    return [(ids[n : n + room], keep[n : n + room]) for (ids, keep), n in zip(answers, left, strict=True)]


def best_fit_decreasing(sizes: np.ndarray, room: int) -> list[np.ndarray]:
    """Which items share a row of `room`: the largest first, each in the first row that has room for it.

    Items of one size are placed at once: every open row takes as many as it has room for, new rows take the rest.
    """
    order = np.argsort(-sizes, kind="stable")
    row_of, free, rows, done = np.empty(len(sizes), int), np.full(len(sizes), room), 0, 0
    for size, count in zip(*(x[::-1] for x in np.unique(sizes, return_counts=True)), strict=True):
        fit = free[:rows] // size
        fit = np.clip(count - (fit.cumsum() - fit), 0, fit)
        rest = count - int(fit.sum())
        opened = -(-rest // (room // size))
        places = np.concatenate(
            [np.repeat(np.arange(rows), fit), np.repeat(np.arange(rows, rows + opened), room // size)[:rest]]
        )
        row_of[order[done : done + count]] = places
        rows, done = rows + opened, done + count
        free[:rows] -= size * np.bincount(places, minlength=rows)
    in_rows = np.argsort(row_of, kind="stable")
    return np.split(in_rows, np.cumsum(np.bincount(row_of, minlength=rows))[:-1])


Rows = StreamRows | PackedRows | PairRows
FixedRows = StreamValidation | PackedRows | PairRows


class Loader:
    """Endless batches of B rows; all ranks together take B x world rows of the one order at a time."""

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        rank: int,
        world_size: int,
        cursor: int = 0,
        left_out: list[list[int]] | None = None,
    ):
        self.rows, self.batch_size, self.rank, self.world_size = rows, batch_size, rank, world_size
        self.cursor = cursor  # rows that all ranks together have taken: the whole position in the data
        # (first, count): at position `first`, so many rows are passed over. The list may grow from outside.
        self.left_out = [] if left_out is None else left_out

    def number(self, position: int) -> int:
        """The row at a position: the same number, but for what is left out before it, each after those before it."""
        for first, count in reversed(self.left_out):
            position += count if position >= first else 0
        return position

    def next(self) -> Batch:
        """This rank's share of the next rows."""
        first = self.cursor + self.rank * self.batch_size
        self.cursor += self.batch_size * self.world_size
        return collate([self.rows[self.number(n)] for n in range(first, first + self.batch_size)])


def fixed_batches(
    rows: FixedRows, batch_size: int, rank: int, world_size: int, limit: int | None = None
) -> Iterator[Batch]:
    """This rank's share of the rows in their own order: all of them, or `limit` rows spread evenly over the set."""
    wanted = len(rows) if limit is None else min(len(rows), limit)
    numbers = [i * len(rows) // wanted for i in range(wanted)]
    for first in range(0, wanted, batch_size * world_size):
        own = numbers[first + rank * batch_size : first + (rank + 1) * batch_size]
        # Every rank takes part in every round; one without rows of its own gets a row of which nothing counts.
        yield collate([rows.at(n) for n in own] or [_ignored_row(rows.at(0))])


def _ignored_row(row: Row) -> Row:
    return row._replace(
        labels=np.full_like(row.labels, IGNORE),
        reference=None if row.reference is None else row.reference[:0],
    )


def turn(n: int, size: int, seed: int) -> tuple[int, int]:
    """(epoch, place) of row n of all epochs, when each epoch of `size` rows has an order of its own."""
    epoch, place = divmod(n, size)
    return epoch, feistel_shuffle(place, size, keyed_hash(seed, epoch, "order"))


def documents(tokens: np.ndarray, store: TokenDataset) -> np.ndarray:
    """The number of the document within the row (T,) that each token (T,) belongs to; a document ends with its EOS."""
    ended = np.cumsum(tokens == store.meta["tokenizer"]["eos_id"])
    return np.concatenate([[0], ended[:-1]])


def keyed_hash(*key: object) -> int:
    """A 64-bit number that is a function of the key alone."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def feistel_shuffle(n: int, size: int, key: int) -> int:
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
