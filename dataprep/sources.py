"""Datasets on the Hugging Face hub: the ranges of their files. Of a file only the bytes of a range are downloaded."""

from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub
import pyarrow as pa

from dataprep.files import HUB_PREFIX
from dataprep.ranges import HUB_BUILDERS, FileRange
from runtime.errors import UserError
from runtime.hub import READ_ERRORS, hub_errors, hub_filesystem, retry, short_error


@dataclass(frozen=True)
class HubDataset:
    """Dataset on the hub: its repository, and the files of each split (None: documents are held out by hash)."""

    repo: str
    files: dict[str | None, str]
    kind: str = "text"


def hub_ranges(dataset: HubDataset, target: int, revision: str | None) -> tuple[list[FileRange], str]:
    """Return the ranges of a dataset on the hub and its revision (None as argument: the newest).

    Raises UserError when the hub refuses or fails.
    """
    repo = dataset.repo
    try:
        with hub_errors(f"datasets/{repo}"):
            info = retry(lambda: huggingface_hub.HfApi().dataset_info(repo, revision=revision), repo)
            ranges = [
                replace(file_range, split=split)
                for split, pattern in dataset.files.items()
                for path in _hub_files(repo, info.sha, pattern)
                for file_range in _hub_file_ranges(path, target)
            ]
            return ranges, info.sha
    except READ_ERRORS as error:  # no error of the hub's own, so an answer that was cut short
        raise UserError(
            f"the hub sent no complete answer about {repo} ({short_error(error)}): rerun later"
        ) from None


def _hub_files(repo: str, revision: str, pattern: str) -> list[str]:
    """Return the hf:// paths of the files that match a pattern, in order. Raises UserError if there is none."""
    names = retry(lambda: hub_filesystem().glob(f"datasets/{repo}@{revision}/{pattern}"), repo)
    if not names:
        raise UserError(f"{repo} on the hub holds no {pattern} any more")
    return [HUB_PREFIX + name for name in sorted(names)]


def _hub_file_ranges(path: str, target: int) -> list[FileRange]:
    """Return the ranges of one file on the hub. Raises UserError if it is damaged there."""
    build_ranges = HUB_BUILDERS[Path(path).suffix]
    try:
        return retry(lambda: build_ranges(path, target), path)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path} on the hub is not a complete Parquet file ({short_error(error)}): rerun later"
        ) from None
