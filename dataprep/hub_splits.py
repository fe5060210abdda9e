"""Configs and splits of a dataset on the hub, as the library `datasets` resolves them."""

import re

from runtime.errors import UserError

# What a config says besides the files, and what our readers take for granted.
READ_AS = {"sep": {"csv": ",", "tsv": "\t"}, "field": {}}


def split_files(repo: str, config: str | None, revision: str) -> dict[str, list[str]]:
    """Return the hf:// paths of the files of each split. Raises UserError for a config that there is not."""
    import datasets  # it takes seconds

    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(repo, name=config, revision=revision)
    except ValueError as error:
        names = re.search(r"\[.*\]", str(error))
        if not names:
            raise
        known = names[0].strip("[]").replace("'", "")
        if config:
            raise UserError(f"{repo} has no config {config}: --hub_config is one of {known}") from None
        raise UserError(f"{repo} has several configs: choose one with --hub_config, of {known}") from None
    except (datasets.exceptions.DataFilesNotFoundError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{repo} on the hub has no files that can be read as they are ({reason}): try --revision "
            "refs/convert/parquet"
        ) from None

    files = {str(split): [str(path) for path in paths] for split, paths in builder.config.data_files.items()}
    _check_options(repo, builder.config, files)
    return files


def _check_options(repo: str, config: object, files: dict[str, list[str]]) -> None:
    """Raise UserError for a config whose files are not read as their names say."""
    paths = [path for of_split in files.values() for path in of_split]
    separator = getattr(config, "sep", None)
    for path in paths:
        usual = "\t" if ".tsv" in path else ","
        if separator not in (None, usual) or getattr(config, "field", None):
            option = f"sep {separator!r}" if separator not in (None, usual) else f"field {config.field!r}"
            raise UserError(
                f"{repo} says that its files are read with {option}, which data.py has no flag for: try --revision "
                "refs/convert/parquet"
            )
