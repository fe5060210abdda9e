"""What the rows of every stage become, and all that an objective sees."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """tokens (B, T); labels (B, T), already shifted, IGNORE where nothing is learned; doc_ids (B, T) of packed rows."""

    tokens: Tensor
    labels: Tensor
    doc_ids: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; on CUDA copied from pinned memory while the device works on."""
        if device.type == "cuda":
            return Batch(*(x if x is None else x.pin_memory().to(device, non_blocking=True) for x in self))
        return Batch(*(x if x is None else x.to(device) for x in self))


def collate(rows: list[tuple[np.ndarray, ...]]) -> Batch:
    """Stack rows of (tokens, labels, doc_ids), each (T,), into a batch; rows of one document each need no doc_ids."""
    tokens, labels, doc_ids = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    return Batch(tokens, labels, doc_ids if (doc_ids != doc_ids[:, :1]).any() else None)
