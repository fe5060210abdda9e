"""Datasets on the Hugging Face hub: the ranges of their files.

Of a Parquet file only the bytes of a range are downloaded, when it is read. A file that is read from front to back is
downloaded once, into the cache of the hub's library.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub
import pyarrow as pa

from dataprep.files import HUB_PREFIX, is_readable, local_path, split_ending
from dataprep.hub_splits import split_files
from dataprep.ranges import HUB_BUILDERS, FileRange, local_ranges
from runtime.errors import UserError
from runtime.hub import (
    READ_ERRORS,
    checked_revision,
    hub_errors,
    hub_filesystem,
    retry,
    short_error,
    valid_answers,
)


@dataclass(frozen=True)
class HubDataset:
    """Dataset on the hub whose files are known: patterns for each split (None: documents are held out by hash)."""

    repo: str
    files: dict[str | None, str]
    kind: str = "text"
    revision: str | None = None  # a branch; None: the main one


@dataclass(frozen=True)
class HubChoice:
    """Dataset on the hub as --hub names it; without val_split, documents are held out by hash."""

    repo: str
    config: str | None = None
    split: str = "train"
    val_split: str | None = None
    revision: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return what identifies the choice in meta.json, besides the revision that it was resolved to."""
        return {
            "repo": self.repo,
            "config": self.config,
            "split": self.split,
            "val_split": self.val_split,
            "asked_revision": self.revision,
        }


def hub_ranges(
    dataset: HubDataset | HubChoice, target: int, revision: str | None
) -> tuple[list[FileRange], dict[str, str]]:
    """Return the ranges of a dataset on the hub, and its revision (None as argument: the newest) and licence.

    Raises UserError when the hub refuses or fails, or has no such config or split.
    """
    repo = dataset.repo
    try:
        with hub_errors(f"datasets/{repo}"), valid_answers(repo):
            provenance = _resolve(repo, revision or dataset.revision)
            sha = provenance["revision"]
            if isinstance(dataset, HubChoice):
                files = _files_of_choice(dataset, sha)
            else:
                files = {split: _hub_files(repo, sha, pattern) for split, pattern in dataset.files.items()}
            ranges = [
                replace(file_range, split=split)
                for split, paths in files.items()
                for path in paths
                for file_range in _hub_file_ranges(path, target)
            ]
            return ranges, provenance
    except READ_ERRORS as error:  # no error of the hub's own, so an answer that was cut short
        raise UserError(
            f"the hub sent no complete answer about {repo} ({short_error(error)}): rerun later"
        ) from None


def _resolve(repo: str, revision: str | None) -> dict[str, str]:
    """Return the commit that a branch, a tag or None, the newest, is now, and the licence that its card names."""
    info = retry(lambda: huggingface_hub.HfApi().dataset_info(repo, revision=revision), repo)
    provenance = {"revision": checked_revision(info.sha)}
    license_id = info.card_data.get("license") if info.card_data else None
    if isinstance(license_id, str):
        provenance["license"] = license_id
    return provenance


def _files_of_choice(choice: HubChoice, sha: str) -> dict[str | None, list[str]]:
    """Return the hf:// paths of each split of --hub."""
    hub_filesystem()  # its client's limits hold for the library, too
    files = retry(lambda: split_files(choice.repo, choice.config, sha), choice.repo)
    for split in filter(None, (choice.split, choice.val_split)):
        if split not in files:
            flag = "--split" if split == choice.split else "--val_split"
            raise UserError(f"{choice.repo} has no split {split}: {flag} is one of {', '.join(files)}")
    for path in (*files[choice.split], *files.get(choice.val_split, ())):
        if not is_readable(path):
            raise UserError(
                f"{choice.repo} has files such as {Path(path).name}, which data.py does not read: download it, convert "
                "it to Parquet or JSONL, and give --files"
            )
    if choice.val_split:
        return {"train": files[choice.split], "val": files[choice.val_split]}
    return {None: files[choice.split]}


def _hub_files(repo: str, revision: str, pattern: str) -> list[str]:
    """Return the hf:// paths of the files that a pattern, or one of several, matches, in order.

    Raises UserError if there is none.
    """
    names = [
        name
        for part in pattern.split()
        for name in retry(lambda part=part: hub_filesystem().glob(f"datasets/{repo}@{revision}/{part}"), repo)
    ]
    if not names:
        raise UserError(f"{repo} on the hub holds no {pattern} any more")
    return [HUB_PREFIX + name for name in sorted(names)]


def _hub_file_ranges(path: str, target: int) -> list[FileRange]:
    """Return the ranges of one file on the hub. Raises UserError if it is damaged there."""
    ending, compression = split_ending(path)
    if compression or ending not in HUB_BUILDERS:
        ranges = local_ranges([retry(lambda: local_path(path), path)], target)
        return [
            replace(file_range, path=path, document=path if file_range.document else None)
            for file_range in ranges
        ]
    try:
        return retry(lambda: HUB_BUILDERS[ending](path, target), path)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} on the hub is not a complete Parquet file ({short_error(error)}): rerun later"
        ) from None
