"""Rows and their order: every token once, the same on any number of ranks, one integer as the whole position."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from batch import Batch
from batches import Loader, StreamRows, StreamValidation, fixed_batches, keyed_hash, shuffled
from config import IGNORE, UserError
from store import Store


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    """1,003 tokens, each its own position, in three shards that end inside rows."""
    return make_store([[np.arange(0, 300), np.arange(300, 333)], [np.arange(333, 350)], [np.arange(350, 1003)]])


def flat(batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens and labels of all batches, one row below the other."""
    return tuple(torch.cat(column).numpy() for column in list(zip(*batches, strict=True))[:2])


def test_shuffled_is_a_bijection() -> None:
    for size in (*range(1, 201), 1023, 1024, 1025, 20_011):
        assert sorted(shuffled(n, size, keyed_hash(size)) for n in range(size)) == list(range(size))
    huge = [shuffled(n, 20_000_003, keyed_hash("key")) for n in range(3000)]
    assert len(set(huge)) == 3000 and 0 <= min(huge) < 100_000 and 19_900_000 < max(huge) < 20_000_003


def test_shuffled_differs_by_key() -> None:
    orders = [[shuffled(n, 1000, keyed_hash(key)) for n in range(1000)] for key in range(4)]
    for i, order in enumerate(orders):
        for other in (list(range(1000)), *orders[:i]):
            assert sum(a == b for a, b in zip(order, other, strict=True)) < 10  # about one by chance
        neighbours = sum(abs(a - b) == 1 for a, b in zip(order, order[1:], strict=False))
        assert neighbours < 12  # about two by chance


@pytest.mark.parametrize("size", [13, 16, 30])
def test_shuffled_looks_uniform(size: int) -> None:
    counts = np.zeros((size, size))  # how often n stands at a place
    for key in range(200 * size):
        key = keyed_hash("chi", key)
        for n in range(size):
            counts[n, shuffled(n, size, key)] += 1
    chi_square, freedom = ((counts - 200) ** 2 / 200).sum(), (size - 1) ** 2
    assert abs(chi_square - freedom) < 6 * (2 * freedom) ** 0.5  # six deviations


@pytest.mark.parametrize("T", [10, 17, 59])  # 1003 = 17 * 59: with these, rows use up every token
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_has_every_token_once(store: Store, T: int, epoch: int) -> None:
    rows = StreamRows(store, T, seed=3)
    assert len(rows) == 1003 // T
    cut = [rows[n] for n in range(epoch * len(rows), (epoch + 1) * len(rows))]
    tokens, labels = (np.concatenate([row[part] for row in cut]) for part in (0, 1))
    assert len(set(tokens.tolist())) == len(tokens) == 1003 // T * T
    assert np.array_equal(labels, (tokens + 1) % 1003)  # across shards, and from the end to the start
    starts = [row[0][0] for row in cut]
    assert starts != sorted(starts)
    crossing = [row for row, *_ in cut if {299, 300} <= set(row) or {332, 333} <= set(row) or {349, 350} <= set(row)]
    assert crossing, "no row crosses the border of a document or shard"
    assert 1003 % T or 0 in labels


def test_epochs_differ_in_order_and_cuts(store: Store) -> None:
    rows = StreamRows(store, 10, seed=3)
    starts = [[int(rows[n][0][0]) for n in range(e * 100, (e + 1) * 100)] for e in range(4)]
    assert len({start[0] % 10 for start in starts}) > 1 and starts[0][0] % 10 == 0
    assert len({tuple(np.argsort(start)) for start in starts}) == 4
    other = StreamRows(store, 10, seed=4)
    assert [int(other[n][0][0]) for n in range(100)] != starts[0]
    again = StreamRows(store, 10, seed=3)
    assert [int(again[n][0][0]) for n in range(100)] == starts[0]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_one_order(store: Store, world: int) -> None:
    rows = StreamRows(store, 10, seed=3)
    alone = Loader(rows, 8, rank=0, world_size=1)
    ranks = [Loader(rows, 8 // world, rank, world) for rank in range(world)]
    for _ in range(30):  # two epochs and a half, whose ends lie inside batches
        tokens, labels = flat([alone.next()])
        together, their_labels = flat([loader.next() for loader in ranks])
        assert np.array_equal(tokens, together) and np.array_equal(labels, their_labels)
    assert {loader.cursor for loader in (alone, *ranks)} == {240}


def test_the_cursor_is_the_whole_position(store: Store) -> None:
    rows = StreamRows(store, 10, seed=3)
    loader = Loader(rows, 3, rank=0, world_size=1)
    passed = [loader.next() for _ in range(37)]
    assert len(rows) < loader.cursor < 2 * len(rows)  # in the middle of the second epoch
    resumed = Loader(StreamRows(store, 10, seed=3), 3, 0, 1, loader.cursor)
    for _ in range(40):
        ours, theirs = loader.next(), resumed.next()
        assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.labels, theirs.labels)
    assert not torch.equal(passed[0].tokens, Loader(rows, 3, 0, 1, 3).next().tokens)


def test_a_batch_is_what_the_contract_says(store: Store) -> None:
    batch = Loader(StreamRows(store, 10, seed=3), 4, 0, 1).next().to(torch.device("cpu"))
    assert batch.tokens.shape == batch.labels.shape == (4, 10) and batch.doc_ids is None
    assert batch.tokens.dtype == batch.labels.dtype == torch.int64
    assert torch.equal(batch.tokens[:, 1:], batch.labels[:, :-1])


def test_rows_name_the_document_of_each_token(make_store: Callable[..., Store]) -> None:
    store = make_store([[[5, 6, 0], [7, 0], [8, 9, 9, 9, 9, 9, 9, 9, 9, 0]]], eos_id=0)
    batch, = fixed_batches(StreamValidation(store, 7, 0), 4, 0, 1)
    assert batch.tokens.tolist() == [[5, 6, 0, 7, 0, 8, 9], [9, 9, 9, 9, 9, 9, 9]]
    assert batch.doc_ids.tolist() == [[0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 0]]
    alone, = fixed_batches(StreamValidation(make_store([[[5, 6, 7, 8, 0]]], "val", eos_id=0), 4, 0), 4, 0, 1)
    assert alone.doc_ids is None  # one document: plain causal attention, which is faster


@pytest.mark.parametrize("T", [10, 17, 333, 1002, 2000])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_counts_every_token_once(store: Store, T: int, world: int) -> None:
    shares = [list(fixed_batches(StreamValidation(store, T, 0), 4, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1  # no rank waits for another
    tokens, labels = flat([batch for share in shares for batch in share])
    counted = labels != IGNORE
    assert sorted(labels[counted].tolist()) == list(range(1, 1003))  # all but the first
    assert np.array_equal(labels[counted], tokens[counted] + 1)
    assert tokens.shape[1] == T and all(len(batch.tokens) <= 4 for share in shares for batch in share)


def test_limited_validation_is_fixed_and_spread(store: Store) -> None:
    starts = [flat(list(fixed_batches(StreamValidation(store, 10, 0), 4, 0, 1, limit=20)))[0][:, 0] for _ in range(2)]
    assert np.array_equal(*starts) and len(starts[0]) == 20
    assert starts[0].tolist() == list(range(0, 1000, 50))  # of the rows 0, 10, ... 1000
    uneven = flat(list(fixed_batches(StreamValidation(store, 10, 0), 4, 0, 1, limit=24)))[0][:, 0]
    assert len(uneven) == 24 and uneven[-1] > 950 and set(np.diff(uneven)) == {40, 50}
    for world in (2, 3):
        rows = StreamValidation(store, 10, 0)
        shares = [list(fixed_batches(rows, 4, rank, world, limit=20)) for rank in range(world)]
        tokens, labels = flat([batch for share in shares for batch in share])
        assert sorted(tokens[(labels != IGNORE).any(1), 0]) == starts[0].tolist()  # the same rows on any ranks
    whole = flat(list(fixed_batches(StreamValidation(store, 10, 0), 4, 0, 1)))
    assert np.array_equal(flat(list(fixed_batches(StreamValidation(store, 10, 0), 4, 0, 1, limit=10**6)))[0], whole[0])


def test_too_little_text_is_a_users_error(make_store: Callable[..., Store]) -> None:
    store = make_store([[np.arange(10)]])
    assert len(StreamRows(store, 9, seed=0)) == 1
    with pytest.raises(UserError, match="10 tokens.* --block_size 10 "):
        StreamRows(store, 10, seed=0)
    with pytest.raises(UserError, match="val set .* 1 tokens"):
        next(fixed_batches(StreamValidation(make_store([[np.arange(1)]], "val"), 4, 0), 1, 0, 1))


def test_large_vocabularies_are_read(make_store: Callable[..., Store]) -> None:
    store = make_store([[np.arange(70_000, 70_050)]], vocab_size=70_050)
    tokens, labels, *_ = StreamRows(store, 10, seed=0)[0]
    assert np.array_equal(labels, tokens + 1) and tokens.min() >= 70_000 and tokens.dtype == np.int64
