"""Models of the Hugging Face hub by name, OWNER/NAME: downloaded once, then read from this machine.

The folder lies below --save_checkpoint_dir and keeps the revision that was downloaded; download_model_weight.py gets a
newer one.
"""

import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from modelfiles.hub_download import HubFile, fetch, list_files
from modelfiles.origin import LICENSES, SOURCE, read_source
from modelfiles.weights import PICKLED, SAFETENSORS, SAFETENSORS_INDEX
from runtime.errors import UserError
from runtime.files import commit_folder, write_json
from runtime.launcher import is_local_main_process

SUFFIXES = (".json", ".jinja", ".md")
OTHER_FILES = ("tokenizer.model", "merges.txt", *LICENSES)
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
PICKLED_SHARD = re.compile(r"pytorch_model-\d+-of-\d+\.bin")
REVISION_LENGTH = 12  # leading characters of a revision
POLL_SECONDS = 1.0


def folder_of(repo: str, models_dir: Path) -> Path:
    """Return the folder of a repository's model."""
    return models_dir / repo.replace("/", "--")


def model_of_hub(repo: str, models_dir: Path, check: Callable[[Path], object]) -> Path:
    """Return the folder of a model of the hub; it is downloaded where it is not here yet, and then passed to `check`.

    Of several ranks on a machine the first downloads and the others wait: torchrun ends them if it fails.
    """
    folder = folder_of(repo, models_dir)
    if read_source(folder).get("repo") == repo:
        return folder
    if not is_local_main_process():
        while read_source(folder).get("repo") != repo:
            time.sleep(POLL_SECONDS)
        return folder

    def get(files: Mapping[str, HubFile], partial: Path, model_folder: Path) -> None:
        for name in model_files(repo, files):
            fetch(repo, files[name], model_folder)
        check(model_folder)

    models_dir.mkdir(parents=True, exist_ok=True)
    return download(repo, models_dir, get)


def download(repo: str, models_dir: Path, get: Callable[[Mapping[str, HubFile], Path, Path], None]) -> Path:
    """Return the folder of a repository's newest revision, downloading it if another one, or none, is here.

    `get` takes the repository's files, a folder for what is not yet complete and the folder of the model; a folder on
    which it raises an error does not get its name.
    """
    folder = folder_of(repo, models_dir)
    revision, files = list_files(repo)
    source = {"repo": repo, "revision": revision}
    if read_source(folder) == source:
        print(f"{repo} is up to date in {folder}")
        return folder

    # Complete files stay in the partial folder, so a second attempt does not download them again.
    partial = models_dir / f".{folder.name}.{revision[:REVISION_LENGTH]}"
    model_folder = partial / "model"
    model_folder.mkdir(parents=True, exist_ok=True)
    get(files, partial, model_folder)

    write_json(model_folder / SOURCE, source)
    commit_folder(model_folder, folder)
    shutil.rmtree(partial)
    return folder


def model_files(repo: str, names: Mapping[str, object]) -> list[str]:
    """Return the names of the files of a Llama folder among those of a repository, its weights in one form only.

    Raises UserError when there are no weights.
    """
    weights = _weights(names)
    if not weights:
        raise UserError(f"{repo} has no weights: neither {SAFETENSORS} nor {PICKLED}")

    others = [name for name in names if name.endswith(SUFFIXES) or name in OTHER_FILES]
    return [*others, *weights]


def _weights(names: Mapping[str, object]) -> list[str]:
    """Return the files of weights as modelfiles/weights.py reads them, in its order."""
    if SAFETENSORS in names:
        return [SAFETENSORS]
    if SAFETENSORS_INDEX in names and (shards := list(filter(SHARD.fullmatch, names))):
        return shards
    if safetensors := [name for name in names if name.endswith(".safetensors")]:
        return safetensors
    if PICKLED in names:
        return [PICKLED]
    return list(filter(PICKLED_SHARD.fullmatch, names))
