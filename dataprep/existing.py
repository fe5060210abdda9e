"""Folders that earlier runs left: finished datasets, which are final, and unfinished ones, which are continued.

Nothing is replaced or discarded unless --update asks for it.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dataprep.ranges import FileRange
from dataprep.registry import PrepConfig, Source
from dataprep.shards import SPLITS, TokenDataset, read_meta, verify_dataset
from runtime.errors import UserError
from runtime.files import link_or_copy, read_json, real_folder, write_json
from tokenizer import Tokenizer, load_tokenizer

# Files and folders of a dataset: what is beside them belongs to the user.
OURS = re.compile(
    r"(train|val)-\d+\.\w+\.bin|meta\.json|plan\.json|SHA256SUMS|\.verified|tokenizer|reference", re.ASCII
)
SETTINGS = {
    "kind": "--kind",
    "template": "the chat template",
    "tokenizer": "--tokenizer",
    "source": "the files or their content",
    "val_fraction": "--val_fraction",
    "max_tokens": "--max_tokens",
    "rows": "--rename, --ignore or --skip_bad_rows",
    "units": "the version of data.py",
}


def dataset_folder(data_dir: Path, name: str) -> Path:
    """Return the folder of a dataset; a link, to a larger disk for example, is followed."""
    return real_folder(data_dir / name)


def partial_folder(data_dir: Path, name: str) -> Path:
    """Return the folder that a dataset is prepared in: beside the one that it becomes, on the same disk."""
    folder = dataset_folder(data_dir, name)
    return folder.with_name(f".{folder.name}.partial")


def read_config(folder: Path) -> dict | None:
    """Return the config (as JSON) that a folder is prepared with; None if it is missing or damaged."""
    try:
        config = read_json(folder / "plan.json")
        for unit in config["units"]:
            for file_range in unit:
                FileRange.from_json(file_range)
        is_complete = isinstance(config["source"], dict) and isinstance(config["tokenizer"]["name"], str)
    except (FileNotFoundError, NotADirectoryError, UserError, LookupError, TypeError, AttributeError):
        return None
    return config if is_complete else None


def stored_configs(data_dir: Path, name: str, finished: bool = True) -> Iterator[tuple[Path, dict]]:
    """Yield (folder, config) of the unfinished folders of a dataset, and of the finished one if that is wanted."""
    folders = [partial_folder(data_dir, name), *sorted(data_dir.glob(f".{name}.shard-*-of-*"))]
    if finished:
        folders.append(dataset_folder(data_dir, name))
    for folder in folders:
        if config := read_config(folder):
            yield folder, config


def stored_source(
    data_dir: Path, name: str, identity: dict[str, str | None], kind: str, update: bool
) -> Source | None:
    """Return the dataset of the hub that a folder was prepared from, without asking the hub; None without one.

    So every run and every machine's share has one revision. With `update` a finished dataset does not count.
    """
    for _, config in stored_configs(data_dir, name, finished=not update):
        answered = ("revision", "license")  # by the hub
        stored = {key: value for key, value in config["source"].items() if key not in answered}
        if stored == identity:
            ranges = [FileRange.from_json(file_range) for unit in config["units"] for file_range in unit]
            return Source(name, kind, ranges, config["source"])
    return None


def stored_tokenizer(data_dir: Path, source: Source, name: str) -> Tokenizer | None:
    """Return the tokenizer of that name which the same source was prepared with, finished or not; None without one.

    So one that was trained on the corpus is not trained again.
    """
    for folder, config in stored_configs(data_dir, source.name):
        if config["source"] == source.provenance and config["tokenizer"]["name"] == name:
            return load_tokenizer(folder / "tokenizer")
    return None


def is_prepared(target: Path, config: PrepConfig, update: bool) -> bool:
    """Return True if a dataset was prepared with this config and its files are undamaged.

    Raises UserError for one with another config, unless it is to be updated.
    """
    if not (target / "meta.json").is_file():
        return False
    stored = read_config(target)
    if not same_settings(stored, config):
        if update:
            return False
        raise UserError(
            f"{target} is already prepared, with other settings ({differences(stored, config)}): give --update to "
            "replace it when the new one is complete (runs that were trained on it cannot be resumed then), or another "
            "--name"
        )
    try:
        verify_dataset(target)
        meta = read_meta(target)
        for split in SPLITS:
            TokenDataset(target, split, meta)
    except UserError as error:
        print(error)
        return False
    return True


def start_or_continue(folder: Path, config: PrepConfig, tokenizer: Tokenizer, update: bool) -> None:
    """Make a folder ready for the units of a config; finished ones are kept.

    Raises UserError if it holds finished units of another config, unless they are to be discarded.
    """
    stored = read_config(folder)
    if same_settings(stored, config):
        return
    if _only_skips_bad_rows(stored, config):
        write_json(folder / "plan.json", config.to_json())  # the finished units have no bad rows
        return
    has_work = any(folder.glob("unit-*.json")) or (folder / "meta.json").is_file()
    if has_work and not update:
        raise UserError(
            f"{folder} holds finished work of a run with other settings ({differences(stored, config)}): repeat that "
            "command to continue it, give --update to discard it, or give another --name"
        )

    (folder / "plan.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    write_json(folder / "plan.json", config.to_json())


def same_settings(stored: dict | None, config: PrepConfig) -> bool:
    """Return True if a stored config is this one; one tokenizer may have several names, such as gpt2 and a folder."""
    return _without_tokenizer_name(stored) == _without_tokenizer_name(config.to_json())


def _without_tokenizer_name(config: dict | None) -> dict:
    """Return a config as JSON, {} for none, in which the tokenizer is known by its hash alone."""
    if not config or "tokenizer" not in config:
        return config or {}
    tokenizer = {key: value for key, value in config["tokenizer"].items() if key != "name"}
    return {**config, "tokenizer": tokenizer}


def _only_skips_bad_rows(stored: dict | None, config: PrepConfig) -> bool:
    """Return True if a config differs from a stored one in --skip_bad_rows alone, which is given now."""
    if stored is None or not config.rows.skip_bad_rows:
        return False
    stopping = replace(config, rows=replace(config.rows, skip_bad_rows=False))
    return same_settings(stored, stopping)


def differences(stored: dict | None, config: PrepConfig) -> str:
    """Return the settings that differ, as the user knows them."""
    current = _without_tokenizer_name(config.to_json())
    stored = _without_tokenizer_name(stored)
    differ = [key for key in SETTINGS if stored.get(key) != current[key]]
    if len(differ) > 1:
        differ = [key for key in differ if key != "units"]  # it follows from the others
    return ", ".join(SETTINGS[key] for key in differ)


def carry_foreign_files(target: Path, partial: Path) -> None:
    """Give the files that a user keeps in a dataset's folder a place in the one that replaces it."""
    if not target.is_dir():
        return
    for path in target.iterdir():
        if OURS.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(
                path, partial / path.name, symlinks=True, dirs_exist_ok=True, copy_function=_copy_into
            )
        else:
            _copy_into(path, partial / path.name)


def _copy_into(path: str | Path, target: str | Path) -> None:
    link_or_copy(Path(path), Path(target))
