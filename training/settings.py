"""From a command line to the set-up of a run: settings, data, and the weights it starts from.

`resolve_run` goes one way: stage and dataset -> weights to resume or to start from -> architecture and vocabulary ->
one ModelArgs. Each step returns; nothing is written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from checkpoint import find_model, find_or_download, load_args, load_sampling, verify_checkpoint
from config import PRESETS, ModelArgs, merge_settings, round_up
from dataloader.loader import Rows
from dataprep.shards import read_meta
from modelfiles.llama_config import ARCHITECTURE
from modelfiles.origin import Origin, read_origin
from runtime.checksums import read_checksums, sha256_of
from runtime.errors import UserError
from runtime.launcher import is_local_main_process, restarted_by_torchrun
from tokenization.guest_files import read_files, read_template
from tokenizer import Tokenizer, has_tokenizer, load_tokenizer
from training.lora import check_settings
from training.mixture import Mixture, read_mixture
from training.run_length import count_steps
from training.sample import default_prompt_remains, encode_prompt, fitting_prompt
from training.stages import STAGES, Stage
from training.state import TrainState, load_state, step_folder

# Taken in this order where --dataset is not given.
DEFAULT_DATASETS = {
    "text": ("fw", "tinystories", "stories"),
    "instruct": ("alpaca", "stories_instruct"),
    "preference": ("dpo", "stories_preference"),
}
FIXED_SETTINGS = {"optimizer": "optimizer states differ", "seed": "it fixes the order of the rows"}
VOCAB_MULTIPLE = 64  # rows of the embedding: matrix products like it


@dataclass(frozen=True)
class Start:
    """The weights that a run starts from, and where its training stands."""

    weights: Path | None = None  # a model folder; None = random weights
    progress: TrainState | None = None  # None = a new run
    state: dict | None = None  # the rest of state.json
    extends: bool = False  # a longer run continues from before the cool-down of a shorter one


@dataclass(frozen=True)
class RunSetup:
    """Settings, data and starting point of a run, before any hardware is known."""

    args: ModelArgs
    stage: Stage
    folder: Path
    mixture: Mixture
    dataset: Path  # of the mixture, the first dataset of the stage's kind
    meta: dict  # its meta.json
    tokenizer: Tokenizer
    start: Start
    origin: Origin | None  # what the model keeps of the folder that it starts from
    continues: bool  # the run's folder is kept; a new run moves an older one of its name aside
    prompt_ids: list[int]  # of the sample that an evaluation shows; empty = no sample
    typed: dict[str, object]  # the flags of the command line, which nothing overrides


def resolve_run(cli_args: dict[str, object]) -> RunSetup:
    """Return the set-up of the run that a command line describes. Raises UserError where something does not fit."""
    if cli_args.get("resume") and cli_args.get("init_from"):
        raise UserError(
            f"--resume continues a run, --init_from {cli_args['init_from']} starts a new one: drop one of them"
        )
    cli_args = {**stored_identity(cli_args), **cli_args}
    train, mixture = choose_stage_and_data(cli_args)
    cli_args = {**cli_args, "train": train}
    settings = merge_settings(cli_args)
    folder = run_folder_of(settings, mixture)
    continues = bool(settings["resume"]) or restarted_by_torchrun(folder)

    if settings["resume"] or (continues and (folder / "latest").is_file()):
        start = resume_start(folder, check_files=not settings["dry_run"])
        cli_args = {**cli_args, "train": _resumed_stage(train, start), "resume": True}
        settings = resumed_settings(cli_args, start)
        mixture = read_mixture(Path(settings["data_dir"]), settings["dataset"])
    elif settings["init_from"]:
        weights = find_or_download(settings["init_from"], settings["save_checkpoint_dir"])
        start = initial_start(weights, folder, check_files=not settings["dry_run"])
    elif STAGES[train].needs_reference:
        raise UserError(
            "--train D compares a model with itself before training, so random weights teach it nothing: "
            "give --init_from FOLDER, best the run of --train S"
        )
    else:
        start = Start()

    verify_once(mixture.verify, wanted=not settings["dry_run"])
    if start.state and start.state["data"] != mixture.hash():
        data = Path(settings["data_dir"]) / mixture.name
        raise UserError(
            f"{data} is not the data that {start.weights} was trained on: prepare it as it was, or start a "
            f"new run with --init_from {start.weights} and its own --run_name"
        )
    dataset, meta = mixture.first_of(STAGES[cli_args["train"]].kind)
    tokenizer = load_tokenizer(dataset / "tokenizer")

    if start.weights:
        settings |= adopt_architecture(start.weights, settings, cli_args, tokenizer)
    origin = read_origin(start.weights) if start.weights else None
    if origin and origin.base_model and not start.state:
        settings |= adopt_sampling(start.weights, cli_args)
    settings["vocab_size"] = resolve_vocab_size(settings["vocab_size"], tokenizer)
    names = {"dataset": mixture.name, "run_name": folder.name}
    args = ModelArgs(**{**settings, **names})
    check_settings(args, cli_args, start.weights, start.state and start.state["args"])
    if start.state and not restarted_by_torchrun(folder):
        start = start_of_longer_run(start, args, cli_args, mixture)

    stage = STAGES[args.train]
    if default_prompt_remains(cli_args, start.state):
        args = args.replace(prompt=fitting_prompt(dataset, meta, tokenizer))
    prompt_ids = encode_prompt(args, stage.kind, tokenizer, is_typed="prompt" in cli_args)
    return RunSetup(
        args, stage, folder, mixture, dataset, meta, tokenizer, start, origin, continues, prompt_ids, cli_args
    )


def describe_start(setup: RunSetup, progress: TrainState, rows: Rows, val_rows: Rows | None) -> list[str]:
    """Return the first lines of the plan: the data, and the weights that training starts from."""
    train = rows.dataset
    held_out = "no validation set, so no evaluation"
    if val_rows:
        held_out = f"validation {len(val_rows.dataset):,} tokens"
    lines = [
        f"{setup.stage.name} on {setup.args.dataset} ({len(train):,} tokens, {train.documents:,} documents; "
        f"{held_out}) -> {setup.folder}"
    ]

    weights = setup.start.weights
    if progress.step:
        lines.append(f"resuming from {weights}: step {progress.step}, {progress.tokens:,} tokens seen")
        if setup.start.extends:
            lines.append("the run gets longer, so it continues from before its rate began to fall")
        lines += preset_note(setup)
    elif weights:
        lines.append(f"starting from {weights}")
    elif setup.stage.kind != "text":
        lines.append("starting from random weights (--init_from FOLDER takes a trained model)")
    if setup.stage.kind != "text":
        lines.append(describe_template(setup.tokenizer))
        template = read_template(read_files(weights)) if weights else None
        if template not in (None, setup.tokenizer.chat_template):
            lines.append(
                f"note: {weights} was trained on another template: data.py --tokenizer {weights} prepares data in it"
            )
    if weights and not has_tokenizer(weights):
        lines.append(f"note: {weights} has no tokenizer; its ids are taken to be those of the data")
    return lines


def describe_template(tokenizer: Tokenizer) -> str:
    """Return a line of the plan: how conversations are rendered, and what ends a response."""
    whose = "the chat template of its tokenizer" if tokenizer.has_own_template else "SmolLlama's"
    return f"template: {whose}; a response ends with {tokenizer.stop_tokens[0]}"


def choose_stage_and_data(cli_args: dict[str, object]) -> tuple[str, Mixture]:
    """Return stage and data: those of --dataset, or the first prepared dataset of the stage's kind.

    Pretraining on instructions is fine-tuning, which may have texts among its data. Raises UserError for datasets that
    do not suit the stage.
    """
    settings = merge_settings(cli_args)
    train, names = settings["train"], settings["dataset"]
    data_dir = Path(settings["data_dir"])
    mixture = read_mixture(data_dir, names or _first_prepared(data_dir, STAGES[train].kind).name)

    if train == "P" and "instruct" in mixture.kinds:
        train = "S"
    kind = STAGES[train].kind
    allowed = {kind, "text"} if train == "S" else {kind}
    for name, kind_of_set in mixture.kind_of.items():
        if kind_of_set not in allowed or kind not in mixture.kinds:
            raise UserError(f"--dataset {name} is of kind {kind_of_set}; --train {train} needs {kind}")
    if train == "D" and len(mixture.folders) > 1:
        raise UserError(f"--dataset {names}: --train D takes one dataset")
    return train, mixture


def _first_prepared(data_dir: Path, kind: str) -> Path:
    """Return the prepared dataset of a kind: the first of DEFAULT_DATASETS, then by name."""
    favourites = DEFAULT_DATASETS[kind]
    rank = {name: number for number, name in enumerate(favourites)}
    prepared = [path.parent for path in data_dir.glob("*/meta.json") if _kind(path.parent) == kind]
    prepared.sort(key=lambda folder: (rank.get(folder.name, len(rank)), folder.name))
    return prepared[0] if prepared else data_dir / favourites[-1]


def _kind(folder: Path) -> str | None:
    """Return the kind of a prepared dataset; None of a broken one, which was not asked for by name."""
    try:
        return read_meta(folder)["kind"]
    except UserError:
        return None


def run_folder_of(settings: dict[str, object], mixture: Mixture) -> Path:
    """Return the folder of a run: --run_name, or stage and datasets, below --save_checkpoint_dir."""
    name = settings["run_name"] or f"{settings['train']}-{mixture.run_name}"
    return Path(settings["save_checkpoint_dir"]) / name


def stored_identity(cli_args: dict[str, object]) -> dict[str, object]:
    """Return stage and data of the run that --run_name and --resume name: they need not be typed again."""
    if not (cli_args.get("resume") and "run_name" in cli_args):
        return {}
    settings = merge_settings(cli_args)
    weights = find_model(Path(settings["save_checkpoint_dir"]) / settings["run_name"])

    # It is read before the checkpoint is verified: where it is damaged, that names the file and the remedy.
    folder = weights / "train_state"
    expected = (read_checksums(folder) or {}).get("state.json")
    if expected and sha256_of(folder, ["state.json"])["state.json"] != expected:
        verify_checkpoint(weights, resumed=True)
    stored = load_state(weights)[1]["args"]
    return {name: stored[name] for name in ("train", "dataset", "data_dir")}


def resume_start(folder: Path, check_files: bool) -> Start:
    """Return the newest checkpoint of a run, with its training state."""
    weights = find_model(folder)
    verify_once(partial(verify_checkpoint, weights, resumed=True), wanted=check_files)
    progress, state = load_state(weights)
    return Start(weights, progress, state)


def start_of_longer_run(
    start: Start, args: ModelArgs, cli_args: dict[str, object], mixture: Mixture
) -> Start:
    """Return the checkpoint from before the cool-down where typed limits make a wsd run longer, else the start.

    Raises UserError where that checkpoint is gone.
    """
    step = start.state.get("cooldown_checkpoint")
    typed = {"total_iters", "epochs", "budget", "lr_decay_iters"} & cli_args.keys()
    if step is None or start.progress.step <= step or not typed or args.lr_schedule != "wsd":
        return start

    # A --budget is not known in steps yet; it was typed to train on.
    if "budget" not in typed:
        end = args.lr_decay_iters
        if not args.explicit["lr_decay_iters"]:
            rows = mixture.rows(args.block_size, args.seed)
            end = count_steps(args, len(rows), start.progress.step, start.progress.rows_consumed)
        if end <= start.state["decay_end"]:
            return start

    run = start.weights.parent
    weights = step_folder(run, step)
    if not weights.is_dir():
        raise UserError(
            f"{weights}, from before the rate began to fall, is gone, so a longer run cannot continue from it: "
            f"start a new one with --init_from {start.weights} and its own --run_name"
        )
    verify_once(partial(verify_checkpoint, weights, resumed=True), wanted=not args.dry_run)
    progress, state = load_state(weights)
    return Start(weights, progress, state, extends=True)


def initial_start(weights: Path, folder: Path, check_files: bool) -> Start:
    """Return the weights that a new run starts from. Raises UserError where the new run would move them aside."""
    if weights.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{weights} belongs to the run that this one would replace: give this one another --run_name"
        )
    verify_once(partial(verify_checkpoint, weights), wanted=check_files)
    return Start(weights)


def _resumed_stage(train: str, start: Start) -> str:
    """Return the stage to resume: a run that began as P on instructions is S."""
    stored = start.state["args"]["train"]
    return "S" if (train, stored) == ("P", "S") else train


def resumed_settings(cli_args: dict[str, object], start: Start) -> dict[str, object]:
    """Return the settings of a resumed run. Raises UserError for those that it cannot change."""
    settings = merge_settings(cli_args, start.state["args"])
    if cli_args.get("lr_schedule") == "cosine":
        settings["cooldown_iters"] = None  # the stored one belongs to the other schedule

    for name, reason in FIXED_SETTINGS.items():
        stored = start.state["args"][name]
        if settings[name] != stored:
            raise UserError(
                f"cannot resume a run of --{name} {stored} with --{name} {settings[name]}: {reason}; drop the flag, "
                f"or start a new run with --init_from {start.weights} and its own --run_name"
            )
    return settings


def preset_note(setup: RunSetup) -> list[str]:
    """Return a line about values of a typed --preset that a resumed run does not take; none where all agree."""
    preset = PRESETS.get(setup.typed.get("preset"), {})
    stored = setup.start.state["args"]
    kept = [
        f"--{name} {stored[name]}"
        for name in preset
        if name not in setup.typed and stored[name] != preset[name]
    ]
    if not kept:
        return []
    return [f"note: a resumed run keeps its settings, whatever --preset says: {', '.join(kept)}"]


def verify_once(verify: Callable[[], None], wanted: bool) -> None:
    """Compare files with their checksums, once on each machine."""
    if wanted and is_local_main_process():
        verify()


def adopt_sampling(weights: Path, cli_args: dict[str, object]) -> dict[str, object]:
    """Return the sampling settings of a guest that no flag and no preset chooses: what is tuned keeps them."""
    preset = PRESETS.get(cli_args.get("preset"), {})
    chosen = cli_args.keys() | preset.keys()
    return {name: value for name, value in load_sampling(weights).items() if name not in chosen}


def adopt_architecture(
    weights: Path, settings: dict[str, object], cli_args: dict[str, object], tokenizer: Tokenizer
) -> dict[str, object]:
    """Return the settings that the weights in a folder fix.

    Raises UserError where a flag says otherwise, or where the data has another tokenizer.
    """
    stored = load_args(weights)
    fixed = {name: getattr(stored, name) for name in ARCHITECTURE}
    if not settings["resume"] and "block_size" in cli_args:
        del fixed["block_size"]  # rotary positions have no weights: a new run may choose its context

    wrong = [
        f"--{name} {cli_args[name]} does not match the checkpoint in {weights} ({value})"
        for name, value in fixed.items()
        if name in cli_args and cli_args[name] != value
    ]
    if wrong:
        raise UserError(f"{'; '.join(wrong)}: drop the flag or start a new run")
    if has_tokenizer(weights) and load_tokenizer(weights).hash != tokenizer.hash:
        raise UserError(
            f"the model in {weights} has another tokenizer than the data: prepare the data with "
            f"data.py --tokenizer {weights}"
        )
    return fixed


def resolve_vocab_size(vocab_size: int | None, tokenizer: Tokenizer) -> int:
    """Return the rows of the embedding: the tokenizer's tokens rounded up, unless given.

    Raises UserError when there are fewer than tokens.
    """
    if vocab_size is None:
        return round_up(tokenizer.vocab_size, VOCAB_MULTIPLE)
    if vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"--vocab_size {vocab_size} is smaller than the {tokenizer.vocab_size} tokens of the data"
        )
    return vocab_size
