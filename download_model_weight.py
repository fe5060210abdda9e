"""Fetch trained weights from the Hugging Face hub into a model folder; no login is needed.

    python download_model_weight.py -P | -F | -D            the published base, fine-tuned, preference-aligned model
    python download_model_weight.py --repo_id OWNER/NAME    any model that export.py --push_to_hub has published

A download that is cut off goes on when the command is repeated; size and hash of every file are compared with the
hub's. The published .pt files become a folder labelled legacy, of safetensors. The last line of stdout is the folder.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from checkpoint import load_model
from config import Parser, resolve
from generation.chat import STAGE_OF_MODEL_TYPE
from publishing.hub_download import HubFile, fetch, repository
from publishing.published_weights import convert
from runtime.errors import UserError, run_cli
from runtime.files import commit_folder, write_json


@dataclass(frozen=True)
class Published:
    """Where the published weights of a stage are."""

    repo: str
    file: str


PUBLISHED = {
    "pretrained": Published("YuvrajSingh9886/smol-llama-base", "snapshot_6750.pt"),
    "sft": Published("YuvrajSingh9886/smol-llama-finetuned", "snapshot_fine_tuned_model_900.pt"),
    "dpo": Published("YuvrajSingh9886/smol-llama-dpo", "DPO_model_1650.pt"),
}
SPELLINGS = {"pretrained": ("-P", "-pretrained"), "sft": ("-F", "-sft"), "dpo": ("-D", "-dpo")}
SOURCE = "source.json"  # in the folder made: repository and revision


def wanted(repo: str, files: dict[str, HubFile], model_type: str | None) -> list[HubFile]:
    """The files of a model: the folder's that export.py writes, or one .pt. Raises UserError when there are neither."""
    if "config.json" in files:
        return [file for name, file in files.items() if name.endswith((".json", ".safetensors", ".md"))]
    name = PUBLISHED[model_type].file if model_type else None
    snapshots = [file for name, file in files.items() if name.endswith(".pt")]
    chosen = files.get(name) or (snapshots[0] if len(snapshots) == 1 else None)
    if not chosen:
        raise UserError(
            f"{repo} holds neither a model folder (config.json) nor {name or 'one .pt file'}; it has "
            f"{', '.join(sorted(files)) or 'nothing'}"
        )
    if not model_type:
        raise UserError(
            f"{repo} holds {chosen.name}, which does not say how it was trained: add --model_type "
            f"{', '.join(PUBLISHED)}"
        )
    return [chosen]


def download(repo: str, model_type: str | None, there: Path) -> Path:
    """Fetch a repository's model into a folder under `there`; returns the folder."""
    folder = there / repo.replace("/", "--")
    revision, files = repository(repo)
    source = {"repo": repo, "revision": revision}
    if (folder / SOURCE).is_file() and (folder / SOURCE).read_text(errors="replace") == json.dumps(
        source, indent=1
    ):
        print(f"{repo} is here already, as it is on the hub now")
        return folder
    chosen = wanted(repo, files, model_type)
    partial = there / f".{folder.name}.{revision[:12]}"
    made = partial / "model"
    made.mkdir(parents=True, exist_ok=True)
    for file in chosen:
        path = fetch(repo, file, partial if file.name.endswith(".pt") else made)
    if path.suffix == ".pt":
        convert(path, made, STAGE_OF_MODEL_TYPE[model_type])
    write_json(made / SOURCE, source)
    load_model(made)  # nothing takes the folder's name that cannot be loaded
    commit_folder(made, folder)
    shutil.rmtree(partial)
    return folder


def from_file(file: Path, model_type: str, there: Path) -> Path:
    """Convert a published .pt file that is here already; returns the folder under `there`."""
    folder = there / file.stem
    partial = there / f".{folder.name}.partial"
    convert(file, partial, STAGE_OF_MODEL_TYPE[model_type])
    commit_folder(partial, folder)
    return folder


def main() -> None:
    """Fetch or convert what the flags name; print the folder."""
    parser = Parser(__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model_type", choices=PUBLISHED, help="the published weights of a stage")
    for name, spellings in SPELLINGS.items():
        which.add_argument(
            *spellings,
            dest="model_type",
            action="store_const",
            const=name,
            help=f"the same as --model_type {name}: {PUBLISHED[name].repo}",
        )
    parser.add_argument("--repo_id", metavar="OWNER/NAME", help="another repository on the hub")
    parser.add_argument("--file", type=Path, help="a published .pt file that is here already")
    parser.add_settings({"save_checkpoint_dir"})
    typed = vars(parser.parse_args())
    repo, model_type = typed["repo_id"], typed["model_type"]
    if not repo and not model_type:
        parser.error("which model? give -P, -F, -D, --model_type or --repo_id")
    if typed["file"] and not model_type:
        parser.error("--file needs -P, -F, -D or --model_type: how it was trained decides how it is asked")
    there = Path(resolve(typed).save_checkpoint_dir)
    try:
        there.mkdir(parents=True, exist_ok=True)
        folder = (
            from_file(typed["file"], model_type, there)
            if typed["file"]
            else download(repo or PUBLISHED[model_type].repo, model_type, there)
        )
    except OSError as error:  # of the network, all are said already
        raise UserError(
            f"cannot write to {there} ({error.strerror or error}): make room there, or choose another "
            "--save_checkpoint_dir; what is there so far is kept"
        ) from None
    print(folder)


if __name__ == "__main__":
    run_cli(main)
