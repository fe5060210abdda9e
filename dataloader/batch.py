"""What the rows of every stage become, and all that an objective sees."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from config import IGNORE


class Row(NamedTuple):
    """One row of T tokens as a stage cuts it; what is None is not needed there.

    labels (T,) are shifted already. doc_ids (T,) number the documents of a packed row; the branches 1 and 2 of one are
    the two answers to its branch 0, which positions (T,) count on from. A pair has its reference log-probs (2,).
    """

    tokens: np.ndarray
    labels: np.ndarray
    doc_ids: np.ndarray
    branches: np.ndarray | None = None
    positions: np.ndarray | None = None
    reference: np.ndarray | None = None


class Batch(NamedTuple):
    """tokens (B, T); labels (B, T), already shifted, IGNORE where nothing is learned.

    Packed rows also have doc_ids (B, T) and segments (S, 2), see attention_segments. loss_positions (N,) are
    the flat positions that have a label, None where all have one. Preference pairs (P of them) also have branches and
    positions (B, T); completion_index (N,): the completion, 2 * pair + (0 chosen, 1 rejected), of each loss position;
    pair_boundaries: the number of loss positions up to the end of each pair; and reference (2P,): the log-prob of each
    completion under the reference model.
    """

    tokens: Tensor
    labels: Tensor
    doc_ids: Tensor | None = None
    segments: Tensor | None = None
    loss_positions: Tensor | None = None
    branches: Tensor | None = None
    positions: Tensor | None = None
    completion_index: Tensor | None = None
    pair_boundaries: list[int] | None = None
    reference: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; on CUDA copied from pinned memory while the device works on."""
        if device.type == "cuda":
            return self._apply(lambda x: x.pin_memory().to(device, non_blocking=True))
        return self._apply(lambda x: x.to(device))

    def _apply(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(*(move(x) if isinstance(x, Tensor) else x for x in self))


def collate(rows: list[Row]) -> Batch:
    """Stack rows into a batch; rows of one document each need no doc_ids."""
    tokens, labels, doc_ids = (np.stack(column) for column in list(zip(*rows, strict=True))[:3])
    loss_positions = np.flatnonzero(labels != IGNORE)
    pairs, pair_boundaries = {}, None
    if rows[0].branches is not None:
        counts = [len(row.reference) // 2 for row in rows]
        first = np.cumsum([0, *counts[:-1]])  # of each row, among the pairs of the batch
        branches = np.stack([row.branches for row in rows])
        completion_index = (2 * (doc_ids + first[:, None]) + branches - 1).ravel()[loss_positions]
        pair_boundaries = np.bincount(completion_index // 2, minlength=sum(counts)).cumsum().tolist()
        pairs = {
            "branches": branches,
            "positions": np.stack([row.positions for row in rows]),
            "completion_index": completion_index,
            "reference": np.concatenate([row.reference for row in rows]),
        }
    packed = bool(pairs) or (doc_ids != doc_ids[:, :1]).any()
    arrays = {
        "tokens": tokens,
        "labels": labels,
        **({"doc_ids": doc_ids} if packed else {}),
        **({"segments": attention_segments(doc_ids, pairs.get("branches"))} if packed else {}),
        **({"loss_positions": loss_positions} if len(loss_positions) < labels.size else {}),
        **pairs,
    }
    return Batch(
        **{name: torch.from_numpy(array) for name, array in arrays.items()}, pair_boundaries=pair_boundaries
    )


def attention_segments(doc_ids: np.ndarray, branches: np.ndarray | None) -> np.ndarray:
    """Split the flattened batch into attention segments. Returns (S, 2): length, attends_prefix.

    A segment attends causally to itself. With attends_prefix = 1 it also attends to all of the latest segment with
    attends_prefix = 0: in a preference pair, both answers attend to the shared prompt.
    Example: prompt 3, chosen 2, rejected 2 tokens -> [[3, 0], [2, 1], [2, 1]].
    """
    branches = np.zeros_like(doc_ids) if branches is None else branches
    opens, parts = np.ones(doc_ids.shape, bool), np.ones(doc_ids.shape, bool)
    opens[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    parts[:, 1:] = opens[:, 1:] | (branches[:, 1:] != branches[:, :-1])
    starts = np.flatnonzero(parts)
    first = np.maximum.accumulate(
        np.where(opens.ravel()[starts], starts, 0)
    )  # where the run's document starts
    follows = (branches.ravel()[starts] > 0) & (branches.ravel()[first] == 0)
    return np.stack([np.diff(starts, append=doc_ids.size), follows], axis=1)
