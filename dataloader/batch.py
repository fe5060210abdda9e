"""What the rows of every stage become, and all that an objective sees."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attention import find_runs
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

    Of packed rows also doc_ids (B, T), and the same as runs (R, 2) of attention.find_runs. learned (N,) are the flat
    positions that have a label, None where all have one. Of preference pairs (P of them) also branches and positions
    (B, T), owners (N,): the completion, 2 * pair + (0 chosen, 1 rejected), that each learned position belongs to, ends,
    how many of these there are up to the end of each pair, and reference (2P,): each completion's log-prob under the
    reference.
    """

    tokens: Tensor
    labels: Tensor
    doc_ids: Tensor | None = None
    runs: Tensor | None = None
    learned: Tensor | None = None
    branches: Tensor | None = None
    positions: Tensor | None = None
    owners: Tensor | None = None
    ends: list[int] | None = None
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
    learned = np.flatnonzero(labels != IGNORE)
    pairs, ends = {}, None
    if rows[0].branches is not None:
        counts = [len(row.reference) // 2 for row in rows]
        first = np.cumsum([0, *counts[:-1]])  # of each row, among the pairs of the batch
        branches = np.stack([row.branches for row in rows])
        owners = (2 * (doc_ids + first[:, None]) + branches - 1).ravel()[learned]
        ends = np.bincount(owners // 2, minlength=sum(counts)).cumsum().tolist()
        pairs = {"branches": branches, "positions": np.stack([row.positions for row in rows]),
                 "owners": owners, "reference": np.concatenate([row.reference for row in rows])}
    packed = bool(pairs) or (doc_ids != doc_ids[:, :1]).any()
    arrays = {"tokens": tokens, "labels": labels, **({"doc_ids": doc_ids} if packed else {}),
              **({"runs": find_runs(doc_ids, pairs.get("branches"))} if packed else {}),
              **({"learned": learned} if len(learned) < labels.size else {}), **pairs}
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()}, ends=ends)
