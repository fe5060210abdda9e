"""Download of trained weights from the Hugging Face hub into a model folder; no login is needed.

    python download_model_weight.py -P | -F | -D            the published base, fine-tuned, preference-aligned model
    python download_model_weight.py --repo_id OWNER/NAME    any model that export.py --push_to_hub has published

Repeat the command to resume a download that was cut off; size and hash of every file are compared with the hub's. The
published .pt files become a folder labelled legacy, of safetensors. The last line of stdout is the folder.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors", "huggingface_hub", "pyarrow")

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from checkpoint import load_model
from config import Parser, resolve
from generation.chat import STAGE_OF_MODEL_TYPE
from modelfiles import hub_models
from modelfiles.hub_download import HubFile, fetch
from modelfiles.hub_models import model_files
from modelfiles.llama_config import CONFIG
from publishing.published_weights import convert
from runtime.errors import UserError, run_cli
from runtime.files import commit_folder
from runtime.os_errors import in_words


@dataclass(frozen=True)
class Published:
    """Repository and file of the published weights of a stage."""

    repo: str
    file: str


PUBLISHED = {
    "pretrained": Published("YuvrajSingh9886/smol-llama-base", "snapshot_6750.pt"),
    "sft": Published("YuvrajSingh9886/smol-llama-finetuned", "snapshot_fine_tuned_model_900.pt"),
    "dpo": Published("YuvrajSingh9886/smol-llama-dpo", "DPO_model_1650.pt"),
}
SPELLINGS = {"pretrained": ("-P", "-pretrained"), "sft": ("-F", "-sft"), "dpo": ("-D", "-dpo")}


@dataclass(frozen=True)
class CommandLine:
    """Flags of this script; `models_dir` is the folder that gets the model's folder."""

    model_type: str | None
    repo_id: str | None
    file: Path | None
    models_dir: Path


def parse_command_line() -> CommandLine:
    """Return the flags of this script; exit with 2 if they name no model."""
    parser = Parser(__doc__)
    stages = parser.add_mutually_exclusive_group()
    stages.add_argument("--model_type", choices=PUBLISHED, help="the published weights of a stage")
    for name, spellings in SPELLINGS.items():
        stages.add_argument(
            *spellings,
            dest="model_type",
            action="store_const",
            const=name,
            help=f"the same as --model_type {name}: {PUBLISHED[name].repo}",
        )
    parser.add_argument("--repo_id", metavar="OWNER/NAME", help="another repository on the hub")
    parser.add_argument("--file", type=Path, help="a published .pt file on this machine")
    parser.add_settings({"save_checkpoint_dir"})

    flags = vars(parser.parse_args())
    if not flags["repo_id"] and not flags["model_type"]:
        parser.error("no model is named: give -P, -F, -D, --model_type or --repo_id")
    if flags["file"] and not flags["model_type"]:
        parser.error("--file needs -P, -F, -D or --model_type: the stage decides the prompt template")
    if flags["file"] and flags["repo_id"]:
        parser.error(
            f"--file {flags['file']} is a model already, so --repo_id has nothing to download: drop one of them"
        )
    if flags["file"] and not flags["file"].is_file():
        parser.error(f"--file {flags['file']} is no file of this machine: drop the flag to download it")

    return CommandLine(
        model_type=flags["model_type"],
        repo_id=flags["repo_id"],
        file=flags["file"],
        models_dir=Path(resolve(flags).save_checkpoint_dir),
    )


def snapshot_of(repo: str, files: Mapping[str, HubFile], model_type: str | None) -> HubFile:
    """Return the one .pt file of a repository. Raises UserError when it has none or its stage is not known."""
    expected = "one .pt file"
    snapshots = [file for name, file in files.items() if name.endswith(".pt")]
    snapshot = snapshots[0] if len(snapshots) == 1 else None
    if model_type:
        expected = PUBLISHED[model_type].file
        snapshot = files.get(expected, snapshot)

    if not snapshot:
        raise UserError(
            f"{repo} has neither a model folder (config.json) nor {expected}; it has "
            f"{', '.join(sorted(files)) or 'nothing'}"
        )
    if not model_type:
        raise UserError(
            f"{repo} has {snapshot.name}, which does not record its stage: add --model_type "
            f"{', '.join(PUBLISHED)}"
        )
    return snapshot


def download(repo: str, model_type: str | None, models_dir: Path) -> Path:
    """Download a repository's model into a folder under models_dir, and return the folder."""

    def get(files: Mapping[str, HubFile], partial: Path, model_folder: Path) -> None:
        if CONFIG in files:
            for name in model_files(repo, files):
                fetch(repo, files[name], model_folder)
        else:
            snapshot = snapshot_of(repo, files, model_type)
            convert(fetch(repo, snapshot, partial), model_folder, STAGE_OF_MODEL_TYPE[model_type])
        load_model(model_folder)  # a folder that cannot be loaded must not get its name

    return hub_models.download(repo, models_dir, get)


def convert_file(file: Path, model_type: str, models_dir: Path) -> Path:
    """Convert a published .pt file of this machine; return the folder under models_dir."""
    folder = models_dir / file.stem
    partial = models_dir / f".{folder.name}.partial"
    convert(file, partial, STAGE_OF_MODEL_TYPE[model_type])
    commit_folder(partial, folder)
    return folder


def main() -> None:
    """Download or convert the model that the flags name; print its folder."""
    command = parse_command_line()
    try:
        command.models_dir.mkdir(parents=True, exist_ok=True)
        if command.file:
            folder = convert_file(command.file, command.model_type, command.models_dir)
        else:
            repo = command.repo_id or PUBLISHED[command.model_type].repo
            folder = download(repo, command.model_type, command.models_dir)
    except OSError as error:  # of the disk: hub_errors has reported those of the network
        raise UserError(
            f"cannot write to {in_words(error, command.models_dir)}, or choose another --save_checkpoint_dir; files "
            "that are already here are kept"
        ) from None
    print(folder)


if __name__ == "__main__":
    run_cli(main)
