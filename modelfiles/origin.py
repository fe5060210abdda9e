"""What a model keeps of the folder that its training started from: special ids, sampling settings, licence, name.

A folder of another program is a guest. Its config.json has no part "smolllama", so its name and licence are put there
for the model cards of everything that is trained from it.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

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
        return dict(json.loads((folder / SOURCE).read_text(encoding="utf-8", errors="replace")))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return {}


def read_origin(folder: Path) -> Origin:
    """Return what a model keeps of a folder; a guest is called by its name on the hub, if it was downloaded.

    Raises ValueError for JSON that is none.
    """
    config = _read_json(folder / "config.json")
    ours = config.get("smolllama")
    is_guest = not isinstance(ours, dict)

    files = {
        each: (folder / each).read_bytes() for each in (*LICENSES, BASE_README) if (folder / each).is_file()
    }
    base_model = None if is_guest else ours.get("base_model")
    if is_guest:
        if (folder / README).is_file():
            files[BASE_README] = (folder / README).read_bytes()
        source = read_source(folder)
        base_model = {"name": source.get("repo", folder.resolve().name)}
        if "revision" in source:
            base_model["revision"] = source["revision"]
        if license_id := read_license(files.get(BASE_README, b"").decode("utf-8", "replace")):
            base_model["license"] = license_id

    return Origin(
        special_ids={each: config[each] for each in ID_NAMES if config.get(each) is not None},
        generation=_read_json(folder / "generation_config.json"),
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


def _read_json(path: Path) -> dict:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
