"""Training step on random models: the same for any split, with empty micro-batches, in bfloat16, with recomputation."""

import random
from pathlib import Path

import torch
from plain_reference import assert_close, assert_gradients_close, assert_same
from random_cases import (
    all_batches,
    checkpointed,
    collate_rows,
    objective_sums,
    random_args,
    random_cases,
    random_model,
    random_rows,
    reference_of,
    step_sums,
)


@random_cases
def test_split_into_micro_batches_changes_nothing(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    optimizer = rng.choice(["adamw", "muon"])
    args = random_args(rng, rng.choice("SD"), optimizer=optimizer, clip=rng.choice([0.0, 0.01, 1.0]))
    model = random_model(rng, args)
    rows, _ = random_rows(rng, tmp_path, args, reference_of(model))

    expected, expected_gradients = step_sums(model, args, rows, micro_batch=4, accumulation=1)
    assert expected["count"] > 0 and expected["grad_norm"] > 0
    for micro_batch, accumulation in ((2, 2), (1, 4)):
        means, gradients = step_sums(model, args, rows, micro_batch, accumulation)
        assert means["count"] == expected["count"]
        assert_close(means["loss"], expected["loss"])
        assert abs(means["grad_norm"] / expected["grad_norm"] - 1) < 1e-4
        assert_gradients_close(gradients, expected_gradients)


@random_cases
def test_rows_without_labels_add_nothing(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    args = random_args(rng, rng.choice("PSD"))
    model = random_model(rng, args)
    rows, _ = random_rows(rng, tmp_path, args, reference_of(model))

    places = [(rng.randrange(len(rows)), 0) for _ in range(rng.randint(1, 3))]
    batch = collate_rows(rows, places)
    expected = objective_sums(model, args, [batch])
    assert expected.count > 0

    # In the same batch, and as a micro-batch of nothing else.
    with_empty_row = collate_rows(rows, places, empty_rows=1)
    assert len(with_empty_row.tokens) == len(places) + 1
    assert_same(objective_sums(model, args, [with_empty_row]), expected)
    if args.train != "D":  # a training row of pairs has at least one; evaluation is in test_dpo.py
        empty = collate_rows(rows, [], empty_rows=2)
        assert_same(objective_sums(model, args, [empty, batch, empty]), expected)


@random_cases
def test_bfloat16_autocast_is_near_float32(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    # A state of a few dimensions may be near zero, where its norm is ill-conditioned.
    args = random_args(rng, rng.choice("PSD"), min_width=32, beta=0.1)
    model = random_model(rng, args)
    rows, _ = random_rows(rng, tmp_path, args, reference_of(model))
    batches = all_batches(rng, rows)

    expected = objective_sums(model, args, batches)
    sums = objective_sums(model, args, batches, autocast=True)
    assert sums.count == expected.count > 0
    assert sums.loss != expected.loss  # autocast is on
    assert abs(sums.loss / expected.loss - 1) < 0.02
    names = sorted(expected.gradients)
    flat, expected_flat = (
        torch.cat([gradients[name].flatten() for name in names])
        for gradients in (sums.gradients, expected.gradients)
    )
    assert torch.cosine_similarity(flat, expected_flat, dim=0) > 0.99


@random_cases
def test_activation_checkpointing_changes_nothing(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    dropout = {"dropout": rng.uniform(0.05, 0.5), "attn_dropout": rng.uniform(0.05, 0.5)}
    args = random_args(rng, rng.choice("PSD"), **dropout)
    model = random_model(rng, args)
    rows, _ = random_rows(rng, tmp_path, args, reference_of(model))
    batches = all_batches(rng, rows)

    torch.manual_seed(seed)
    expected = objective_sums(model, args, batches)
    torch.manual_seed(seed)
    sums = objective_sums(checkpointed(model, args), args, batches)
    assert expected.count > 0
    assert_same(sums, expected)

    torch.manual_seed(seed + 1)
    assert objective_sums(model, args, batches).loss != expected.loss  # dropout is on
