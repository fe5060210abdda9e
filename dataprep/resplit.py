"""Application of the choice of the validation split to the shards of the units, which were split by hash.

Only units in which something changes are written again, under new numbers: the old files stay until the dataset is
complete, so a kill loses nothing. Where a unit goes to one split entirely its files are linked, not copied.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataprep.examples import group, read_examples
from dataprep.holdout import MANY_DOCUMENTS, Choice, choose, tail_documents, tail_start
from dataprep.shards import SPLITS, SplitWriter, id_dtype, part_files
from runtime.files import link_or_copy

Splits = dict[str, list[dict]]  # entries of shards
TextBytes = Callable[[np.ndarray], int]  # bytes of the text of some ids


@dataclass(frozen=True)
class UnitSplit:
    """Cuts of the examples of a unit: tokens before `cut` belong to train, the others to val; each (N,)."""

    examples: np.ndarray
    cut: np.ndarray
    ends_train: np.ndarray  # True where the document ends with what goes to train


def split_units(
    folder: Path,
    entries: list[dict],
    kind: str,
    fraction: float,
    vocab_size: int,
    first_index: int,
    text_bytes: TextBytes,
) -> Splits:
    """Return the shards of both splits, after writing those that change from `first_index` on."""
    units = [entry["shards"] for entry in entries]
    if not entries or not fraction or _hash_is_enough(folder, entries, fraction):
        return _joined(units)

    examples = [read_examples(folder, entry) for entry in entries]
    choice = choose(group(np.concatenate(examples)), kind, fraction)
    cuts = cut_examples(examples, choice, kind, fraction)
    for number, (unit, cut) in enumerate(zip(units, cuts, strict=True)):
        if _changes(cut):
            rewriter = _Rewriter(folder, unit, kind, vocab_size, first_index + number, text_bytes)
            units[number] = rewriter.move(cut)
    return _joined(units)


def repeated_keys(folder: Path, train: list[dict], val: list[dict]) -> int:
    """Return the number of validation examples whose key is in the training units as well."""
    if not train or not val:
        return 0
    val_keys = np.concatenate([read_examples(folder, entry)["key"] for entry in val])
    repeated = np.zeros(len(val_keys), bool)
    for entry in train:
        repeated |= np.isin(val_keys, read_examples(folder, entry)["key"])
    return int(repeated.sum())


def _hash_is_enough(folder: Path, entries: list[dict], fraction: float) -> bool:
    """Return True where the split by hash is what `choose` gives, without having all examples in memory."""
    splits = _joined([entry["shards"] for entry in entries])
    train, val = (sum(shard["tokens"] for shard in splits[split]) for split in SPLITS)
    documents = sum(shard["documents"] for shards in splits.values() for shard in shards)
    share = fraction * (train + val)
    # Twice, since a preference pair is two documents.
    if documents < 2 * MANY_DOCUMENTS or not share / 2 <= val <= 2 * share:
        return False

    heavy = np.unique(np.array([key for entry in entries for key in entry["heavy"]], np.uint64))
    tokens = np.zeros(len(heavy))
    for entry in entries if len(heavy) else []:
        examples = read_examples(folder, entry)
        chosen = examples[np.isin(examples["key"], heavy)]
        np.add.at(tokens, np.searchsorted(heavy, chosen["key"]), chosen["tokens"])
    return not (tokens > share).any()


def _joined(units: list[dict[str, dict]]) -> Splits:
    """Return the shards of both splits that hold something."""
    return {split: [unit[split] for unit in units if unit[split]["tokens"]] for split in SPLITS}


def cut_examples(examples: list[np.ndarray], choice: Choice, kind: str, fraction: float) -> list[UnitSplit]:
    """Return where the examples of each unit are cut."""
    merged = np.concatenate(examples)
    tokens = merged["tokens"].astype(np.int64)
    cut = np.where(np.isin(merged["key"], choice.held_out), 0, tokens)
    ends_train = merged["is_complete"].copy()

    has_tail = np.flatnonzero(np.isin(merged["key"], choice.tails))
    if kind != "text":
        held_out = has_tail[tail_documents(tokens[has_tail], fraction)]
        cut[held_out] = 0
    for pieces in _documents(merged, has_tail) if kind == "text" else ():
        starts = np.cumsum(tokens[pieces]) - tokens[pieces]
        boundary = tail_start(int(tokens[pieces].sum()), fraction)
        cut[pieces] = np.clip(boundary - starts, 0, tokens[pieces])
        last = pieces[np.flatnonzero(cut[pieces])[-1]]
        ends_train[last] = ends_train[last] or last != pieces[-1] or cut[last] < tokens[last]

    bounds = np.cumsum([len(unit) for unit in examples])[:-1]
    return [
        UnitSplit(*parts)
        for parts in zip(examples, np.split(cut, bounds), np.split(ends_train, bounds), strict=True)
    ]


def _documents(merged: np.ndarray, numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of the pieces of each document among some examples."""
    ends = np.flatnonzero(merged["is_complete"][numbers]) + 1
    yield from (pieces for pieces in np.split(numbers, ends) if len(pieces))


def _changes(unit: UnitSplit) -> bool:
    """Return True if something of a unit is elsewhere than its files have it."""
    tokens, in_val = unit.examples["tokens"], unit.examples["in_val"]
    moves = (unit.cut > 0) & in_val | (unit.cut < tokens) & ~in_val
    ends = (unit.cut == tokens) & (unit.ends_train != unit.examples["is_complete"])
    return bool(moves.any() or ends.any())


class _Rewriter:
    """Writer of the shards of one unit with another split."""

    def __init__(
        self,
        folder: Path,
        shards: dict[str, dict],
        kind: str,
        vocab_size: int,
        index: int,
        text_bytes: TextBytes,
    ):
        self.folder = folder
        self.shards = shards
        self.kind = kind
        self.vocab_size = vocab_size
        self.index = index
        self.text_bytes = text_bytes

    def move(self, unit: UnitSplit) -> dict[str, dict]:
        """Return the entries of the new shards."""
        is_all_train = not unit.examples["in_val"].any()
        if is_all_train and not unit.cut.any():
            return self._linked()
        return self._written(unit)

    def _linked(self) -> dict[str, dict]:
        """Give the files of train names of val."""
        shard = self.shards["train"]
        digests = {}
        for part, name in part_files(shard).items():
            new = f"val-{self.index:05d}.{part}.bin"
            digests[new] = shard["sha256"][name]
            link_or_copy(self.folder / name, self.folder / new)
        empty = {"tokens": 0, "documents": 0, "bytes": 0, "sha256": {}}
        return {"train": empty, "val": {**shard, "sha256": digests}}

    def _written(self, unit: UnitSplit) -> dict[str, dict]:
        """Write both shards."""
        writer = SplitWriter(self.folder, self.index, self.vocab_size, self.kind)
        sources = {split: _ShardReader(self.folder, self.shards[split], self.vocab_size) for split in SPLITS}
        for example, cut, ends_train in zip(unit.examples, unit.cut.tolist(), unit.ends_train, strict=True):
            source = sources["val" if example["in_val"] else "train"]
            num_bytes = int(example["bytes"])
            for ids, loss_mask in source.take(int(example["tokens"])):
                if 0 < cut < len(ids):
                    train_bytes = self._bytes_before(cut, ids, num_bytes)
                    writer.add("train", ids[:cut], None, train_bytes, True)
                    writer.add("val", ids[cut:], None, num_bytes - train_bytes, bool(example["is_complete"]))
                else:
                    split = "train" if cut else "val"
                    is_complete = bool(ends_train if cut else example["is_complete"])
                    writer.add(split, ids, loss_mask, num_bytes, is_complete)
                num_bytes = 0
        return writer.close()

    def _bytes_before(self, cut: int, ids: np.ndarray, num_bytes: int) -> int:
        """Return the bytes of the text before a cut; only the shorter side is decoded."""
        if cut <= len(ids) // 2:
            return self.text_bytes(ids[:cut])
        return num_bytes - self.text_bytes(ids[cut:])


class _ShardReader:
    """Reader of a shard, example by example."""

    def __init__(self, folder: Path, shard: dict, vocab_size: int):
        files = part_files(shard)
        self.ids = np.fromfile(folder / files["tokens"], id_dtype(vocab_size))
        self.ends = np.fromfile(folder / files["ends"], np.int64)
        self.loss_mask = np.fromfile(folder / files["keep"], np.uint8) if "keep" in files else None
        self.position = 0

    def take(self, count: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield ids and loss mask of the next `count` tokens: of one document, or of the two of a pair."""
        stop = self.position + count
        while self.position < stop:
            number = int(np.searchsorted(self.ends, self.position, side="right"))
            end = min(stop, int(self.ends[number])) if number < len(self.ends) else stop
            part = slice(self.position, end)
            self.position = end
            yield self.ids[part], None if self.loss_mask is None else self.loss_mask[part]
