"""Policy of the validation split: about its share of the tokens, and never one key on both sides."""

import numpy as np
import pytest

from dataprep.holdout import (
    Groups,
    assign_splits,
    choose,
    conversation_key,
    in_validation,
    key_hash,
    shortfall,
    tail_documents,
    tail_start,
)
from dataprep.ranges import FileRange


def groups_of(tokens: list[int], documents: list[int] | None = None, seed: int = 0) -> Groups:
    """Return groups of these sizes, in the order of random hashes."""
    keys = np.random.default_rng(seed).integers(0, 2**64, len(tokens), np.uint64)
    order = np.argsort(keys)
    sizes = [np.array(values)[order] for values in (tokens, documents or [1] * len(tokens))]
    return Groups(keys[order], *sizes)


def held_tokens(groups: Groups, kind: str, fraction: float) -> float:
    """Return the share of the tokens that is held out, tails included."""
    choice = choose(groups, kind, fraction)
    assert not set(choice.held_out.tolist()) & set(choice.tails.tolist())
    tokens = dict(zip(groups.keys.tolist(), groups.tokens.tolist(), strict=True))
    held = sum(tokens[key] for key in choice.held_out.tolist())
    tails = sum(tokens[key] for key in choice.tails.tolist())
    return (held + fraction * tails) / sum(tokens.values())


SIZES = {
    "equal": lambda rng, n: np.full(n, 100),
    "uneven": lambda rng, n: rng.integers(10, 1000, n),
    "heavy tail": lambda rng, n: (10 * rng.pareto(0.8, n) + 1).astype(int),
    "one book": lambda rng, n: np.append(rng.integers(10, 100, n - 1), 50 * 100 * n),
    "two books": lambda rng, n: np.append(rng.integers(10, 100, n - 2), [1000 * n, 900 * n]),
}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("n", [2, 3, 7, 11, 50, 400, 3000])
@pytest.mark.parametrize("sizes", SIZES)
def test_of_texts_the_share_is_right_within_a_factor_of_two(sizes: str, n: int, fraction: float) -> None:
    for seed in range(10):
        tokens = SIZES[sizes](np.random.default_rng(seed), n).tolist()
        assert fraction / 2 <= held_tokens(groups_of(tokens, seed=seed), "text", fraction) <= 2 * fraction


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("n", [50, 400, 3000])
@pytest.mark.parametrize("sizes", ["equal", "uneven"])
def test_of_conversations_the_share_is_right_within_a_factor_of_two(
    sizes: str, n: int, fraction: float
) -> None:
    for seed in range(10):
        tokens = SIZES[sizes](np.random.default_rng(seed), n).tolist()
        groups = groups_of(tokens, seed=seed)
        assert fraction / 2 <= held_tokens(groups, "instruct", fraction) <= 2 * fraction
        if n < 1000:
            assert len(choose(groups, "instruct", fraction).held_out) <= fraction * n


def test_many_documents_are_chosen_by_their_hash_alone() -> None:
    groups = groups_of([100] * 5000)
    expected = groups.keys[groups.keys < 0.1 * 2**64]
    assert choose(groups, "text", 0.1).held_out.tolist() == expected.tolist()

    # One large text more: it gives its end, and no other document changes sides.
    larger = Groups(
        np.append(groups.keys, np.uint64(2**64 - 1)),
        np.append(groups.tokens, 70_000),
        np.append(groups.documents, 1),
    )
    choice = choose(larger, "text", 0.1)
    assert choice.held_out.tolist() == expected.tolist() and choice.tails.tolist() == [2**64 - 1]


def test_a_group_of_conversations_larger_than_the_share_is_trained_on() -> None:
    groups = groups_of([9000, *[10] * 100], [90, *[1] * 100])
    large = groups.keys[np.argmax(groups.tokens)]
    choice = choose(groups, "instruct", 0.1)
    assert large not in choice.held_out and not len(choice.tails)
    assert held_tokens(groups, "instruct", 0.1) >= 0.05

    # 99 : 1, and two equal halves of many conversations.
    choice = choose(groups_of([99_000, 1000], [99, 1]), "instruct", 0.1)
    assert len(choice.held_out) == 1
    assert not len(choose(groups_of([5000, 5000], [50, 50]), "instruct", 0.1).held_out)


def test_of_a_few_conversations_the_smallest_is_held_out() -> None:
    groups = groups_of([30, 20, 40])
    assert choose(groups, "preference", 0.1).held_out.tolist() == [groups.keys[np.argmin(groups.tokens)]]
    assert not len(choose(groups_of([30]), "instruct", 0.1).held_out)


def test_one_key_alone_gives_its_last_part() -> None:
    for kind in ("text", "instruct", "preference"):
        groups = groups_of([5000], [50])
        assert choose(groups, kind, 0.1).tails.tolist() == groups.keys.tolist()
    assert tail_start(1000, 0.1) == 900 and tail_start(5, 0.1) == 5 and tail_start(10, 0.99) == 2
    assert tail_documents(np.full(50, 100), 0.1).nonzero()[0].tolist() == [45, 46, 47, 48, 49]
    assert tail_documents(np.array([1, 100]), 0.1).tolist() == [False, True]
    assert tail_documents(np.array([100, 1, 1]), 0.99).tolist() == [False, True, True]
    assert tail_documents(np.array([7]), 0.5).tolist() == [False]


def test_the_choice_depends_on_the_data_alone() -> None:
    tokens = np.random.default_rng(0).integers(10, 500, 300).tolist()
    groups = groups_of(tokens)
    assert choose(groups, "text", 0.1).held_out.tolist() == choose(groups, "text", 0.1).held_out.tolist()


def test_a_shortfall_is_said() -> None:
    assert shortfall(950, 50, 0.1) is None and shortfall(100, 0, 0.0) is None
    assert "holds 4.90% of the tokens instead of 10.00%" in shortfall(951, 49, 0.1)


def test_a_conversation_is_known_by_its_first_question() -> None:
    question = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    answers = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And?"}]
    assert conversation_key([*question, *answers]) == conversation_key([*question, answers[0]])
    assert conversation_key(question[1:]) != conversation_key(question)
    assert conversation_key([answers[0], question[1], answers[0]]) != conversation_key(
        [question[1], answers[0]]
    )
    assert conversation_key([question[0], answers[0]]) == conversation_key(
        [question[0], {**answers[0], "content": "x"}]
    )


def test_equal_texts_are_on_one_side_and_the_share_of_hashes_is_right() -> None:
    held_out = [in_validation(f"text {n}", 0.2) for n in range(10_000)]
    assert held_out == [key_hash(f"text {n}") < 0.2 * 2**64 for n in range(10_000)]
    assert 1_850 < sum(held_out) < 2_150
    # A larger share holds more.
    assert all(in_validation(f"text {n}", 0.5) for n in range(10_000) if held_out[n])


class Text:
    """Document with a key."""

    def __init__(self, split_key: str):
        self.split_key = split_key


def test_at_first_a_split_is_the_files_or_by_hash() -> None:
    texts = [Text(f"text {n}") for n in range(100)]
    by_hash = ["val" if in_validation(f"text {n}", 0.2) else "train" for n in range(100)]
    for options, expected in (
        ({}, by_hash),
        ({"split": "val"}, ["val"] * 100),
        ({"document": "a"}, ["train"] * 100),
    ):
        file_range = FileRange("rows.jsonl", "jsonl", 0, 1, 1, **options)
        assigned = list(assign_splits(texts, file_range, 0.2))
        assert [split for split, _ in assigned] == expected
        assert [document for _, document in assigned] == texts
