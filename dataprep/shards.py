"""Files of prepared data: shards of token ids, document ends, loss masks, and meta.json.

    data/<name>/meta.json                kind, tokenizer and its hash, source and revision, counts, sha256 of each file
    data/<name>/plan.json                the PrepConfig that data.py prepared it with, unit by unit
    data/<name>/tokenizer/               the tokenizer in Hugging Face form
    data/<name>/SHA256SUMS               sha256 of all of these
    data/<name>/train-00000.tokens.bin   ids, uint16 or, where the vocabulary is larger than 65,536, uint32
    data/<name>/train-00000.ends.bin     uint64, the position after the last token of each document of the shard
    data/<name>/train-00000.keep.bin     uint8, the loss mask: 1 = learned from; only for conversations and pairs

A shard is written under a temporary name and renamed when it is complete. A document may continue in the next shard.
Of preference data, document 2i is the chosen and document 2i + 1 the rejected answer.
"""

import functools
import hashlib
import os
import re
import typing
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from runtime.checksums import first_corrupt_file
from runtime.errors import UserError
from runtime.files import read_json, writing
from runtime.limits import open_files
from runtime.stored_values import wrong_value
from tokenizer import Tokenizer

FORMAT = 1
PART_NAME = re.compile(r"(train|val)-\d+\.(tokens|ends|keep)\.bin", re.ASCII)
SPLITS = ("train", "val")
MAPS_SHARE = 8  # a split of a dataset maps an eighth of the files that may be open
MAX_MAPS = 1024


class Shard(typing.TypedDict):
    """Entry of a shard in meta.json: counts, and the sha256 of each of its files."""

    tokens: int
    documents: int
    bytes: int
    sha256: dict[str, str]


class TokenizerEntry(typing.TypedDict):
    """Entry of the tokenizer in meta.json."""

    hash: str
    vocab_size: int
    eos_id: int


class Meta(typing.TypedDict):
    """Parts of a meta.json, besides its format."""

    kind: typing.Literal["text", "instruct", "preference"]
    tokenizer: dict[str, object]
    splits: dict[str, list[dict]]
    source: typing.NotRequired[dict]
    template: typing.NotRequired[str | None]
    left_out: typing.NotRequired[dict[str, int]]


def id_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """Return the smallest type that holds every id of the vocabulary."""
    return np.uint16 if vocab_size <= 65536 else np.uint32


class _File:
    """Binary file that appears under its name only when it is complete."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(path.name + ".tmp")
        # A dead try may still hold the old temporary file open: let it write elsewhere.
        with writing(path):
            self.temporary.unlink(missing_ok=True)
            self.file = self.temporary.open("wb")
        self.digest = hashlib.sha256()

    def write(self, array: np.ndarray) -> None:
        """Append an array."""
        with writing(self.path):
            self.file.write(array.data)
        self.digest.update(array.data)

    def close(self) -> None:
        """Sync the file and give it its name."""
        with writing(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self.temporary.replace(self.path)


class ShardWriter:
    """Writer of the files of one shard of one split."""

    def __init__(self, folder: Path, split: str, index: int, dtype: type, with_loss_mask: bool):
        parts = ["tokens", "ends"]
        if with_loss_mask:
            parts.append("keep")
        self.files = {part: _File(folder / f"{split}-{index:05d}.{part}.bin") for part in parts}
        self.dtype = dtype
        self.tokens = 0
        self.ends: list[int] = []
        self.bytes = 0

    def add(self, ids: np.ndarray, loss_mask: np.ndarray | None, text_bytes: int, is_complete: bool) -> None:
        """Append a document (T,), or a piece of one that is not complete; text_bytes is its length in UTF-8."""
        self.files["tokens"].write(ids.astype(self.dtype))
        self.tokens += len(ids)
        self.bytes += text_bytes

        if loss_mask is not None:
            self.files["keep"].write(loss_mask.astype(np.uint8))
        if is_complete:
            self.ends.append(self.tokens)

    def close(self) -> dict:
        """Give the files their names; return the shard's entry in meta.json."""
        self.files["ends"].write(np.array(self.ends, np.uint64))
        for file in self.files.values():
            file.close()
        return {
            "tokens": self.tokens,
            "documents": len(self.ends),
            "bytes": self.bytes,
            "sha256": {file.path.name: file.digest.hexdigest() for file in self.files.values()},
        }


class SplitWriter:
    """Writers of the two shards, one of each split, that a unit makes."""

    def __init__(self, folder: Path, index: int, vocab_size: int, kind: str):
        dtype = id_dtype(vocab_size)
        self.writers = {
            split: ShardWriter(folder, split, index, dtype, with_loss_mask=kind != "text") for split in SPLITS
        }

    def add(
        self, split: str, ids: np.ndarray, loss_mask: np.ndarray | None, text_bytes: int, is_complete: bool
    ) -> None:
        """Append a document, or a piece of one, to a split."""
        self.writers[split].add(ids, loss_mask, text_bytes, is_complete)

    def close(self) -> dict[str, dict]:
        """Give all files their names; return the entries of both shards in meta.json."""
        return {split: writer.close() for split, writer in self.writers.items()}


class TokenDataset:
    """One split of a prepared dataset, read through memory maps: tokens by position, documents by number."""

    def __init__(self, folder: Path, split: str, meta: dict):
        self.folder = folder
        self.split = split
        self.meta = meta

        shards = meta["splits"][split]
        self.starts = np.cumsum([0, *(shard["tokens"] for shard in shards)])  # of each shard, then the end
        self.bytes = sum(shard["bytes"] for shard in shards)
        self.documents = sum(shard["documents"] for shard in shards)

        self._dtypes = {
            "tokens": id_dtype(meta["tokenizer"]["vocab_size"]),
            "keep": np.uint8,
            "ends": np.int64,
        }
        self._has_loss_mask = any("keep" in part_files(shard) for shard in shards)
        for shard in shards:
            self._check_sizes(shard)

        # Each map is an open file, and a large dataset has thousands of shards.
        self._map = functools.lru_cache(min(max(open_files() // MAPS_SHARE, 1), MAX_MAPS))(self._open_map)

    def _check_sizes(self, shard: dict) -> None:
        """Raise UserError if a file of a shard is missing or has the wrong size."""
        for part, name in part_files(shard).items():
            count = shard["documents" if part == "ends" else "tokens"]
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != count * np.dtype(self._dtypes[part]).itemsize:
                raise UserError(f"{path} is missing or was cut short: prepare the dataset again with data.py")

    def _open_map(self, number: int, part: str) -> np.ndarray:
        """Return one file of a shard as a memory map."""
        shard = self.meta["splits"][self.split][number]
        if not shard["tokens"]:
            return np.empty(0, self._dtypes[part])
        return np.memmap(self.folder / part_files(shard)[part], dtype=self._dtypes[part], mode="r")

    def __len__(self) -> int:
        """Return the number of tokens."""
        return int(self.starts[-1])

    def read(self, start: int, count: int) -> np.ndarray:
        """Return tokens start .. start + count as int64 (count,); past the end, from the beginning again."""
        return self._read("tokens", start, count).astype(np.int64)

    def _read(self, part: str, start: int, count: int) -> np.ndarray:
        """Return start .. start + count of one part of all shards, joined to a ring."""
        values = np.empty(count, self._dtypes[part])
        position = 0
        while position < count:
            start %= len(self)
            shard = int(np.searchsorted(self.starts, start, side="right")) - 1
            offset = start - int(self.starts[shard])

            piece = self._map(shard, part)[offset : offset + count - position]
            values[position : position + len(piece)] = piece
            start += len(piece)
            position += len(piece)
        return values

    @functools.cached_property
    def document_bounds(self) -> np.ndarray:
        """Start of each document, then the end of the last one: (documents + 1,)."""
        shards = self.meta["splits"][self.split]
        document_ends = [
            np.fromfile(self.folder / part_files(shard)["ends"], np.int64) + start
            for shard, start in zip(shards, self.starts, strict=False)
        ]
        return np.concatenate([[0], *document_ends])

    @functools.cached_property
    def num_loss_tokens(self) -> int:
        """Number of tokens with loss mask 1."""
        if not self._has_loss_mask:
            return len(self)
        shards = range(len(self.meta["splits"][self.split]))
        return sum(int(np.count_nonzero(self._open_map(shard, "keep"))) for shard in shards)

    def document(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids and loss mask, each (T,), of document n."""
        start = int(self.document_bounds[n])
        count = int(self.document_bounds[n + 1]) - start
        if self._has_loss_mask:
            loss_mask = self._read("keep", start, count).astype(bool)
        else:
            loss_mask = np.ones(count, bool)
        return self.read(start, count), loss_mask


def part_files(shard: dict) -> dict[str, str]:
    """Return the files of a shard by part: tokens, ends, keep."""
    return {name.split(".")[1]: name for name in shard["sha256"]}


def verify_dataset(folder: Path) -> None:
    """Raise UserError when a file of a prepared dataset was changed; unchanged ones are read only once."""
    if fault := first_corrupt_file(folder, remember=True):
        raise UserError(f"{fault}: prepare the dataset again with the data.py command that made it")


def check_tokens_are_for(tokenizer: Tokenizer, folder: Path, meta: dict) -> None:
    """Raise UserError if a dataset was prepared with another tokenizer or chat template than a model's."""
    differs = None
    if meta["tokenizer"]["hash"] != tokenizer.hash:
        differs = "tokenizer"
    elif meta["kind"] != "text" and meta.get("template", tokenizer.chat_template) != tokenizer.chat_template:
        differs = "chat template"
    if differs:
        raise UserError(
            f"{folder} was prepared with another {differs} than the model's: prepare it with data.py --tokenizer and "
            "the model's folder, under another --name"
        )


def read_meta(folder: Path) -> dict:
    """Return meta.json of a prepared dataset. Raises UserError if there is none, naming the datasets there are."""
    path = folder / "meta.json"
    if not path.is_file():
        names = sorted(meta.parent.name for meta in folder.parent.glob("*/meta.json"))
        known = f"there are: {', '.join(names)}" if names else "none is prepared yet"
        raise UserError(
            f"no prepared dataset in {folder} ({known}); prepare one with "
            "python data.py --stories (offline), --fw, --tinystories, "
            "or --files FILE --name NAME --kind text"
        )
    remedy = ": prepare the dataset again with data.py"
    meta = read_json(path, remedy)
    if meta.get("format") != FORMAT:
        raise UserError(f"{path} is not of format {FORMAT}{remedy}")
    if fault := _fault_of(meta):
        raise UserError(f"{path} is broken ({fault}){remedy}")
    return meta


def _fault_of(meta: dict) -> str | None:
    """Return what is wrong with the contents of a meta.json; None if nothing is."""
    parts = [(meta, Meta)]
    if not wrong_value(meta, typing.get_type_hints(Meta)):
        parts.append((meta.get("tokenizer", {}), TokenizerEntry))
        parts += [(shard, Shard) for shards in meta.get("splits", {}).values() for shard in shards]
    for values, kind in parts:
        hints = typing.get_type_hints(kind)
        if missing := kind.__required_keys__ - values.keys():
            return f"{min(missing)} is missing"
        if fault := wrong_value(values, hints):
            return fault
        if kind is Shard and not all(map(PART_NAME.fullmatch, values["sha256"])):
            return "sha256 names other files than those of a shard"
        if any(type(values[name]) is int and values[name] < 0 for name in hints.keys() & values.keys()):
            return "a number is negative"
    return None


def require_name(dataset: str, data_dir: Path) -> str:
    """Return the name of a dataset. Raises UserError for a path, naming the flags that mean it."""
    path = Path(dataset)
    if path.name == dataset:
        return dataset
    elsewhere = "" if path.parent == data_dir else f" --data_dir {path.parent}"
    raise UserError(
        f"{dataset} is a path, not the name of a dataset: give --dataset {path.name or 'NAME'}{elsewhere}"
    )


def check_replaceable(target: Path, sources: Iterable[str]) -> None:
    """Raise UserError if a dataset would replace something that is not a dataset, or the files it is made from."""
    folder = target.resolve()
    inside = [path for path in dict.fromkeys(sources) if Path(path).resolve().is_relative_to(folder)]
    if inside:
        raise UserError(f"{target} holds {inside[0]}, and would be replaced: choose another --name")

    is_dataset = target.is_dir() and ((target / "meta.json").exists() or not any(target.iterdir()))
    if target.exists() and not is_dataset:
        raise UserError(
            f"{target} exists and is not a prepared dataset, and would be replaced: choose another --name"
        )
