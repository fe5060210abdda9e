"""Rows of preference pairs: the prompt of a pair once, then both answers, which do not attend to each other.

batch.py has the row of one pair written out, field by field.
"""

import copy
from dataclasses import dataclass

import numpy as np

from config import IGNORE
from dataloader.batch import Row
from dataloader.packing import Document, first_fit_decreasing, truncate_to_context
from dataprep.shards import TokenDataset
from runtime.errors import UserError


@dataclass(frozen=True)
class Pair:
    """Preference pair: the shared prompt, then each answer with its loss mask.

    The last token in common has two labels, so it is the first of each answer and not part of prompt_ids.
    """

    prompt_ids: np.ndarray
    chosen: Document
    rejected: Document

    @property
    def size(self) -> int:
        """Return the number of positions in a row: the last token of an answer is a label only."""
        return len(self.prompt_ids) + len(self.chosen[0]) - 1 + len(self.rejected[0]) - 1

    @property
    def differs(self) -> bool:
        """Return False if both answers have the same tokens."""
        return not np.array_equal(self.chosen[0], self.rejected[0])


def split_pair(chosen: Document, rejected: Document) -> Pair:
    """Split two conversations at their first difference, at the latest where the first response begins."""
    chosen_ids, chosen_mask = chosen
    rejected_ids, rejected_mask = rejected

    response_start = min(int(chosen_mask.argmax()), int(rejected_mask.argmax()))
    differing = np.flatnonzero(chosen_ids[:response_start] != rejected_ids[:response_start])
    in_common = response_start
    if len(differing):
        in_common = int(differing[0])

    prompt = max(0, in_common - 1)  # the last common token belongs to both answers
    return Pair(
        chosen_ids[:prompt],
        (chosen_ids[prompt:], chosen_mask[prompt:]),
        (rejected_ids[prompt:], rejected_mask[prompt:]),
    )


class PairRows:
    """Preference pairs packed into rows of 2T positions; the rows are the same in every epoch.

    `reference` (pairs, 2) holds the reference log-probs of chosen and rejected for every pair of the dataset;
    `with_reference` gives rows that have them, until then they are zero.
    """

    def __init__(self, dataset: TokenDataset, T: int, seed: int):
        self.dataset = dataset
        self.T = T
        self.seed = seed

        count = dataset.documents // 2
        self.reference = np.zeros((count, 2), np.float32)

        # Equal answers teach nothing; truncation can make them equal.
        sizes = np.zeros(count, int)
        differs = np.zeros(count, bool)
        for number in range(count):
            pair = self.read_pair(number)
            sizes[number] = pair.size
            differs[number] = pair.differs

        used = np.flatnonzero(differs)
        if not len(used):
            raise UserError(
                f"no pair of the {dataset.split} set in {dataset.folder} differs within --block_size {T} + 1 "
                "tokens: choose a larger block_size"
            )
        self.members = [used[row] for row in first_fit_decreasing(sizes[used], 2 * T)]
        self.notes = self._truncation_notes(skipped=count - len(used))

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""
        return len(self.members)

    def at(self, index: int, epoch: int = 0) -> Row:
        """Return row `index` of the packing."""
        members = self.members[index]
        length = 2 * self.T
        row = Row(
            tokens=np.zeros(length, np.int64),
            labels=np.full(length, IGNORE),
            doc_ids=np.full(length, len(members)),  # the number of the padding; pairs overwrite it
            branches=np.zeros(length, np.int64),
            positions=np.zeros(length, np.int64),
            reference=self.reference[members].ravel(),
        )

        end = 0
        for doc_id, number in enumerate(members):
            pair = self.read_pair(number)
            end = put(row, end, pair.prompt_ids, IGNORE, doc_id, branch=0, position=0)

            for branch, (ids, loss_mask) in enumerate((pair.chosen, pair.rejected), start=1):
                labels = np.where(loss_mask[1:], ids[1:], IGNORE)
                end = put(row, end, ids[:-1], labels, doc_id, branch, position=len(pair.prompt_ids))
        return row

    def read_pair(self, number: int) -> Pair:
        """Read a pair by its number in the dataset, truncated to T + 1 tokens an answer."""
        chosen = self.dataset.document(2 * number)
        rejected = self.dataset.document(2 * number + 1)
        return split_pair(*truncate_to_context([chosen, rejected], self.T + 1))

    def with_reference(self, table: np.ndarray) -> "PairRows":
        """Return the same rows with the reference log-probs (pairs, 2) of each pair."""
        rows = copy.copy(self)
        rows.reference = table
        return rows

    def _truncation_notes(self, skipped: int) -> list[str]:
        """Return notes for the user about truncated answers and skipped pairs."""
        notes = []
        lengths = np.diff(self.dataset.document_bounds)
        too_long = int((lengths > self.T + 1).sum())
        if too_long:
            notes.append(
                f"{too_long:,} of {len(lengths):,} answers in the {self.dataset.split} set exceed "
                f"--block_size {self.T} + 1 tokens with their prompt and are truncated (prompt first)"
            )
        if skipped:
            notes.append(
                f"{skipped:,} pairs skipped: chosen and rejected are equal after truncation to --block_size"
            )
        return notes


def put(
    row: Row,
    start: int,
    tokens: np.ndarray,
    labels: np.ndarray | int,
    doc_id: int,
    branch: int,
    position: int,
) -> int:
    """Write one segment of a pair into a row at `start`, positions from `position` on. Returns its end."""
    end = start + len(tokens)
    row.tokens[start:end] = tokens
    row.labels[start:end] = labels
    row.doc_ids[start:end] = doc_id
    row.branches[start:end] = branch
    row.positions[start:end] = np.arange(position, position + len(tokens))
    return end
