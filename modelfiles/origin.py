"""What a model keeps of the folder that its training started from: special ids, sampling settings, licence, name.

A folder of another program is a guest. Its config.json has no part "smolllama", so its name and licence are put there
for the model cards of everything that is trained from it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from modelfiles.llama_config import read_config
from runtime.errors import UserError
from runtime.files import read_json

ID_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")
LICENSES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "COPYING", "NOTICE", "USE_POLICY.md")
SOURCE = "source.json"  # in a downloaded folder: its repository and revision
README = "README.md"
BASE_README = "BASE_README.md"  # the README of a guest, in the folders of models that are trained from it


@dataclass(frozen=True)
class Origin:
    """Parts of a model folder that travel with the model into checkpoints and exports.

    `base_model` is {"name", "license", "revision"} of the guest that training began with; None for our own models.
    """

    special_ids: dict[str, object] = field(default_factory=dict)  # of config.json
    generation: dict[str, object] = field(default_factory=dict)  # generation_config.json
    files: dict[str, bytes] = field(default_factory=dict)  # licence and README
    base_model: dict[str, str] | None = None


def read_source(folder: Path) -> dict[str, str]:
    """Return {"repo", "revision"} of a folder that was downloaded from the hub, {} of any other."""
    try:
        return _texts(read_json(folder / SOURCE))
    except (FileNotFoundError, NotADirectoryError, UserError):
        return {}


def read_origin(folder: Path) -> Origin:
    """Return what a model keeps of a folder; a guest is called by its name on the hub, if it was downloaded.

    Raises UserError for a config.json or generation_config.json that is broken.
    """
    config = read_config(folder)
    ours = config.get("smolllama")
    is_guest = not isinstance(ours, dict)

    files = {
        each: (folder / each).read_bytes() for each in (*LICENSES, BASE_README) if (folder / each).is_file()
    }
    base_model = None if is_guest else _texts(ours.get("base_model")) or None
    if is_guest:
        if (folder / README).is_file():
            files[BASE_README] = (folder / README).read_bytes()
        source = read_source(folder)
        base_model = {"name": source.get("repo", folder.resolve().name)}
        if "revision" in source:
            base_model["revision"] = source["revision"]
        if license_id := read_license(files.get(BASE_README, b"").decode("utf-8", "replace")):
            base_model["license"] = license_id

    path = folder / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    for name in ID_NAMES:
        if not _are_ids(generation.get(name)):
            generation.pop(name, None)
    return Origin(
        special_ids={each: config[each] for each in ID_NAMES if _are_ids(config.get(each))},
        generation=generation,
        files=files,
        base_model=base_model,
    )


def read_license(readme: str) -> str | None:
    """Return the licence that the metadata of a model card names; None without one."""
    import yaml  # only guests have such a card, and some scripts do without the package

    _, *parts = readme.split("---\n", 2)
    if len(parts) < 2 or not readme.startswith("---"):
        return None
    try:
        metadata = yaml.safe_load(parts[0])
    except yaml.YAMLError:
        return None
    license_id = metadata.get("license") if isinstance(metadata, dict) else None
    return license_id if isinstance(license_id, str) else None


def _texts(value: object) -> dict[str, str]:
    """Return the texts in an object; {} for anything else."""
    items = value.items() if isinstance(value, dict) else ()
    return {name: text for name, text in items if isinstance(text, str)}


def _are_ids(value: object) -> bool:
    """Return True for a token id, or for a list of some."""
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(type(token) is int and token >= 0 for token in ids)
