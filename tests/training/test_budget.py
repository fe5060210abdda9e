"""Runs by the clock: size, batch and rates by their rules, typed flags kept, an end that follows the speed."""

import pytest

from config import ModelArgs, merge_settings
from model import count_parameters
from runtime.errors import UserError
from training import budget
from training.budget import Deadline, choose_size, expected_nats_per_byte, seconds_of, step_law

BOOK = 300_000  # tokens
WEB = 10**10


def chosen(tokens: int, flops: float, **typed: object) -> tuple[ModelArgs, list[str]]:
    return choose_size(ModelArgs(**merge_settings(typed)), typed, tokens, flops)


def test_a_budget_is_a_time() -> None:
    assert [seconds_of(text) for text in ("90s", "20m", "1.5h")] == [90, 1200, 5400]
    for wrong in ("soon", "20", "-3m", "m"):
        with pytest.raises(UserError, match=f"--budget {wrong} is no time"):
            merge_settings({"budget": wrong})


def test_a_typed_budget_is_the_only_limit() -> None:
    settings = merge_settings({"budget": "20m"})
    assert settings["epochs"] is None and settings["total_iters"] is None
    both = merge_settings({"budget": "20m", "epochs": 3})
    assert both["epochs"] == 3 and both["total_iters"] is None


def test_large_data_gets_twenty_tokens_a_parameter() -> None:
    args, notes = chosen(WEB, 6 * 20 * 130e6**2, vocab_size=32768)
    assert 0.7 < count_parameters(args) / 130e6 < 1.4
    assert args.block_size == 1024 and args.dropout == 0 and args.optimizer == "muon"
    assert "arXiv 2203.15556" in notes[0] and "arXiv 2503.04715" in notes[1]
    assert notes[2].startswith("expect about 0.7")


def test_small_data_is_repeated_a_few_times() -> None:
    args, notes = chosen(BOOK, 2e13, vocab_size=2048)
    assert 0.7e6 < count_parameters(args) < 2.5e6 and args.dropout == 0.1 and args.block_size == 256
    assert "8 epochs of the data" in notes[0]
    long, notes = chosen(BOOK, 1e17, vocab_size=2048)
    assert count_parameters(long) < 15 * BOOK and "at most 10 parameters" in notes[0]


def test_flags_that_are_typed_stay() -> None:
    args, _ = chosen(WEB, 1e18, max_lr=0.5, dropout=0.3, optimizer="adamw", total_batch_size=4096)
    assert (args.max_lr, args.dropout, args.optimizer, args.total_batch_size) == (0.5, 0.3, "adamw", 4096)


@pytest.mark.parametrize("typed", [{"preset": "book"}, {"embeddings_dims": 256}, {"train": "S"}])
def test_a_size_that_is_chosen_leaves_all_as_it_is(typed: dict) -> None:
    args = ModelArgs(**merge_settings(typed))
    assert choose_size(args, typed, WEB, 1e18) == (args, [])


def test_every_width_gives_a_legal_model() -> None:
    parameters = [
        count_parameters(ModelArgs(vocab_size=2048, **budget.shape(width))) for width in budget.WIDTHS
    ]
    assert parameters == sorted(parameters)
    assert max(b / a for a, b in zip(parameters, parameters[1:], strict=False)) < 3


def test_the_step_law_is_that_of_the_paper() -> None:
    # Of arXiv 2503.04715, section 3: about these for a model of 1B parameters on 100B tokens.
    law = step_law(1e9, 1e11)
    assert law["lr"] == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert 5e-4 < law["lr"] < 3e-3 and 5e5 < law["tokens"] < 2e6


def test_more_operations_promise_a_lower_loss() -> None:
    losses = [expected_nats_per_byte(operations) for operations in (1.3e13, 1e16, 2e18, 1e24)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(1.22, abs=0.01) and losses[2] == pytest.approx(0.76, abs=0.02)


def test_the_end_follows_the_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(budget, "seconds_since_start", lambda: now)
    deadline = Deadline("100s")
    assert deadline.steps(0, 400) == 400  # nothing is measured yet
    now = 20.0
    deadline.closing(4.0)
    assert deadline.steps(10, 400) == 10 + 75  # a second each, 75 s left after the last save
    deadline.may_extend = False
    assert deadline.steps(10, 40) == 40
    assert deadline.steps(13, 400) == 400  # between two adaptations
