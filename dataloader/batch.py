"""Rows and batches: all that an objective ever sees of the data, whichever stage it belongs to.

Rows are NumPy arrays, made in `rows.py` and `pairs.py`; `collate` stacks B of them into a Batch of tensors.

Letters: B rows, T positions of a row, N positions with a label, S attention segments, P preference pairs.
Stages: P pretraining, S supervised fine-tuning, D preference alignment (DPO).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from config import IGNORE
from kernels.attention import Segments, copy_to


class Row(NamedTuple):
    """Row of T positions, as NumPy arrays; a field that a stage does not have is None.

    | field     | shape | dtype   | stages | meaning                                                         |
    |-----------|-------|---------|--------|-----------------------------------------------------------------|
    | tokens    | (T,)  | int64   | P S D  | input ids; 0 where the row is padded                            |
    | labels    | (T,)  | int64   | P S D  | id that follows each token; IGNORE (-100) where no loss is due  |
    | doc_ids   | (T,)  | int64   | P S D  | number of the document, conversation or pair within the row     |
    | branches  | (T,)  | int64   | D      | 0 shared prompt and padding, 1 chosen answer, 2 rejected answer |
    | positions | (T,)  | int64   | D      | position for RoPE; each answer continues from the shared prompt |
    | reference | (2P,) | float32 | D      | reference log-probs of the row's P pairs: chosen, rejected, ... |

    Padding has the next free document number, so no document attends to it.
    """

    tokens: np.ndarray
    labels: np.ndarray
    doc_ids: np.ndarray
    branches: np.ndarray | None = None
    positions: np.ndarray | None = None
    reference: np.ndarray | None = None


class Batch(NamedTuple):
    """Batch of B rows, as torch tensors; a field that a batch does not need is None.

    | field            | shape  | dtype     | stages | meaning                                               |
    |------------------|--------|-----------|--------|-------------------------------------------------------|
    | tokens           | (B, T) | int64     | P S D  | input ids                                             |
    | labels           | (B, T) | int64     | P S D  | already shifted; IGNORE (-100) where there is no loss |
    | doc_ids          | (B, T) | int64     | P S D  | as in Row; None if each row is one document           |
    | segments         | S      | Segments  | P S D  | kernels/attention.py; None if doc_ids is None         |
    | loss_positions   | (N,)   | int64     | P S D  | flat positions with a label; None if all have one     |
    | branches         | (B, T) | int64     | D      | as in Row                                             |
    | positions        | (B, T) | int64     | D      | as in Row                                             |
    | completion_index | (N,)   | int64     | D      | 2 * pair + (0 chosen, 1 rejected) of each label       |
    | pair_boundaries  | P      | list[int] | D      | number of loss positions up to the end of each pair   |
    | reference        | (2P,)  | float32   | D      | reference log-prob of each completion                 |

    Example: one preference pair as a batch of one row. The prompt is 11 12 13 14, the chosen answer 21 22 and
    the rejected answer 31 32; --block_size is 5. The row has 2 * 5 positions; the last three are padding. The
    last prompt token, 14, stands in both branches, since it has two labels: 21 and 31. Of segments, the rows are shown.

        tokens            [[ 11,   12,   13,   14,   21,   14,   31,    0,    0,    0]]
        labels            [[-100, -100, -100,  21,   22,   31,   32, -100, -100, -100]]
        doc_ids           [[  0,    0,    0,    0,    0,    0,    0,    1,    1,    1]]
        branches          [[  0,    0,    0,    1,    1,    2,    2,    0,    0,    0]]
        positions         [[  0,    1,    2,    3,    4,    3,    4,    0,    0,    0]]
        segments          [[3, 0], [2, 1], [2, 1], [3, 0]]
        loss_positions    [3, 4, 5, 6]
        completion_index  [0, 0, 1, 1]
        pair_boundaries   [4]
        reference         [-3.5, -4.25]
    """

    tokens: Tensor
    labels: Tensor
    doc_ids: Tensor | None = None
    segments: Segments | None = None
    loss_positions: Tensor | None = None
    branches: Tensor | None = None
    positions: Tensor | None = None
    completion_index: Tensor | None = None
    pair_boundaries: list[int] | None = None
    reference: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device; copies to CUDA go from pinned memory and do not block."""
        fields = {}
        for name, value in self._asdict().items():
            if isinstance(value, Tensor):
                value = copy_to(value, device)
            elif isinstance(value, Segments):
                value = value.to(device)
            fields[name] = value
        return Batch(**fields)


def collate(rows: list[Row], device: torch.device | None = None) -> Batch:
    """Stack rows into a batch, on the CPU or on a device."""
    tokens = np.stack([row.tokens for row in rows])  # B T
    labels = np.stack([row.labels for row in rows])  # B T
    doc_ids = np.stack([row.doc_ids for row in rows])  # B T
    loss_positions = np.flatnonzero(labels != IGNORE)  # N

    fields = {"tokens": tokens, "labels": labels}

    if len(loss_positions) < labels.size:
        fields["loss_positions"] = loss_positions

    has_pairs = rows[0].branches is not None
    if has_pairs:
        fields |= _pair_fields(rows, doc_ids, loss_positions)

    # Rows of one document each need neither ids nor segments: plain causal attention is faster.
    if has_pairs or (doc_ids != doc_ids[:, :1]).any():
        fields["doc_ids"] = doc_ids
        fields["segments"] = Segments.of(attention_segments(doc_ids, fields.get("branches")))

    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            fields[name] = torch.from_numpy(value)
    batch = Batch(**fields)

    if device is None:
        return batch
    return batch.to(device)


def _pair_fields(rows: list[Row], doc_ids: np.ndarray, loss_positions: np.ndarray) -> dict[str, object]:
    """Return the fields of a batch that preference pairs have alone."""
    branches = np.stack([row.branches for row in rows])  # B T
    positions = np.stack([row.positions for row in rows])  # B T
    reference = np.concatenate([row.reference for row in rows])  # 2P

    # doc_ids number the pairs of each row from 0. In the batch, they continue from row to row.
    pairs_per_row = [len(row.reference) // 2 for row in rows]
    first_pair = np.cumsum([0, *pairs_per_row[:-1]])  # B
    pair_of_token = doc_ids + first_pair[:, None]  # B T

    # Branch 1 is the chosen answer, branch 2 the rejected one; the prompt, branch 0, has no labels.
    completion_of_token = 2 * pair_of_token + branches - 1  # B T
    completion_index = completion_of_token.ravel()[loss_positions]  # N
    labels_per_pair = np.bincount(completion_index // 2, minlength=sum(pairs_per_row))  # P

    return {
        "branches": branches,
        "positions": positions,
        "reference": reference,
        "completion_index": completion_index,
        "pair_boundaries": labels_per_pair.cumsum().tolist(),
    }


def attention_segments(doc_ids: np.ndarray, branches: np.ndarray | None) -> np.ndarray:
    """Split the flattened batch into attention segments. Returns (S, 2): length, attends_prefix.

    See Segments in kernels/attention.py. Example: prompt 3, chosen 2, rejected 2 tokens -> [[3, 0], [2, 1], [2, 1]].
    """
    if branches is None:
        branches = np.zeros_like(doc_ids)

    starts_document = np.ones(doc_ids.shape, bool)  # B T
    starts_document[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    starts_segment = np.ones(doc_ids.shape, bool)  # B T
    starts_segment[:, 1:] = starts_document[:, 1:] | (branches[:, 1:] != branches[:, :-1])

    starts = np.flatnonzero(starts_segment)  # S, positions in the flattened batch
    lengths = np.diff(starts, append=doc_ids.size)  # S

    # The start of the document that each segment belongs to: the latest segment start that opens a document.
    document_starts = np.maximum.accumulate(np.where(starts_document.ravel()[starts], starts, 0))  # S
    has_prompt = branches.ravel()[document_starts] == 0  # S; a pair that shares no token has none
    attends_prefix = (branches.ravel()[starts] > 0) & has_prompt  # S
    return np.stack([lengths, attends_prefix], axis=1)
