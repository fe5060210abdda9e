"""Preference alignment on random models and pairs: packed pairs equal each answer alone."""

import math
import random
from pathlib import Path

import pytest
import torch.nn.functional as F
from plain_reference import (
    Reference,
    Sums,
    assert_close,
    assert_gradients_close,
    assert_same,
    largest_of,
    reference_table,
    used_pairs,
)
from random_cases import (
    all_batches,
    by_mask,
    evaluation_sums,
    objective_sums,
    random_args,
    random_cases,
    random_model,
    random_rows,
    reference_of,
    set_head_chunk,
)
from torch import Tensor

from config import ModelArgs


def random_loss(rng: random.Random) -> dict[str, object]:
    """Return settings of the loss: sigmoid, sigmoid with smoothed labels, or IPO."""
    return rng.choice(
        [
            {"dpo_loss": "sigmoid"},
            {"dpo_loss": "sigmoid", "label_smoothing": rng.uniform(0.01, 0.4)},
            {"dpo_loss": "ipo"},
        ]
    )


def reference_sums(reference: Reference, args: ModelArgs, rows, pairs: list) -> Sums:
    """Return loss, sums and gradients of the pairs that differ, each answer computed alone."""
    losses = []
    names = ("accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logps", "rejected_logps")
    extra = dict.fromkeys(names, 0.0)
    used = used_pairs(pairs, args.block_size)
    for number, answers in used:
        logps = [reference.logps(*answer) for answer in answers]
        ratios = [value - float(start) for value, start in zip(logps, rows.reference[number], strict=True)]
        lengths = [sum(loss_mask[1:]) for _, loss_mask in answers]
        losses.append(pair_loss(args, ratios, lengths))

        chosen_reward, rejected_reward = (args.beta * ratio.item() for ratio in ratios)
        extra["accuracy"] += chosen_reward > rejected_reward
        extra["margin"] += chosen_reward - rejected_reward
        extra["chosen_reward"] += chosen_reward
        extra["rejected_reward"] += rejected_reward
        extra["chosen_logps"] += logps[0].item()
        extra["rejected_logps"] += logps[1].item()
    return reference.sums(losses, len(used), extra)


def pair_loss(args: ModelArgs, ratios: list[Tensor], lengths: list[int]) -> Tensor:
    """Return the loss of one pair by the formulas of the papers."""
    if args.dpo_loss == "ipo":
        difference = ratios[0] / lengths[0] - ratios[1] / lengths[1]
        return (difference - 1 / (2 * args.beta)) ** 2
    difference = args.beta * (ratios[0] - ratios[1])
    smoothing = args.label_smoothing
    return -(1 - smoothing) * F.logsigmoid(difference) - smoothing * F.logsigmoid(-difference)


@random_cases
def test_rows_equal_pairs_one_by_one(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    args = random_args(rng, "D", **random_loss(rng))
    model = random_model(rng, args)
    reference = reference_of(model)
    rows, pairs = random_rows(rng, tmp_path, args, reference)

    set_head_chunk(monkeypatch, rows=rng.randint(1, 8))
    expected = reference_sums(reference, args, rows, pairs)
    assert expected.count > 0

    batches = all_batches(rng, rows)
    assert_same(objective_sums(model, args, batches), expected)
    assert_same(objective_sums(model, args, [by_mask(batch) for batch in batches]), expected)


@random_cases
def test_first_gradient_is_that_of_the_paper(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    args = random_args(rng, "D")
    model = random_model(rng, args)
    reference = reference_of(model)
    rows, pairs = random_rows(rng, tmp_path, args, reference)
    rows = rows.with_reference(reference_table(reference, pairs, args.block_size).numpy())

    # Policy and reference are equal: the sigmoid is 1/2 for every pair.
    used = used_pairs(pairs, args.block_size)
    chosen = [args.beta / 2 * reference.logps(*answers[0]) for _, answers in used]
    rejected = [args.beta / 2 * reference.logps(*answers[1]) for _, answers in used]
    by_chosen = reference.sums(chosen, len(used)).gradients
    by_rejected = reference.sums(rejected, len(used)).gradients
    expected = {name: by_rejected[name] - by_chosen[name] for name in by_chosen}

    sums = objective_sums(model, args, all_batches(rng, rows))
    assert sums.count == len(used) > 0
    assert_close(sums.loss / sums.count, math.log(2))
    assert_gradients_close(sums.gradients, expected, size=largest_of(by_chosen))


@random_cases
def test_evaluation_is_the_same_on_any_number_of_ranks(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    args = random_args(rng, "D", **random_loss(rng))
    model = random_model(rng, args)
    reference = reference_of(model)
    rows, pairs = random_rows(rng, tmp_path, args, reference)

    expected = reference_sums(reference, args, rows, pairs)
    expected.gradients = {}
    for ranks in (1, 2, 3, 5):
        sums = evaluation_sums(model, args, rows, batch_size=rng.randint(1, 3), ranks=ranks)
        assert sums.count > 0
        assert_same(sums, expected)
