"""Rows of text and conversations: every token once an epoch, documents numbered, validation complete."""

from collections.abc import Callable

import numpy as np
import pytest
from token_rows import rows_of_epoch, stack, token_conversation, unique_conversations

from config import IGNORE
from dataloader.loader import fixed_batches
from dataloader.rows import PackedRows, StreamRows, StreamValidation
from dataprep.shards import TokenDataset
from runtime.errors import UserError


@pytest.fixture
def dataset(make_store: Callable[..., TokenDataset]) -> TokenDataset:
    """1,003 tokens, each its own position, in three shards that end inside rows."""
    shards = [[np.arange(0, 300), np.arange(300, 333)], [np.arange(333, 350)], [np.arange(350, 1003)]]
    return make_store(shards)


@pytest.mark.parametrize("T", [10, 17, 59])  # 1003 = 17 * 59: with these, rows use up every token
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_has_every_token_once(dataset: TokenDataset, T: int, epoch: int) -> None:
    rows = StreamRows(dataset, T, seed=3)
    assert len(rows) == 1003 // T
    epoch_rows = rows_of_epoch(rows, epoch)
    tokens = np.concatenate([row.tokens for row in epoch_rows])
    labels = np.concatenate([row.labels for row in epoch_rows])
    assert len(set(tokens.tolist())) == len(tokens) == 1003 // T * T
    assert np.array_equal(labels, (tokens + 1) % 1003)  # across shards, and from the end to the start

    starts = [row.tokens[0] for row in epoch_rows]
    assert starts != sorted(starts)

    borders = [{299, 300}, {332, 333}, {349, 350}]  # of documents and shards
    crossing = [row for row in epoch_rows if any(border <= set(row.tokens) for border in borders)]
    assert crossing, "no row crosses the border of a document or shard"
    assert 1003 % T or 0 in labels


def test_epochs_differ_in_order_and_cuts(dataset: TokenDataset) -> None:
    def starts(seed: int, epoch: int) -> list[int]:
        return [int(row.tokens[0]) for row in rows_of_epoch(StreamRows(dataset, 10, seed), epoch)]

    epochs = [starts(3, epoch) for epoch in range(4)]
    assert epochs[0][0] % 10 == 0
    assert len({start[0] % 10 for start in epochs}) > 1
    assert len({tuple(np.argsort(start)) for start in epochs}) == 4
    assert starts(4, 0) != epochs[0]
    assert starts(3, 0) == epochs[0]


def test_rows_name_the_document_of_each_token(make_store: Callable[..., TokenDataset]) -> None:
    dataset = make_store([[[5, 6, 0], [7, 0], [8, 9, 9, 9, 9, 9, 9, 9, 9, 0]]], eos_id=0)
    (batch,) = fixed_batches(StreamValidation(dataset, 7, 0), 4, 0, 1)
    assert batch.tokens.tolist() == [[5, 6, 0, 7, 0, 8, 9], [9, 9, 9, 9, 9, 9, 9]]
    assert batch.doc_ids.tolist() == [[0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 0]]

    one_document = make_store([[[5, 6, 7, 8, 0]]], "val", eos_id=0)
    (batch,) = fixed_batches(StreamValidation(one_document, 4, 0), 4, 0, 1)
    assert batch.doc_ids is None  # plain causal attention, which is faster


@pytest.mark.parametrize("T", [10, 17, 333, 1002, 2000])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_counts_every_token_once(dataset: TokenDataset, T: int, world: int) -> None:
    rows = StreamValidation(dataset, T, 0)
    shares = [list(fixed_batches(rows, 4, rank, world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1  # no rank waits for another

    tokens, labels = stack([batch for share in shares for batch in share])
    counted = labels != IGNORE
    assert sorted(labels[counted].tolist()) == list(range(1, 1003))  # all but the first
    assert np.array_equal(labels[counted], tokens[counted] + 1)
    assert tokens.shape[1] == T
    assert all(len(batch.tokens) <= 4 for share in shares for batch in share)


def test_too_little_text_is_a_users_error(make_store: Callable[..., TokenDataset]) -> None:
    dataset = make_store([[np.arange(10)]])
    assert len(StreamRows(dataset, 9, seed=0)) == 1
    with pytest.raises(UserError, match="10 tokens.* --block_size 10 "):
        StreamRows(dataset, 10, seed=0)
    with pytest.raises(UserError, match="val set .* 1 tokens"):
        StreamValidation(make_store([[np.arange(1)]], "val"), 4, 0)


def test_large_vocabularies_are_read(make_store: Callable[..., TokenDataset]) -> None:
    dataset = make_store([[np.arange(70_000, 70_050)]], vocab_size=70_050)
    row = StreamRows(dataset, 10, seed=0).at(0)
    assert np.array_equal(row.labels, row.tokens + 1)
    assert row.tokens.min() >= 70_000
    assert row.tokens.dtype == np.int64


@pytest.mark.parametrize("T", [24, 40, 200])
def test_every_token_with_loss_is_a_label_once_an_epoch(
    make_store: Callable[..., TokenDataset], T: int
) -> None:
    conversations, with_loss = unique_conversations(100)
    rows = PackedRows(make_store([conversations[:60], conversations[60:]], kind="instruct"), T, seed=3)
    assert rows.notes == []
    assert len(rows) < sum(len(ids) for ids, _ in conversations) / T + 2  # packed tight

    orders = set()
    for epoch in range(3):
        epoch_rows = rows_of_epoch(rows, epoch)
        tokens = np.concatenate([row.tokens for row in epoch_rows])
        labels = np.concatenate([row.labels for row in epoch_rows])
        has_label = labels != IGNORE
        assert sorted(labels[has_label].tolist()) == with_loss.tolist()
        # Labels are shifted, and never those of the next conversation.
        assert np.array_equal(labels[has_label], tokens[has_label] + 1)
        assert sorted(tokens[tokens > 0].tolist()) == [
            token for ids, _ in conversations for token in ids[:-1].tolist()
        ]
        orders.add(tuple(int(row.tokens[0]) for row in epoch_rows))
    assert len(orders) == 3


def test_packed_rows_number_their_conversations(make_store: Callable[..., TokenDataset]) -> None:
    conversations, _ = unique_conversations(100)
    rows = PackedRows(make_store([conversations[:60], conversations[60:]], kind="instruct"), 40, seed=3)
    several = 0
    padded = 0
    for index in range(len(rows)):
        row = rows.at(index)
        numbers = sorted(set(row.doc_ids.tolist()))
        several += len(numbers) > 2
        padded += not row.tokens.all()
        for number in numbers:
            tokens = row.tokens[row.doc_ids == number]
            one_conversation = np.arange(tokens[0], tokens[0] + len(tokens))
            assert np.array_equal(tokens, one_conversation) or not tokens.any()
    assert several > 10
    assert padded


def test_the_end_of_a_response_is_a_label_and_truncation_is_noted(
    make_store: Callable[..., TokenDataset],
) -> None:
    conversations = [
        token_conversation(10, 5, 4),
        token_conversation(100, 30, 4),
        token_conversation(200, 3, 30),
    ]
    rows = PackedRows(make_store([conversations], kind="instruct"), 16, seed=0)
    assert rows.notes == [
        "2 of 3 conversations in the train set exceed --block_size 16 + 1 tokens and are truncated "
        "(prompt first)"
    ]
    labels = np.concatenate([rows.at(index).labels for index in range(len(rows))])
    assert sorted(labels[labels != IGNORE].tolist()) == [*range(15, 19), *range(130, 134), *range(203, 217)]
