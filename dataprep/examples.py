"""Examples of a unit in the order in which they were read: what the choice of the validation split needs to know.

An example is a document, a piece of one, or a preference pair. The file unit-00007.examples.bin lies beside the shards
of a unit until the dataset is complete.
"""

import hashlib
from pathlib import Path

import numpy as np

from dataprep.documents import Document
from dataprep.holdout import Groups, key_hash
from runtime.files import writing

DTYPE = np.dtype([("key", "<u8"), ("tokens", "<u4"), ("bytes", "<u4"), ("in_val", "?"), ("is_complete", "?")])


class ExampleWriter:
    """Writer of the examples of one unit."""

    def __init__(self, folder: Path, unit: int):
        self.path = folder / f"unit-{unit:05d}.examples.bin"
        # A list for each field: numpy is several times faster with them than with a list of rows.
        self.columns: dict[str, list] = {name: [] for name in DTYPE.names}

    def add(self, split: str, document: Document) -> None:
        """Append a document that is written to a split."""
        num_bytes = 0
        for _, _, text_bytes in document.token_parts:
            num_bytes += text_bytes

        columns = self.columns
        columns["key"].append(key_hash(document.split_key))
        columns["tokens"].append(document.num_tokens)
        columns["bytes"].append(num_bytes)
        columns["in_val"].append(split == "val")
        columns["is_complete"].append(document.is_complete)

    def close(self, fraction: float) -> dict:
        """Write the file; return what the unit's entry says of it: sha256, and the keys of large groups."""
        examples = np.empty(len(self.columns["key"]), DTYPE)
        for name, values in self.columns.items():
            examples[name] = values
        content = examples.tobytes()
        temporary = self.path.with_suffix(".tmp")
        with writing(self.path):
            temporary.write_bytes(content)
            temporary.replace(self.path)
        return {
            "examples": {self.path.name: hashlib.sha256(content).hexdigest()},
            "heavy": heavy_groups(examples, fraction),
        }


def read_examples(folder: Path, unit: dict) -> np.ndarray:
    """Return the examples (N,) of a unit by its entry."""
    (name,) = unit["examples"]
    return np.fromfile(folder / name, DTYPE)


def group(examples: np.ndarray) -> Groups:
    """Return the groups of examples with equal keys; pieces count as one document with the last of them."""
    keys, inverse = np.unique(examples["key"], return_inverse=True)
    tokens = np.bincount(inverse, examples["tokens"], len(keys)).astype(np.int64)
    documents = np.bincount(inverse, examples["is_complete"], len(keys)).astype(np.int64)
    return Groups(keys, tokens, np.maximum(documents, 1))


def heavy_groups(examples: np.ndarray, fraction: float) -> list[int]:
    """Return the keys that exceed the share within one unit: a group that exceeds it in all of them is among these."""
    groups = group(examples)
    return groups.keys[groups.tokens > fraction * groups.tokens.sum()].tolist()
