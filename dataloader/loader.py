"""Loader of batches: rows in an order given by (seed, epoch), divided among ranks and counted."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from config import IGNORE
from dataloader.batch import Batch, Row, collate

# The constants of SplitMix64.
GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MULTIPLIER = 0xBF58476D1CE4E5B9
UINT64 = (1 << 64) - 1


class Rows(Protocol):
    """Rows of a prepared dataset by number: StreamRows, StreamValidation, PackedRows and PairRows."""

    seed: int  # names the order in which a Loader reads the rows

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""

    def at(self, index: int, epoch: int = 0) -> Row:
        """Return row `index` of an epoch, both from 0."""


class Loader:
    """Endless batches of B rows. All ranks together take B * world_size rows of one common order at a time.

    The position in the data is one integer, `rows_consumed`: the number of rows that all ranks together have
    taken. A run that resumes from it on another number of ranks continues with the same rows.

        position    0, 1, 2, ...: the order that all ranks share
        row         row_index(position): the position plus the number of rows that are skipped before it
        epoch       row // len(rows)
        index       feistel_shuffle of row % len(rows): the number of the row in `rows`

    `skipped_ranges` lists (position, count): skip `count` rows at this position. A rollback appends to it.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        rank: int,
        world_size: int,
        rows_consumed: int = 0,
        skipped_ranges: Sequence[Sequence[int]] = (),
    ):
        self.rows = rows
        self.rows_per_epoch = len(rows)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.rows_consumed = rows_consumed
        self.skipped_ranges = skipped_ranges

    def next(self, device: torch.device | None = None) -> Batch:
        """Return this rank's share of the next rows as a batch, on the CPU or on a device."""
        first = self.rows_consumed + self.rank * self.batch_size
        self.rows_consumed += self.batch_size * self.world_size

        rows = []
        for position in range(first, first + self.batch_size):
            epoch, index = self.epoch_and_index(self.row_index(position))
            rows.append(self.rows.at(index, epoch))
        return collate(rows, device)

    def row_index(self, position: int) -> int:
        """Return the row, counted over all epochs, at a position in the order."""
        # Each range was recorded as a position in an order without the earlier ranges: undo the latest first.
        for first, count in reversed(self.skipped_ranges):
            if position >= first:
                position += count
        return position

    def epoch_and_index(self, row: int) -> tuple[int, int]:
        """Return the epoch of a row and its index in `rows`; each epoch has an order of its own."""
        epoch, unshuffled = divmod(row, self.rows_per_epoch)
        key = keyed_hash(self.rows.seed, epoch, "order")
        return epoch, feistel_shuffle(unshuffled, self.rows_per_epoch, key)


def fixed_batches(
    rows: Rows, batch_size: int, rank: int, world_size: int, limit: int | None = None
) -> Iterator[Batch]:
    """Yield this rank's batches of the rows in their own order: all, or `limit` rows at even distances."""
    count = len(rows)
    if limit is not None:
        count = min(count, limit)
    indices = [number * len(rows) // count for number in range(count)]

    for first in range(0, count, batch_size * world_size):
        start = first + rank * batch_size
        own = indices[start : start + batch_size]

        # Every rank takes part in every round, because losses are summed over ranks.
        if own:
            yield collate([rows.at(index) for index in own])
        else:
            yield collate([_ignored_row(rows.at(0))])


def _ignored_row(row: Row) -> Row:
    """Return a row without labels and, if it is one of pairs, without pairs."""
    ignored = row._replace(labels=np.full_like(row.labels, IGNORE))
    if row.reference is not None:
        ignored = ignored._replace(reference=row.reference[:0])
    return ignored


def keyed_hash(*key: object) -> int:
    """Return a 64-bit number that depends on the key alone, the same in every process and machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def feistel_shuffle(n: int, size: int, key: int) -> int:
    """Return the image of n under the random permutation of range(size) named by a 64-bit key.

    A four-round Feistel network is a bijection on the numbers of 2 * half bits. A result past the range is
    sent through it again until it lands inside (cycle walking), which gives a bijection on range(size). So
    the order of billions of rows needs no table.
    Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.
    """
    half = max(1, ((size - 1).bit_length() + 1) >> 1)
    mask = (1 << half) - 1

    while True:
        left = n >> half
        right = n & mask
        for round_number in range(4):
            # Each round has a key of its own: the key rotated by 16 more bits. Bits past the 64th take part
            # in the mix: to mask them here would change the row order of every run.
            shift = 16 * round_number
            round_key = (key >> shift) | (key << (64 - shift))
            left, right = right, left ^ (_splitmix64(right, round_key) & mask)

        n = (left << half) | right
        if n < size:
            return n


def _splitmix64(n: int, key: int) -> int:
    """Return 32 mixed bits of n and a key: the first step of SplitMix64 (Steele et al., OOPSLA 2014)."""
    mixed = (n + 1) * GOLDEN_GAMMA + key
    mixed = (mixed ^ (mixed >> 29)) * MULTIPLIER
    return (mixed & UINT64) >> 32
