"""Order and position: the shuffle is a bijection, ranks share one order, one integer is enough to resume."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from token_rows import pair_rows, stack, unique_conversations, unique_pairs

from config import IGNORE
from dataloader.batch import Batch
from dataloader.loader import Loader, Rows, feistel_shuffle, fixed_batches, keyed_hash
from dataloader.rows import PackedRows, StreamRows, StreamValidation
from dataprep.shards import TokenDataset


@pytest.fixture
def dataset(make_store: Callable[..., TokenDataset]) -> TokenDataset:
    """1,003 tokens, each its own position, in three shards that end inside rows."""
    shards = [[np.arange(0, 300), np.arange(300, 333)], [np.arange(333, 350)], [np.arange(350, 1003)]]
    return make_store(shards)


def test_the_shuffle_is_a_bijection() -> None:
    for size in (*range(1, 201), 1023, 1024, 1025, 20_011):
        order = [feistel_shuffle(n, size, keyed_hash(size)) for n in range(size)]
        assert sorted(order) == list(range(size))

    huge = [feistel_shuffle(n, 20_000_003, keyed_hash("key")) for n in range(3000)]
    assert len(set(huge)) == 3000
    assert 0 <= min(huge) < 100_000
    assert 19_900_000 < max(huge) < 20_000_003


def test_the_shuffle_is_that_of_earlier_runs() -> None:
    # Computed at commit 21d512b: a run that resumes must see the same rows.
    assert keyed_hash(1337, 2, "order") == 0xC27613B3629C1D9A
    assert [feistel_shuffle(n, 1000, keyed_hash(1337, 2, "order")) for n in range(8)] == [
        902,
        62,
        179,
        201,
        935,
        292,
        468,
        331,
    ]


def test_shuffles_differ_by_key() -> None:
    orders = [[feistel_shuffle(n, 1000, keyed_hash(key)) for n in range(1000)] for key in range(4)]
    for i, order in enumerate(orders):
        for other in (list(range(1000)), *orders[:i]):
            assert sum(a == b for a, b in zip(order, other, strict=True)) < 10  # about one by chance
        neighbours = sum(abs(a - b) == 1 for a, b in zip(order, order[1:], strict=False))
        assert neighbours < 12  # about two by chance


@pytest.mark.parametrize("size", [13, 16, 30])
def test_the_shuffle_looks_uniform(size: int) -> None:
    counts = np.zeros((size, size))  # how often n is sent to each number
    for number in range(200 * size):
        key = keyed_hash("chi", number)
        for n in range(size):
            counts[n, feistel_shuffle(n, size, key)] += 1
    chi_square = ((counts - 200) ** 2 / 200).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_square - freedom) < 6 * (2 * freedom) ** 0.5  # six deviations


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_one_order(dataset: TokenDataset, world: int) -> None:
    rows = StreamRows(dataset, 10, seed=3)
    alone = Loader(rows, 8, rank=0, world_size=1)
    ranks = [Loader(rows, 8 // world, rank, world) for rank in range(world)]
    for _ in range(30):  # two epochs and a half, whose ends lie inside batches
        tokens, labels = stack([alone.next()])
        rank_tokens, rank_labels = stack([loader.next() for loader in ranks])
        assert np.array_equal(tokens, rank_tokens)
        assert np.array_equal(labels, rank_labels)
    assert {loader.rows_consumed for loader in (alone, *ranks)} == {240}


def test_rows_consumed_is_the_complete_position(dataset: TokenDataset) -> None:
    rows = StreamRows(dataset, 10, seed=3)
    loader = Loader(rows, 3, rank=0, world_size=1)
    earlier = [loader.next() for _ in range(37)]
    assert len(rows) < loader.rows_consumed < 2 * len(rows)  # in the middle of the second epoch

    resumed = Loader(StreamRows(dataset, 10, seed=3), 3, 0, 1, loader.rows_consumed)
    for _ in range(40):
        batch = loader.next()
        resumed_batch = resumed.next()
        assert torch.equal(batch.tokens, resumed_batch.tokens)
        assert torch.equal(batch.labels, resumed_batch.labels)
    assert not torch.equal(earlier[0].tokens, Loader(rows, 3, 0, 1, 3).next().tokens)


def test_skipped_ranges_are_skipped_from_the_next_batch_on(dataset: TokenDataset) -> None:
    rows = StreamRows(dataset, 10, seed=3)
    plain = Loader(rows, 1, 0, 1)
    order = stack([plain.next() for _ in range(60)])[0][:, 0].tolist()

    skipped_ranges: list[list[int]] = []
    loader = Loader(rows, 4, 0, 1, skipped_ranges=skipped_ranges)
    first = stack([loader.next() for _ in range(2)])[0][:, 0].tolist()
    assert first == order[:8]

    skipped_ranges.append([8, 4])  # as a rollback does
    second = stack([loader.next() for _ in range(2)])[0][:, 0].tolist()
    assert second == order[12:20]

    skipped_ranges.append([16, 8])  # the row at position 16 is 20, since four are skipped before it
    third = stack([loader.next()])[0][:, 0].tolist()
    assert third == order[28:32]


def test_limited_validation_is_fixed_and_spread(dataset: TokenDataset) -> None:
    rows = StreamValidation(dataset, 10, 0)

    def first_tokens(limit: int | None) -> np.ndarray:
        return stack(list(fixed_batches(rows, 4, 0, 1, limit)))[0][:, 0]

    starts = first_tokens(20)
    assert np.array_equal(starts, first_tokens(20))
    assert starts.tolist() == list(range(0, 1000, 50))  # of the rows 0, 10, ... 1000

    uneven = first_tokens(24)
    assert len(uneven) == 24
    assert uneven[-1] > 950
    assert set(np.diff(uneven)) == {40, 50}

    for world in (2, 3):
        shares = [list(fixed_batches(rows, 4, rank, world, limit=20)) for rank in range(world)]
        tokens, labels = stack([batch for share in shares for batch in share])
        # The same rows on any number of ranks.
        assert sorted(tokens[(labels != IGNORE).any(1), 0]) == starts.tolist()
    assert np.array_equal(first_tokens(10**6), first_tokens(None))


def batches_by_rank(rows: Rows, world: int, rows_at_once: int, count: int) -> list[list[Batch]]:
    """Return the next batches of each rank."""
    loaders = [Loader(rows, rows_at_once // world, rank, world) for rank in range(world)]
    return [[loader.next() for _ in range(count)] for loader in loaders]


def packed_rows(make_store: Callable[..., TokenDataset], kind: str) -> Rows:
    """Return packed rows of conversations or of pairs."""
    if kind == "preference":
        return pair_rows(make_store, unique_pairs(60), 24)
    return PackedRows(make_store([unique_conversations(100)[0]], kind=kind), 24, seed=3)


@pytest.mark.parametrize("kind", ["instruct", "preference"])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_one_order_of_packed_rows(
    make_store: Callable[..., TokenDataset], kind: str, world: int
) -> None:
    rows = packed_rows(make_store, kind)
    (alone,) = batches_by_rank(rows, 1, 8, 8)
    ranks = batches_by_rank(rows, world, 8, 8)
    assert 8 * 8 > len(rows)  # past the end of an epoch

    for number, batch in enumerate(alone):
        shares = [share[number] for share in ranks]
        for name in ("tokens", "labels", "doc_ids", "branches", "positions", "reference"):
            expected = getattr(batch, name)
            if expected is not None:
                assert torch.equal(expected, torch.cat([getattr(share, name) for share in shares]))
        if kind == "preference":
            offsets = np.cumsum([0, *(len(share.reference) for share in shares[:-1])]).tolist()
            completion_index = [
                share.completion_index + offset for share, offset in zip(shares, offsets, strict=True)
            ]
            assert torch.equal(batch.completion_index, torch.cat(completion_index))


@pytest.mark.parametrize("kind", ["instruct", "preference"])
@pytest.mark.parametrize("world", [2, 4])
def test_fixed_batches_count_every_packed_row_once(
    make_store: Callable[..., TokenDataset], kind: str, world: int
) -> None:
    rows = packed_rows(make_store, kind)
    for B in (1, 3, 4):  # a rank without a row of its own counts nothing
        shares = [list(fixed_batches(rows, B, rank, world)) for rank in range(world)]
        labels = torch.cat([batch.labels for share in shares for batch in share])
        expected = torch.cat([batch.labels for batch in fixed_batches(rows, B, 0, 1)])
        assert len({len(share) for share in shares}) == 1
        assert sorted(labels[labels != IGNORE].tolist()) == sorted(expected[expected != IGNORE].tolist())
        if kind == "preference":
            assert sum(len(batch.reference) for share in shares for batch in share) == 120
