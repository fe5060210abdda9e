"""Mixed rows: shares of the tokens, every row of a dataset in turn, one order for any number of ranks."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from dataloader.loader import Loader, fixed_batches
from dataloader.mixing import MixedRows
from dataloader.rows import StreamValidation
from dataprep.shards import TokenDataset

T = 8
ROWS = {"large": 100, "small": 10}
FIRST_ID = {"large": 1, "small": 10_001}


@pytest.fixture
def parts(make_store: Callable[..., TokenDataset]) -> list[StreamValidation]:
    """Return rows of two datasets that are the same in each epoch; no id occurs twice."""
    datasets = [
        make_store([[FIRST_ID[name] + np.arange(rows * T + 1)]], split=name) for name, rows in ROWS.items()
    ]
    parts = [StreamValidation(dataset, T, seed=3) for dataset in datasets]
    for part in parts:
        part.notes = []
    return parts


def mixed(parts: list, shares: list[float] | None, repeat: bool = True) -> MixedRows:
    return MixedRows(list(ROWS), parts, shares, repeat)


def first_ids(rows: MixedRows, epochs: int) -> Counter:
    """Count the first ids of all rows of some epochs."""
    return Counter(
        int(rows.at(index, epoch).tokens[0]) for epoch in range(epochs) for index in range(len(rows))
    )


def counts_by_dataset(ids: Counter) -> dict[str, list[int]]:
    """Return how often each row of each dataset was seen."""
    return {name: [ids[FIRST_ID[name] + number * T] for number in range(rows)] for name, rows in ROWS.items()}


def test_without_shares_each_row_is_seen_once_an_epoch(parts: list) -> None:
    rows = mixed(parts, None)
    assert len(rows) == 110
    assert counts_by_dataset(first_ids(rows, 1)) == {"large": [1] * 100, "small": [1] * 10}


def test_shares_are_kept_and_a_small_dataset_is_repeated_evenly(parts: list) -> None:
    rows = mixed(parts, [0.8, 0.2])
    assert rows.counts == [100, 25]
    seen = counts_by_dataset(first_ids(rows, 2))
    assert seen == {"large": [2] * 100, "small": [5] * 10}
    assert "small is 20% of the tokens and seen 5.0 times" in rows.describe(2)


def test_a_leading_dataset_decides_on_the_epoch(parts: list) -> None:
    rows = MixedRows(list(ROWS), parts, [0.5, 0.5], leading=["small"])
    assert rows.counts == [10, 10]
    seen = counts_by_dataset(first_ids(rows, 10))
    assert seen == {"large": [1] * 100, "small": [10] * 10}


def test_what_one_epoch_leaves_out_is_in_the_next(parts: list) -> None:
    rows = mixed(parts, [0.8, 0.2])  # 25 rows of the small dataset: two passes and a half
    one_epoch = counts_by_dataset(first_ids(rows, 1))["small"]
    assert sorted(one_epoch) == [2] * 5 + [3] * 5


def test_each_pass_has_an_order_of_its_own(parts: list) -> None:
    rows = mixed(parts, [0.5, 0.5])
    small = [int(rows.at(index).tokens[0]) for index in range(100, len(rows))]
    passes = [small[first : first + 10] for first in range(0, 90, 10)]
    assert len({tuple(one_pass) for one_pass in passes}) > 5
    assert all(len(set(one_pass)) == 10 for one_pass in passes)


def test_validation_repeats_nothing_and_limits_hit_all_datasets(parts: list) -> None:
    rows = mixed(parts, [0.5, 0.5], repeat=False)
    assert rows.counts == [10, 10]
    assert max(first_ids(rows, 1).values()) == 1
    firsts = [int(batch.tokens[0, 0]) for batch in fixed_batches(rows, 1, 0, 1, limit=4)]
    assert [first > 10_000 for first in firsts] == [False, False, True, True]


def test_the_order_does_not_depend_on_the_number_of_ranks(parts: list) -> None:
    rows = mixed(parts, [0.7, 0.3])
    one = Loader(rows, 4, rank=0, world_size=1)
    alone = np.concatenate([one.next().tokens.numpy() for _ in range(4)])

    pair = [Loader(rows, 2, rank, world_size=2) for rank in range(2)]
    together = np.concatenate([loader.next().tokens.numpy() for _ in range(4) for loader in pair])
    assert np.array_equal(alone, together)

    resumed = Loader(rows, 4, rank=0, world_size=1, rows_consumed=8)
    assert np.array_equal(resumed.next().tokens.numpy(), alone[8:12])
