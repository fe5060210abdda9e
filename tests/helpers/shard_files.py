"""Small shards for tests, and how a split of them is opened."""

from pathlib import Path

import numpy as np

from dataprep.shards import ShardWriter, TokenDataset


def write_texts(folder: Path, index: int, texts: list[list[int]], last_continues: bool = False) -> dict:
    """Write one training shard of texts; each has ten bytes."""
    writer = ShardWriter(folder, "train", index, np.uint16, with_loss_mask=False)
    for number, ids in enumerate(texts, 1):
        is_complete = number < len(texts) or not last_continues
        writer.add(np.array(ids), None, 10, is_complete)
    return writer.close()


def write_conversations(folder: Path, index: int, conversations: list[list[int]]) -> dict:
    """Write one training shard of conversations: prompts of ids below 50, responses of ids from 50 on."""
    writer = ShardWriter(folder, "train", index, np.uint16, with_loss_mask=True)
    for ids in conversations:
        writer.add(np.array(ids), np.array(ids) >= 50, 10, is_complete=True)
    return writer.close()


def open_split(folder: Path, split: str, shards: list[dict], vocab_size: int = 100) -> TokenDataset:
    """Return the dataset of one split."""
    return TokenDataset(folder, split, {"tokenizer": {"vocab_size": vocab_size}, "splits": {split: shards}})


def read_conversations(folder: Path, shards: list[dict]) -> list[list[int]]:
    """Return the conversations of shards, after checking that each has the loss mask it was written with."""
    dataset = open_split(folder, "train", shards)
    conversations = []
    for ids, loss_mask in map(dataset.document, range(dataset.documents)):
        assert np.array_equal(loss_mask, ids >= 50)
        conversations.append(ids.tolist())
    return conversations
