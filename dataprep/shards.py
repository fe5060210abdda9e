"""The one on-disk format of prepared data: shards of token ids, document ends, keep-masks, and meta.json.

    data/<name>/meta.json                kind, tokenizer and its hash, source and revision, counts, sha256 of each file
    data/<name>/plan.json                what data.py made it from, unit by unit
    data/<name>/tokenizer/               the tokenizer in Hugging Face form
    data/<name>/SHA256SUMS               sha256 of all of these
    data/<name>/train-00000.tokens.bin   ids, uint16 or, where the vocabulary is larger than 65,536, uint32
    data/<name>/train-00000.ends.bin     uint64, where each document of the shard ends
    data/<name>/train-00000.keep.bin     uint8, 1 = learned from; only where something is not (answers)

A shard is written by one ShardWriter under a temporary name and renamed when it is whole. A document may go on from one
shard to the next. Of preference data, document 2i is the chosen and document 2i + 1 the rejected answer.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from runtime.checksums import first_corrupt_file
from runtime.errors import UserError

FORMAT = 1
SPLITS = ("train", "val")


def id_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest type that holds every id of the vocabulary."""
    return np.uint16 if vocab_size <= 65536 else np.uint32


class _File:
    """One binary file that appears under its name only when it is whole."""

    def __init__(self, path: Path):
        self.path, self.temporary = path, path.with_name(path.name + ".tmp")
        self.temporary.unlink(
            missing_ok=True
        )  # an earlier try may still hold it open: let it write elsewhere
        self.file, self.digest = self.temporary.open("wb"), hashlib.sha256()

    def write(self, array: np.ndarray) -> None:
        self.file.write(array.data)
        self.digest.update(array.data)

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.temporary.rename(self.path)


class ShardWriter:
    """Writes documents to the files of one shard of one split."""

    def __init__(self, folder: Path, split: str, index: int, dtype: type, with_keep: bool):
        self.files = {
            part: _File(folder / f"{split}-{index:05d}.{part}.bin")
            for part in ("tokens", "ends", *(["keep"] if with_keep else []))
        }
        self.dtype, self.tokens, self.documents, self.bytes = dtype, 0, 0, 0

    def add(self, ids: np.ndarray, keep: np.ndarray | None, text_bytes: int, ended: bool) -> None:
        """Append a document (T,), or a part of it when it has not ended yet; text_bytes is its length in UTF-8."""
        self.files["tokens"].write(ids.astype(self.dtype))
        self.tokens, self.bytes = self.tokens + len(ids), self.bytes + text_bytes
        if keep is not None:
            self.files["keep"].write(keep.astype(np.uint8))
        if ended:
            self.files["ends"].write(np.array([self.tokens], np.uint64))
            self.documents += 1

    def close(self) -> dict:
        """Make the files appear; returns the shard's entry in meta.json."""
        for file in self.files.values():
            file.close()
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "sha256": {file.path.name: file.digest.hexdigest() for file in self.files.values()},
        }


class TokenDataset:
    """One split of a prepared dataset, read through memory maps: tokens by position, documents by number."""

    def __init__(self, folder: Path, split: str, meta: dict):
        self.folder, self.split, self.meta = folder, split, meta
        shards = meta["splits"][split]
        self.starts = np.cumsum([0, *(shard["tokens"] for shard in shards)])
        self.bytes = sum(shard["bytes"] for shard in shards)
        self.documents = sum(shard["documents"] for shard in shards)
        dtype = id_dtype(meta["tokenizer"]["vocab_size"])
        self._tokens = [self._map(shard, "tokens", dtype, shard["tokens"]) for shard in shards]
        self._keep = [
            self._map(shard, "keep", np.uint8, shard["tokens"]) for shard in shards if "keep" in _names(shard)
        ]

    def _map(self, shard: dict, part: str, dtype: type, count: int) -> np.ndarray:
        path = self.folder / _names(shard)[part]
        if not path.is_file() or path.stat().st_size != count * np.dtype(dtype).itemsize:
            raise UserError(f"{path} is missing or was cut short: prepare the dataset again with data.py")
        return np.memmap(path, dtype=dtype, mode="r") if count else np.empty(0, dtype)

    def __len__(self) -> int:
        """Number of tokens."""
        return int(self.starts[-1])

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens start .. start + count as int64 (count,), past the end from the beginning again."""
        return self._read(self._tokens, start, count).astype(np.int64)

    def _read(self, shards: list[np.ndarray], start: int, count: int) -> np.ndarray:
        pieces = []
        while count > 0:
            start %= len(self)
            shard = int(np.searchsorted(self.starts, start, side="right")) - 1
            offset = start - int(self.starts[shard])
            piece = shards[shard][offset : offset + count]
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return np.concatenate(pieces)

    @functools.cached_property
    def bounds(self) -> np.ndarray:
        """Where each document begins, and where the last one ends: (documents + 1,)."""
        shards = self.meta["splits"][self.split]
        ends = [
            self._map(shard, "ends", np.int64, shard["documents"]) + start
            for shard, start in zip(shards, self.starts, strict=False)
        ]
        return np.concatenate([[0], *ends])

    @functools.cached_property
    def learned(self) -> int:
        """Number of tokens that are learned from."""
        return sum(int(np.count_nonzero(keep)) for keep in self._keep) if self._keep else len(self)

    def document(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (T,) of document n, and which of them are learned."""
        start, count = int(self.bounds[n]), int(self.bounds[n + 1] - self.bounds[n])
        keep = self._read(self._keep, start, count).astype(bool) if self._keep else np.ones(count, bool)
        return self.read(start, count), keep


def split_validation(
    folder: Path,
    shards: list[dict],
    kind: str,
    fraction: float,
    dtype: type,
    free: int,
    size: Callable[[np.ndarray], int],
) -> dict[str, list[dict]]:
    """The shards of both splits where every document fell on one side (there are few): the last part is held out.

    What is equal counts once and is cut at the same place, so that no text or prompt is on both sides; the text at the
    cut is divided, conversations and pairs stay whole. The new shards are numbered from `free` on, beside the old ones,
    which a kill leaves whole. `size` gives the bytes of the text of some ids.
    """
    places: dict[
        bytes, tuple[int, int]
    ] = {}  # of each distinct text, part of one, or prompt in the row of them all
    total = 0
    for shard in shards:
        for group in _iter_examples(folder, shard, kind, dtype):
            end = total + sum(len(ids) for ids, *_ in group)
            total = max(total, places.setdefault(_digest(group, kind), (total, end))[1])
    cut, made = total - round(total * fraction), {split: [] for split in SPLITS}
    for index, shard in enumerate(shards, free):
        writers = {
            split: ShardWriter(folder, split, index, dtype, with_keep=kind != "text") for split in SPLITS
        }
        for group in _iter_examples(folder, shard, kind, dtype):
            start, end = places[_digest(group, kind)]
            if kind != "text":
                split = "train" if start == 0 or end <= cut else "val"
                for ids, keep, ended in group:
                    writers[split].add(ids, keep, size(ids[keep > 0]), ended)
                continue
            ((ids, _, ended),) = group
            here = min(max(cut - start, 0), len(ids))
            if here > 0:
                writers["train"].add(ids[:here], None, size(ids[:here]), ended or start + len(ids) >= cut)
            if here < len(ids):
                writers["val"].add(ids[here:], None, size(ids[here:]), ended)
        for split, writer in writers.items():
            entry = writer.close()
            if entry["tokens"]:
                made[split].append(entry)
    return made


def _iter_examples(folder: Path, shard: dict, kind: str, dtype: type) -> Iterator[list[tuple]]:
    """(ids, keep, ended) of what stays together in a shard: a document, or a pair. Only a last text may go on."""
    names = _names(shard)
    ids, ends = np.fromfile(folder / names["tokens"], dtype), np.fromfile(folder / names["ends"], np.int64)
    keep = np.fromfile(folder / names["keep"], np.uint8) if "keep" in names else np.ones_like(ids, np.uint8)
    parts = [
        (piece, kept, number < len(ends))
        for number, (piece, kept) in enumerate(zip(np.split(ids, ends), np.split(keep, ends), strict=True))
        if len(piece)
    ]
    size = 2 if kind == "preference" else 1
    yield from (parts[first : first + size] for first in range(0, len(parts), size))


def _digest(group: list[tuple], kind: str) -> bytes:
    """Names a text by all of it, a conversation or pair by its prompt."""
    ids, keep, _ = group[0]
    return hashlib.blake2b(
        (ids if kind == "text" else ids[: keep.argmax()]).tobytes(), digest_size=16
    ).digest()


def _names(shard: dict) -> dict[str, str]:
    """The files of a shard by what they hold: tokens, ends, keep."""
    return {name.split(".")[1]: name for name in shard["sha256"]}


def verify_dataset(folder: Path) -> None:
    """Raises UserError when a file of a prepared dataset is not what was written; what is unchanged is read once."""
    if fault := first_corrupt_file(folder, remember=True):
        raise UserError(
            f"{fault}: run the data.py command that made it again, it then makes the dataset anew"
        )


def read_meta(folder: Path) -> dict:
    """meta.json of a prepared dataset. Raises UserError where there is none, naming those that are there."""
    path = folder / "meta.json"
    if not path.is_file():
        there = sorted(meta.parent.name for meta in folder.parent.glob("*/meta.json"))
        known = f"there are: {', '.join(there)}" if there else "none is prepared yet"
        raise UserError(
            f"no prepared dataset in {folder} ({known}); prepare one with "
            "python data.py --stories (offline), --fw, --tinystories, "
            "or --files FILE --name NAME --kind text"
        )
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["format"] == FORMAT and {"kind", "tokenizer", "splits"} <= meta.keys():
            return meta
    except (ValueError, KeyError, TypeError):
        pass  # a broken file and an unknown format have the same remedy
    raise UserError(f"{path} is not of format {FORMAT}: prepare the dataset again with data.py")


def check_replaceable(target: Path, sources: Iterable[str]) -> None:
    """Raises UserError where a dataset would take the place of something else, or of the files that it is made from."""
    inside = [path for path in sources if Path(path).resolve().is_relative_to(target.resolve())]
    ours = target.is_dir() and ((target / "meta.json").exists() or not any(target.iterdir()))
    if inside or target.exists() and not ours:
        what = f"holds {inside[0]}" if inside else "is there and is no prepared dataset"
        raise UserError(f"{target} {what}, and would be replaced: choose another --name")
