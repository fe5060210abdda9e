"""Datasets of a run: one, or several that are mixed by shares of their tokens (--dataset A:0.7,B:0.3)."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from dataloader.loader import Rows
from dataloader.mixing import MixedRows
from dataprep.shards import TokenDataset, read_meta, require_name, verify_dataset
from runtime.errors import UserError
from training.stages import STAGES
from training.state import data_hash

STAGE_OF_KIND = {stage.kind: stage for stage in STAGES.values()}


@dataclass(frozen=True)
class Mixture:
    """Prepared datasets of a run, in the order of --dataset; shares is None where each is taken by its size."""

    folders: tuple[Path, ...]
    metas: tuple[dict, ...]
    shares: tuple[float, ...] | None

    @property
    def name(self) -> str:
        """Return the datasets as --dataset names them."""
        if self.shares is None:
            return ",".join(folder.name for folder in self.folders)
        return ",".join(
            f"{folder.name}:{share:g}" for folder, share in zip(self.folders, self.shares, strict=True)
        )

    @property
    def kind_of(self) -> dict[str, str]:
        """Return the kind of each dataset by its name."""
        return {folder.name: meta["kind"] for folder, meta in zip(self.folders, self.metas, strict=True)}

    @property
    def kinds(self) -> set[str]:
        """Return the kinds that occur."""
        return set(self.kind_of.values())

    @property
    def run_name(self) -> str:
        """Return what names the run."""
        return "+".join(folder.name for folder in self.folders)

    @property
    def sources(self) -> dict[str, dict]:
        """Return the origin of each dataset by its name."""
        return {folder.name: meta["source"] for folder, meta in zip(self.folders, self.metas, strict=True)}

    def first_of(self, kind: str) -> tuple[Path, dict]:
        """Return folder and meta.json of the first dataset of a kind."""
        return next(
            (folder, meta)
            for folder, meta in zip(self.folders, self.metas, strict=True)
            if meta["kind"] == kind
        )

    def hash(self) -> str:
        """Return a name for all data and its shares, which a resumed run must find again."""
        hashes = [data_hash(meta) for meta in self.metas]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256(json.dumps([hashes, self.shares]).encode()).hexdigest()

    def verify(self) -> None:
        """Compare all files with their checksums. Raises UserError for a damaged one."""
        for folder in self.folders:
            verify_dataset(folder)

    def rows(self, block_size: int, seed: int, document_mask: bool = True) -> Rows:
        """Return the rows to train on; texts with or without a document mask."""
        parts = []
        for folder, meta in zip(self.folders, self.metas, strict=True):
            stage = STAGE_OF_KIND[meta["kind"]]
            options = _text_options(meta, document_mask)
            parts.append(stage.rows(TokenDataset(folder, "train", meta), block_size, seed, **options))
        return self._mixed(parts, range(len(parts)), repeat=True)

    def validation_rows(self, block_size: int, seed: int, document_mask: bool = True) -> Rows | None:
        """Return the rows to evaluate on, of the datasets that have any; None if there are none."""
        parts, numbers = [], []
        for number, (folder, meta) in enumerate(zip(self.folders, self.metas, strict=True)):
            held_out = TokenDataset(folder, "val", meta)
            if len(held_out):
                stage = STAGE_OF_KIND[meta["kind"]]
                options = _text_options(meta, document_mask)
                parts.append(stage.validation_rows(held_out, block_size, seed, **options))
                numbers.append(number)
        return self._mixed(parts, numbers, repeat=False) if parts else None

    def _mixed(self, parts: list[Rows], numbers: range | list[int], repeat: bool) -> Rows:
        """Return the rows of the datasets with these numbers as one."""
        if len(parts) == 1:
            return parts[0]
        names = [self.folders[number].name for number in numbers]
        shares = self.shares and [self.shares[number] for number in numbers]

        # Texts among conversations are replayed: a pass over the conversations is an epoch.
        leading = names
        if "instruct" in self.kinds:
            leading = [name for name in names if self.kind_of[name] == "instruct"]
        return MixedRows(names, parts, shares, repeat, leading)


def _text_options(meta: dict, document_mask: bool) -> dict[str, bool]:
    """Return the option that rows of text have alone."""
    return {"document_mask": document_mask} if meta["kind"] == "text" else {}


def read_mixture(data_dir: Path, dataset: str) -> Mixture:
    """Return the datasets that --dataset names. Raises UserError where one is missing or they do not go together."""
    shares = parse_shares(dataset)
    folders = tuple(data_dir / require_name(name, data_dir) for name in shares)
    metas = tuple(read_meta(folder) for folder in folders)

    for folder, meta in zip(folders, metas, strict=True):
        if meta["tokenizer"]["hash"] != metas[0]["tokenizer"]["hash"]:
            raise UserError(
                f"{folder} and {folders[0]} have different tokenizers: prepare {folder.name} again with "
                f"data.py --tokenizer {folders[0] / 'tokenizer'}"
            )
    given = tuple(share for share in shares.values() if share is not None)
    return Mixture(folders, metas, given or None)


def parse_shares(dataset: str) -> dict[str, float | None]:
    """Return name -> share of a --dataset such as A, A,B or A:0.7,B:0.3; the share is None where none is given.

    Raises UserError for shares that are no positive numbers, given for some datasets only, or for one twice.
    """
    shares: dict[str, float | None] = {}
    for part in dataset.split(","):
        name, colon, text = part.strip().partition(":")
        if not name or name in shares:
            raise UserError(f"--dataset {dataset}: name each dataset once, like A:0.7,B:0.3")
        share = _positive(text) if colon else None
        if colon and share is None:
            raise UserError(f"--dataset {dataset}: the share {text!r} of {name} must be a number above 0")
        shares[name] = share

    missing = [name for name, share in shares.items() if share is None]
    if missing and len(missing) < len(shares):
        raise UserError(f"--dataset {dataset}: {missing[0]} needs a share too, like {missing[0]}:0.5")
    return shares


def _positive(text: str) -> float | None:
    """Return the number above 0, and below infinity, that the text is; otherwise None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
