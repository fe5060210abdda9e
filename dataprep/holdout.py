"""The validation split: which documents are held out of training.

A dataset without a split of its own holds out `fraction` of its tokens:

- Documents with equal keys are one group, and never on both sides. The key of a text is the text; that of a
  conversation or pair is its system and first user turn.
- Groups are taken by a hash of their key, so the choice depends on the data alone. Where that gives less than half or
  more than twice the share, or the dataset is small, groups are chosen by their size as well.
- A group that is larger than the share stays in training; a text of this size gives its last part.
- Conversations that all have one key give the last of them.

Workers assign documents by their hash at first (`assign_splits`); `choose` corrects that when all sizes are known.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from dataprep.ranges import FileRange

HASHES = 2**64
# With this number of documents the number of those held out is near enough to the share.
MANY_DOCUMENTS = 1000
MIN_TAIL = 2  # tokens: one to read and one to predict


class HasKey(Protocol):
    """Document of dataprep/documents.py, as far as the split is concerned."""

    split_key: str


Document = TypeVar("Document", bound=HasKey)


@functools.lru_cache(maxsize=1)  # of a document it is needed twice
def key_hash(split_key: str) -> int:
    """Return the hash of a key, below 2**64."""
    return int.from_bytes(hashlib.blake2b(split_key.encode(), digest_size=8).digest(), "big")


def in_validation(split_key: str, fraction: float) -> bool:
    """Return True for a key that is held out by its hash alone."""
    return key_hash(split_key) < fraction * HASHES


def conversation_key(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the key of a conversation: its turns up to the user's first.

    Conversations that begin alike stay together, however they continue.
    """
    first = next((n for n, turn in enumerate(messages) if turn["role"] == "user"), len(messages) - 2)
    return json.dumps([{"role": turn["role"], "content": turn["content"]} for turn in messages[: first + 1]])


def assign_splits(
    documents: Iterable[Document], file_range: FileRange, fraction: float
) -> Iterator[tuple[str, Document]]:
    """Yield (split, document): the split of the file where it has one, else by hash.

    A document of several pieces is most likely larger than the share, so it begins in train.
    """
    by_hash = file_range.split is None and file_range.document is None
    for document in documents:
        split = file_range.split or "train"
        if by_hash and in_validation(document.split_key, fraction):
            split = "val"
        yield split, document


@dataclass(frozen=True)
class Groups:
    """Documents by key, in the order of their hashes: key, tokens and documents of each group, each (G,)."""

    keys: np.ndarray
    tokens: np.ndarray
    documents: np.ndarray


@dataclass(frozen=True)
class Choice:
    """Keys of the groups that are held out, and of those that give their last part."""

    held_out: np.ndarray
    tails: np.ndarray


def choose(groups: Groups, kind: str, fraction: float) -> Choice:
    """Choose what is held out of a dataset."""
    total = int(groups.tokens.sum())
    share = fraction * total
    is_large = groups.tokens > share
    has_tails = is_large if kind == "text" else np.full(len(groups.keys), len(groups.keys) == 1)
    tail_tokens = fraction * int(groups.tokens[has_tails].sum())

    small = np.flatnonzero(~is_large & ~has_tails)
    chosen = _choose_small(groups, small, share, tail_tokens, fraction)
    if not len(chosen) and not has_tails.any() and len(groups.keys) > 1:
        chosen = _smallest(groups, share)
    return Choice(groups.keys[chosen], groups.keys[has_tails])


def _choose_small(
    groups: Groups, small: np.ndarray, share: float, tail_tokens: float, fraction: float
) -> np.ndarray:
    """Return the numbers of the small groups that are held out beside `tail_tokens` of the large ones."""
    tokens, documents = groups.tokens, groups.documents
    total_documents = int(documents.sum())
    max_documents = max(1, int(fraction * total_documents))

    def is_enough(chosen: np.ndarray) -> bool:
        return share / 2 <= tail_tokens + int(tokens[chosen].sum()) <= 2 * share

    by_hash = small[groups.keys[small] < fraction * HASHES]
    is_many = total_documents >= MANY_DOCUMENTS
    if is_enough(by_hash) and (is_many or int(documents[by_hash].sum()) <= max_documents):
        return by_hash

    # The first by their hash that fit into the share.
    fits = tail_tokens + np.cumsum(tokens[small]) <= share
    prefix = small[fits & (np.cumsum(documents[small]) <= max_documents)]
    if is_enough(prefix):
        return prefix

    # The largest first, which gives half the share or more unless there is less.
    largest_first = small[np.argsort(-tokens[small], kind="stable")]
    chosen = prefix
    for limit in (max_documents, total_documents):
        chosen = _fill(groups, largest_first, share - tail_tokens, limit)
        if is_enough(chosen):
            return chosen

    # One more group, though it exceeds the share.
    rest = np.setdiff1d(small, chosen)
    if len(rest):
        extended = np.append(chosen, rest[np.argmin(tokens[rest])])
        if is_enough(extended) and int(tokens[extended].sum()) < int(tokens.sum()):
            return extended
    return chosen


def _fill(groups: Groups, candidates: np.ndarray, room: float, max_documents: int) -> np.ndarray:
    """Return the candidates, in order, that fit into the room."""
    chosen = []
    for number in candidates.tolist():
        if groups.tokens[number] <= room and groups.documents[number] <= max_documents:
            chosen.append(number)
            room -= int(groups.tokens[number])
            max_documents -= int(groups.documents[number])
    return np.array(sorted(chosen), np.int64)


def _smallest(groups: Groups, share: float) -> np.ndarray:
    """Return the smallest group where all exceed the share: if it is twice the share at most, or one conversation."""
    smallest = int(np.argmin(groups.tokens))
    if groups.tokens[smallest] <= 2 * share or groups.documents[smallest] == 1:
        return np.array([smallest])
    return np.array([], np.int64)


def tail_start(tokens: int, fraction: float) -> int:
    """Return the position where the last part of a text begins; its end where the part would be too short."""
    tail = min(round(tokens * fraction), tokens - MIN_TAIL)
    return tokens - tail if tail >= MIN_TAIL else tokens


def tail_documents(tokens: np.ndarray, fraction: float) -> np.ndarray:
    """Return True for the last documents, about `fraction` of the tokens (N,): one at least, and not all."""
    middles = np.cumsum(tokens) - tokens / 2
    held_out = middles > (1 - fraction) * tokens.sum()
    held_out[-1:] = True
    held_out[:1] = False
    return held_out


def shortfall(train_tokens: int, val_tokens: int, fraction: float) -> str | None:
    """Return a line for a validation set of less than half the share; None for a larger one."""
    total = train_tokens + val_tokens
    if val_tokens >= fraction * total / 2:
        return None
    return (
        f"note: the validation set holds {val_tokens / total:.2%} of the tokens instead of {fraction:.2%}: the data "
        "has too few documents, or too few different prompts; --val_files takes files of your own"
    )
