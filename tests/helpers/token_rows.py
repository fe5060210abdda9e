"""Conversations and pairs of unique token ids, and the rows and batches made of them."""

from collections.abc import Callable

import numpy as np
import torch

from dataloader.batch import Batch, Row
from dataloader.loader import Loader, Rows
from dataloader.packing import Document
from dataloader.pairs import PairRows
from dataprep.shards import TokenDataset


def token_conversation(start: int, prompt: int, response: int) -> Document:
    """Return a conversation whose ids count from `start`, with loss on its response."""
    ids = np.arange(start, start + prompt + response)
    loss_mask = np.arange(prompt + response) >= prompt
    return ids, loss_mask


def unique_conversations(count: int) -> tuple[list[Document], np.ndarray]:
    """Return conversations without a repeated id, some of several turns, and their ids with loss in order."""
    random = np.random.default_rng(1)
    conversations = []
    start = 1
    for number in range(count):
        ids, loss_mask = token_conversation(start, random.integers(1, 12), random.integers(1, 9))
        if number % 3 == 0:
            loss_mask = np.concatenate([loss_mask, [False, False], [True] * (1 + number % 4)])
            ids = np.arange(start, start + len(loss_mask))
        conversations.append((ids, loss_mask))
        start = int(ids[-1]) + 2  # a gap, so that no id follows one of another conversation
    with_loss = np.concatenate([ids[loss_mask] for ids, loss_mask in conversations])
    return conversations, with_loss


def unique_pairs(count: int) -> list[tuple[Document, Document]]:
    """Return pairs whose answers share 0 to 2 first tokens; no id is in two pairs, nor twice in an answer."""
    random = np.random.default_rng(2)
    pairs = []
    for number in range(count):
        start = 1000 * (number + 1)
        prompt = random.integers(1, 12)
        common = number % 3
        answers = []
        for side in range(2):
            ids, loss_mask = token_conversation(start, prompt, common + random.integers(1, 9))
            ids[prompt + common :] += 300 * (1 + side)
            answers.append((ids, loss_mask))
        pairs.append(tuple(answers))
    return pairs


def pair_rows(
    make_store: Callable[..., TokenDataset],
    pairs: list[tuple[Document, Document]],
    T: int,
    split: str = "train",
) -> PairRows:
    """Return rows of pairs whose reference log-probs are 0, 1, 2, ... in the order of the answers."""
    answers = [answer for pair in pairs for answer in pair]
    dataset = make_store([answers], kind="preference", split=split)
    table = np.arange(len(answers), dtype=np.float32).reshape(-1, 2)
    return PairRows(dataset, T, seed=3).with_reference(table)


def rows_of_epoch(rows: Rows, epoch: int) -> list[Row]:
    """Return the rows of an epoch in the order of a Loader."""
    loader = Loader(rows, 1, rank=0, world_size=1)
    numbers = range(epoch * len(rows), (epoch + 1) * len(rows))
    positions = [loader.epoch_and_index(number) for number in numbers]
    assert {epoch for epoch, _ in positions} == {epoch}
    return [rows.at(index, epoch) for _, index in positions]


def stack(batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and labels of all batches, one row below the other."""
    tokens = torch.cat([batch.tokens for batch in batches]).numpy()
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    return tokens, labels
