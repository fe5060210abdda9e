"""Shares of a dataset that several machines prepare, and their merge."""

import errno
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from dataprep.existing import read_config, same_settings
from dataprep.registry import PrepConfig
from runtime.checksums import sha256_of
from runtime.errors import UserError
from runtime.files import folder_lock, sync


@dataclass(frozen=True)
class MachineShare:
    """Share of the units that one of `count` machines prepares; `number` counts from 1."""

    number: int
    count: int

    def has(self, unit: int) -> bool:
        """Return True if this machine prepares the unit."""
        return unit % self.count == self.number - 1


def merge_machine_shares(partial: Path, data_dir: Path, name: str, config: PrepConfig) -> None:
    """Move the finished units of all shares into the folder; a kill in between is repaired by the next run.

    Raises UserError for a share with another config or a damaged unit, before anything is moved.
    """
    pattern = re.compile(re.escape(f".{name}.shard-") + r"\d+-of-\d+")
    shares = sorted(path for path in data_dir.iterdir() if pattern.fullmatch(path.name))
    for share in shares:
        with folder_lock(share):
            _check_share(share, partial, config)
    for share in shares:
        with folder_lock(share):
            for entry in sorted(share.glob("unit-*.json")):
                # The entry last: it makes the unit finished.
                for file in unit_files(json.loads(entry.read_text())):
                    if (share / file).is_file():
                        _move(share / file, partial / file)
                _move(entry, partial / entry.name)
            _remove(share)


def unit_files(entry: dict) -> dict[str, str]:
    """Return {name: sha256} of the files of a unit by its entry."""
    digests = dict(entry["examples"])
    for shard in entry["shards"].values():
        digests |= shard["sha256"]
    return digests


def _check_share(share: Path, partial: Path, config: PrepConfig) -> None:
    """Raise UserError for a share that cannot be merged; what an interrupted merge has moved lies in `partial`."""
    entries = sorted(share.glob("unit-*.json"))
    if not entries and not (share / "plan.json").is_file():
        return  # a kill hit its first moments or its removal: there is nothing to keep
    if not same_settings(read_config(share), config):
        raise UserError(
            f"{share} was prepared with other settings (sources, revision, tokenizer, flags, or path or "
            "content of the files): prepare it again, or remove it"
        )

    for entry in entries:
        digests = unit_files(json.loads(entry.read_text()))
        moved = [file for file in digests if not (share / file).is_file()]
        actual = sha256_of(share, digests.keys() - {*moved}) | sha256_of(partial, moved)
        for file, digest in digests.items():
            if actual[file] != digest:
                state = "is damaged" if actual[file] else "is missing"
                raise UserError(
                    f"{share / file} {state}, so {entry.stem} is not usable: copy the folder again, or remove "
                    f"{entry} to have the unit prepared here"
                )


def _move(path: Path, target: Path) -> None:
    """Rename a file, or copy it from another disk; `target` is complete or not there."""
    try:
        path.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = target.with_name(target.name + ".tmp")
        shutil.copyfile(path, temporary)
        sync(temporary)
        temporary.replace(target)
        path.unlink()


def _remove(share: Path) -> None:
    """Remove a merged share, and the link to it if it is one."""
    shutil.rmtree(share.resolve())
    if os.path.islink(share):
        share.unlink()
