"""Rows of text and conversations: the token stream cut into rows, and conversations packed into rows.

Each class is a `Rows` (see loader.py): `len(rows)` rows an epoch, `rows.at(index, epoch)` for one of them.
Preference pairs are in pairs.py.
"""

import numpy as np

from config import IGNORE
from dataloader.batch import Row
from dataloader.loader import keyed_hash
from dataloader.packing import first_fit_decreasing, truncate_to_context
from dataprep.shards import TokenDataset
from runtime.errors import UserError


class StreamRows:
    """Rows of T tokens of the documents as one stream; each epoch cuts the stream at other positions.

    A token attends to its own document only. On the story world, a model that attended to earlier documents
    as well had a loss of 0.72 instead of 0.56 after the same tokens (benchmarks/LOG.md). Without the document mask a
    row is one document, which costs a GPU less.
    """

    def __init__(self, dataset: TokenDataset, T: int, seed: int, document_mask: bool = True):
        if len(dataset) <= T:
            raise UserError(
                f"the {dataset.split} set in {dataset.folder} holds {len(dataset):,} tokens, fewer than one "
                f"row of --block_size {T} + 1: choose a smaller block_size or prepare more text"
            )
        self.dataset = dataset
        self.T = T
        self.seed = seed
        self.document_mask = document_mask
        self.notes: list[str] = []

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""
        return len(self.dataset) // self.T

    def at(self, index: int, epoch: int = 0) -> Row:
        """Return row `index` of the cuts of an epoch; the stream's end is followed by its start."""
        offset = 0
        if epoch > 0:
            offset = keyed_hash(self.seed, epoch) % self.T

        ids = self.dataset.read(offset + index * self.T, self.T + 1)
        tokens = ids[:-1]
        labels = ids[1:]
        return Row(tokens, labels, document_ids(tokens, self.dataset, self.document_mask))


class StreamValidation:
    """Rows of T tokens of the stream cut from its start, the last row padded with labels that are ignored.

    All rows together have every token but the first as a label exactly once, in every epoch alike.
    """

    def __init__(self, dataset: TokenDataset, T: int, seed: int, document_mask: bool = True):
        if len(dataset) < 2:
            raise UserError(
                f"the {dataset.split} set in {dataset.folder} holds {len(dataset)} tokens, too few for one "
                "label: prepare more text"
            )
        self.dataset = dataset
        self.T = T
        self.seed = seed
        self.document_mask = document_mask

    def __len__(self) -> int:
        """Return the number of rows in the set."""
        labels = len(self.dataset) - 1
        return -(-labels // self.T)  # rounded up

    def at(self, index: int, epoch: int = 0) -> Row:
        """Return row `index`."""
        start = index * self.T
        count = min(self.T + 1, len(self.dataset) - start)
        ids = self.dataset.read(start, count)

        padding = self.T + 1 - count
        tokens = np.pad(ids[:-1], (0, padding))
        labels = np.pad(ids[1:], (0, padding), constant_values=IGNORE)
        return Row(tokens, labels, document_ids(tokens, self.dataset, self.document_mask))


class PackedRows:
    """Conversations packed into rows of T tokens, with labels where their loss mask is set.

    The rows are the same in every epoch.
    """

    def __init__(self, dataset: TokenDataset, T: int, seed: int):
        self.dataset = dataset
        self.T = T
        self.seed = seed

        # A conversation of L tokens has L - 1 labels, so it takes L - 1 positions of a row.
        lengths = np.diff(dataset.document_bounds)
        self.members = first_fit_decreasing(np.minimum(lengths, T + 1) - 1, T)

        self.notes: list[str] = []
        too_long = int((lengths > T + 1).sum())
        if too_long:
            self.notes.append(
                f"{too_long:,} of {len(lengths):,} conversations in the {dataset.split} set exceed "
                f"--block_size {T} + 1 tokens and are truncated (prompt first)"
            )

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""
        return len(self.members)

    def at(self, index: int, epoch: int = 0) -> Row:
        """Return row `index` of the packing."""
        members = self.members[index]
        tokens = np.zeros(self.T, np.int64)
        labels = np.full(self.T, IGNORE)
        doc_ids = np.full(self.T, len(members))  # the number of the padding; conversations overwrite it

        end = 0
        for doc_id, document in enumerate(members):
            ((ids, loss_mask),) = truncate_to_context([self.dataset.document(document)], self.T + 1)
            start = end
            end = start + len(ids) - 1

            tokens[start:end] = ids[:-1]
            labels[start:end] = np.where(loss_mask[1:], ids[1:], IGNORE)
            doc_ids[start:end] = doc_id
        return Row(tokens, labels, doc_ids)


def document_ids(tokens: np.ndarray, dataset: TokenDataset, document_mask: bool) -> np.ndarray:
    """Return the document number of each token (T,) of a row, counted from 0; an EOS ends a document.

    Without the document mask all are 0.
    """
    if not document_mask:
        return np.zeros(len(tokens), np.int64)
    documents_ended = np.cumsum(tokens == dataset.meta["tokenizer"]["eos_id"])
    return np.concatenate([[0], documents_ended[:-1]])
