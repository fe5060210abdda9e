"""Rows of preference pairs: the prompt once, answers as branches, reference log-probs of the right pairs."""

from collections.abc import Callable

import numpy as np
import pytest
from token_rows import pair_rows, rows_of_epoch, token_conversation, unique_pairs

from config import IGNORE
from dataloader.batch import collate
from dataloader.packing import Document
from dataloader.pairs import PairRows, split_pair
from dataprep.shards import TokenDataset
from runtime.errors import UserError


@pytest.mark.parametrize("T", [24, 60])
def test_a_pair_is_its_prompt_once_and_its_answers_as_branches(
    make_store: Callable[..., TokenDataset], T: int
) -> None:
    pairs = unique_pairs(60)
    rows = pair_rows(make_store, pairs, T)
    seen_pairs = set()
    shared = 0

    for row in rows_of_epoch(rows, 0):
        assert row.tokens.shape == (2 * T,)
        assert row.positions.max() < T

        for number in range(len(row.reference) // 2):
            in_pair = row.doc_ids == number
            in_prompt = in_pair & (row.branches == 0)
            pair = int(row.tokens[in_pair][0]) // 1000 - 1
            seen_pairs.add(pair)
            assert row.reference[2 * number : 2 * number + 2].tolist() == [2 * pair, 2 * pair + 1]
            assert (row.labels[in_prompt] == IGNORE).all()

            for branch, (ids, loss_mask) in enumerate(pairs[pair], 1):
                attended = in_pair & np.isin(row.branches, [0, branch])
                assert np.array_equal(row.tokens[attended], ids[:-1])
                assert np.array_equal(row.positions[attended], np.arange(len(ids) - 1))
                labels = row.labels[attended & (row.branches == branch)]
                assert np.array_equal(labels, np.where(loss_mask, ids, IGNORE)[1 + in_prompt.sum() :])
                assert (row.labels[attended] != IGNORE).sum() == loss_mask.sum()
            shared += in_prompt.sum()

    assert seen_pairs == set(range(60))
    assert rows.notes == []
    # The last token of the prompt has two labels and is not shared.
    assert shared == sum((~loss_mask).sum() - 1 for (_, loss_mask), _ in pairs)


def test_a_batch_of_pairs_names_the_completion_of_each_label(
    make_store: Callable[..., TokenDataset],
) -> None:
    pairs = unique_pairs(30)
    rows = pair_rows(make_store, pairs, 30)
    batch = collate([rows.at(index) for index in range(3)])
    tokens = batch.tokens.flatten()[batch.loss_positions].numpy()
    labels = batch.labels.flatten()[batch.loss_positions].numpy()
    completion_index = batch.completion_index.numpy()
    assert batch.labels.shape == (3, 60)
    assert len(batch.reference) > 6
    assert (labels != IGNORE).all()

    for completion, number in enumerate(batch.reference.long().tolist()):
        ids, loss_mask = pairs[number // 2][number % 2]
        assert labels[completion_index == completion].tolist() == ids[loss_mask].tolist()
        assert tokens[completion_index == completion].tolist() == ids[:-1][loss_mask[1:]].tolist()
    assert completion_index.max() + 1 == len(batch.reference)

    everything = collate([rows.at(index) for index in range(len(rows))])
    assert sorted(everything.reference.tolist()) == list(range(60))


def test_a_pair_is_split_at_its_first_difference() -> None:
    same_prompt = split_pair(token_conversation(10, 4, 3), token_conversation(10, 4, 2))
    assert same_prompt.prompt_ids.tolist() == [10, 11, 12]
    assert same_prompt.chosen[0].tolist() == [13, 14, 15, 16]
    assert same_prompt.rejected[0].tolist() == [13, 14, 15]
    assert same_prompt.rejected[1].tolist() == [False, True, True]
    assert same_prompt.size == 3 + 3 + 2
    assert same_prompt.differs

    # Prompts that part earlier share less, and those that never agree share nothing.
    chosen = token_conversation(10, 4, 3)
    other_prompt = (chosen[0] + np.array([0, 0, 50, 0, 0, 0, 0]), chosen[1])
    assert split_pair(chosen, other_prompt).prompt_ids.tolist() == [10]
    nothing_shared = split_pair(chosen, token_conversation(500, 4, 3))
    assert nothing_shared.prompt_ids.tolist() == []
    assert nothing_shared.size == 6 + 6
    assert not split_pair(chosen, chosen).differs


def test_a_reference_gives_new_rows_and_leaves_the_old_ones(make_store: Callable[..., TokenDataset]) -> None:
    rows = PairRows(make_store([[*unique_pairs(1)[0]]], kind="preference"), 30, seed=0)
    table = np.array([[-3.0, -5.0]], np.float32)
    with_reference = rows.with_reference(table)
    assert with_reference.at(0).reference.tolist() == [-3.0, -5.0]
    assert rows.at(0).reference.tolist() == [0.0, 0.0]
    assert np.array_equal(with_reference.at(0).tokens, rows.at(0).tokens)


def test_pairs_that_truncation_makes_equal_are_skipped(make_store: Callable[..., TokenDataset]) -> None:
    def pair(start: int, same: int) -> tuple[Document, Document]:
        chosen = token_conversation(start, 4, 30)
        rejected = token_conversation(start, 4, 20)
        rejected[0][4 + same :] += 500
        return chosen, rejected

    pairs = [pair(1000, 0), pair(2000, 15), pair(3000, 5), pair(4000, 11), pair(5000, 12)]
    rows = pair_rows(make_store, pairs, 15)  # 16 tokens: 12 of each answer
    kept = sorted(number for members in rows.members for number in members.tolist())
    assert kept == [0, 2, 3]
    assert rows.notes == [
        "10 of 10 answers in the train set exceed --block_size 15 + 1 tokens with their prompt and are "
        "truncated (prompt first)",
        "2 pairs skipped: chosen and rejected are equal after truncation to --block_size",
    ]

    batch = collate([rows.at(index) for index in range(len(rows))])
    assert len(batch.reference) == 6
    assert set(batch.completion_index.tolist()) == set(range(6))
    with pytest.raises(UserError, match="no pair of the val set in .* differs within --block_size 15 "):
        pair_rows(make_store, [pairs[1], pairs[4]], 15, split="val")
