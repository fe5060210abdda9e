"""Advice: each rule speaks where it should and is silent where it should not."""

import math
from collections.abc import Callable, Iterable

import pytest

from training.advice import advice_on, endless_reply, repetition

Curve = Callable[[float], float]  # over the share of the run that is done


def rows_of(train: Curve, validation: Iterable[float] = (), **others: Curve) -> list[dict]:
    """Return the rows of a run of 100 steps of 10 pairs or tokens, with evaluations at equal distances."""
    noise = [0.02 * math.sin(12.9898 * step) for step in range(100)]
    rows = [
        {"step": step + 1, "split": "train", "count": 10, "loss": train(step / 100) + noise[step]}
        | {name: curve(step / 100) for name, curve in others.items()}
        for step in range(100)
    ]
    losses = list(validation)
    for number, loss in enumerate(losses, 1):
        rows.append({"step": number * 100 // len(losses), "split": "val", "loss": loss, "whole": True})
    return rows


def good(x: float) -> float:
    return 1 + 4 * math.exp(-5 * x)


def rules(rows: list[dict], beta: float = 0.1) -> list[str]:
    return sorted(advice_on(rows, beta))


@pytest.mark.parametrize(
    "validation, fires",
    [
        ([3.0, 2.0, 1.6, 1.5, 1.5], False),
        ([3.0, 1.50, 1.51, 1.49, 1.50], False),  # noise
        ([3.0, 1.6, 1.5, 1.6], False),  # one evaluation is no trend
        ([3.0, 1.5, 1.6, 1.7], True),
        ([3.0, 1.5, 1.8, 1.7, 2.5], True),
        ([1.5, 2.5], False),
    ],
)
def test_overfitting(validation: list[float], fires: bool) -> None:
    rows = rows_of(good, validation)
    assert rules(rows) == (["overfitting"] if fires else [])
    if fires:
        message = advice_on(rows, 0.1)["overfitting"]
        assert "(1.5000)" in message and "--dropout 0.1" in message and "--epochs" in message


def test_evaluations_of_all_rows_are_not_compared_with_those_of_some() -> None:
    rows = rows_of(good, [3.0, 1.5, 1.49, 1.48, 1.9])
    for row in rows[100:-1]:
        row["whole"] = False
    assert rules(rows) == []


def test_a_validation_loss_that_rises_with_the_training_loss_is_no_overfitting() -> None:
    rows = rows_of(lambda x: 1 + abs(x - 0.5), [1.5, 1.2, 1.3, 1.6])
    assert "overfitting" not in rules(rows)


@pytest.mark.parametrize(
    "curve, fires",
    [
        (good, False),
        (lambda x: 0.01 + 3 * math.exp(-20 * x) + (0.01 if x > 0.9 else 0), False),  # learned by heart
        (lambda x: 2 + 3 * math.exp(-9 * x) + (0.3 if x > 0.8 else 0), False),  # a little
        (lambda x: 10 - 6 * min(x, 1 - x), True),  # fell and rose
        (lambda x: 10 + 2 * x, True),  # rose from the start
        (lambda x: 10.0, True),  # flat
    ],
)
def test_divergence(curve: Curve, fires: bool) -> None:
    rows = rows_of(curve)
    assert rules(rows) == (["divergence"] if fires else [])
    if fires:
        assert "--max_lr" in advice_on(rows, 0.1)["divergence"]


def preference_rows(**changes: Curve) -> list[dict]:
    """Return the rows of an alignment that goes well, with some curves changed."""
    curves = {
        "accuracy": lambda x: 0.5 + 0.4 * x,
        "margin": lambda x: 2 * x,
        "chosen_reward": lambda x: -0.4 * x,
    }
    return rows_of(lambda x: 0.69 - 0.4 * x, **{**curves, **changes})


@pytest.mark.parametrize(
    "changes, rule",
    [
        ({}, ""),
        ({"chosen_reward": lambda x: -3 * x}, "falling_chosen"),
        ({"chosen_reward": lambda x: -3 * x, "margin": lambda x: 9 * x}, ""),  # the rejected ones fall faster
        ({"chosen_reward": lambda x: -3 * math.sin(3 * x)}, ""),  # it has recovered
        ({"accuracy": lambda x: 0.9 - 0.4 * x}, "margin_collapse"),
        ({"margin": lambda x: 2 * math.sin(3.14 * x) ** 4}, "margin_collapse"),
        ({"accuracy": lambda x: 0.9 - 0.05 * x}, ""),
    ],
)
def test_alignment(changes: dict[str, Curve], rule: str) -> None:
    rows = preference_rows(**changes)
    assert rules(rows) == ([rule] if rule else [])
    if rule:
        assert "--beta" in advice_on(rows, 0.1)[rule]


@pytest.mark.parametrize("loss, fires", [(0.2, False), (0.7, False), (0.9, True)])
def test_an_alignment_is_compared_with_its_reference(loss: float, fires: bool) -> None:
    rows = preference_rows()
    for row in rows[50:]:
        row["loss"] = row["step"] % 7 * 0.2  # the training loss of a few pairs varies
    rows.append({"step": 100, "split": "val", "loss": loss, "whole": True})
    assert rules(rows) == (["divergence"] if fires else [])


def test_a_few_pairs_show_no_collapse() -> None:
    rows = preference_rows(accuracy=lambda x: 0.9 - 0.4 * x)
    assert rules([{**row, "count": 1} for row in rows]) == []


def test_a_short_run_gets_no_advice() -> None:
    assert rules([]) == []
    assert rules(rows_of(lambda x: 10.0)[:15]) == []


def test_repetition() -> None:
    story = (
        "Once upon a time there was a small fox who lived near the lake and liked to run over the hill with "
        "his friend until the sun went down and the moon came up again."
    )
    assert repetition(story) == ""
    assert repetition("the the the") == ""  # too short to say
    assert "--repetition_penalty 1.1" in repetition("the old fox ran over the hill and " * 5)


def test_endless_reply() -> None:
    assert endless_reply(99, 100) == ""
    assert "cut after 100 tokens: try a larger --max_length" in endless_reply(100, 100)
