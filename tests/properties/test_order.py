"""Order of the rows, learning-rate schedule and truncation, each against a plain model of its rule."""

import random

import numpy as np
from plain_reference import truncate
from random_cases import (
    CountedRows,
    indices_of_epoch,
    lr_at,
    order_of,
    random_args,
    random_cases,
    random_conversation,
    random_pair,
    truncated,
)


@random_cases
def test_skipped_rows_equal_a_list_without_them(seed: int) -> None:
    rng = random.Random(seed)
    skipped = [(rng.randrange(100), rng.randint(1, 30)) for _ in range(rng.randint(1, 6))]

    order = list(range(500))
    for first, count in skipped:
        del order[first : first + count]
    assert order_of(CountedRows(rng.randint(1, 50)), range(200), skipped) == order[:200]


@random_cases
def test_schedule_rises_to_the_peak_and_falls(seed: int) -> None:
    rng = random.Random(seed)
    max_lr = 10 ** rng.uniform(-5, -1)
    min_lr = max_lr * rng.uniform(0.01, 1.0)
    warmup = rng.randint(0, 20)
    args = random_args(rng, "P", max_lr=max_lr, min_lr=min_lr, warmup_iters=warmup)
    end = warmup + rng.randint(1, 50)

    rates = np.array([lr_at(step, args, end) for step in range(end + 10)])
    peak = max(0, warmup - 1)
    assert (rates > 0).all()
    assert np.isclose(rates.max(), max_lr, rtol=1e-12) and np.isclose(rates[peak], max_lr, rtol=1e-12)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) <= 1e-12 * max_lr).all()
    assert np.allclose(rates[end:], args.min_lr, rtol=1e-12)


@random_cases
def test_order_of_an_epoch_has_each_row_once(seed: int) -> None:
    rng = random.Random(seed)
    rows = CountedRows(rng.choice([1, 2, 3, rng.randint(4, 3000)]), seed=rng.randrange(2**31))
    first, second = (indices_of_epoch(rows, epoch) for epoch in (0, rng.randint(1, 9)))
    assert sorted(first) == sorted(second) == list(range(len(rows)))
    if len(rows) > 20:
        assert first != second and first != sorted(first)


@random_cases
def test_truncated_answers_fit_and_keep_a_label(seed: int) -> None:
    rng = random.Random(seed)
    args = random_args(rng, "D")
    room = args.block_size + 1
    for _ in range(20):
        answers = random_pair(rng, args) if rng.random() < 0.5 else (random_conversation(rng, args),)
        results = truncated(answers, room)
        assert results == truncate(answers, room)
        for (ids, loss_mask), (full_ids, full_mask) in zip(results, answers, strict=True):
            assert 2 <= len(ids) == len(loss_mask) <= room
            assert any(loss_mask[1:])
            starts = range(len(full_ids) - len(ids) + 1)
            assert any(
                full_ids[n : n + len(ids)] == ids and full_mask[n : n + len(ids)] == loss_mask for n in starts
            )
            if len(full_ids) <= room and len(answers) == 1:
                assert ids == full_ids
