"""Evaluation of models: loss, perplexity and bits per byte on prepared data, preferences, and the story suite.

    python evaluation.py --model checkpoints/P-stories --dataset stories [--json]
    python evaluation.py --model checkpoints/D-dpo --dataset dpo [--reference checkpoints/S-alpaca]
    python evaluation.py --model checkpoints/P-stories checkpoints/S-stories_instruct --suite --samples 2
    python evaluation.py --model checkpoints/P-fw --lm_eval hellaswag,arc_easy     with pip install lm-eval

Several models make a table. Preferences: `preferred` is the share of pairs whose chosen answer has the higher log-prob;
`accuracy` and `margin` compare rewards, beta * (log-prob - reference's), if a reference is known (--reference, or the
start of a DPO run); beta and loss are those of the run, unless typed.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors", "yaml")

import argparse
import itertools
import json
import math
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml

from checkpoint import find_or_download, load_llama, load_model
from config import ModelArgs, Parser, resolve
from dataloader.loader import fixed_batches
from dataloader.pairs import PairRows
from dataloader.rows import PackedRows, StreamValidation
from dataprep.shards import TokenDataset, check_tokens_are_for, read_meta, require_name
from generation.cpu_decoder import quantize
from generation.generate import SamplingParams
from model import Llama
from modelfiles.adapter import find_base
from runtime import distributed
from runtime.distributed import DistributedEnv
from runtime.errors import UserError, run_cli
from stories.evaluate import STORY_TOKENS, answers, held_out, story_suite
from tokenizer import Tokenizer
from training.objectives import evaluate, next_token
from training.preference_scores import (
    OBJECTIVE_SETTINGS,
    Reference,
    objective_of_run,
    preference_scores,
    reference_of_run,
)

MAX_EXP_ARG = 700.0  # math.exp overflows a little above
ROWS = {"text": StreamValidation, "instruct": PackedRows}
SAMPLE_TEMPERATURE = 0.7

# Widths of the printed tables, in characters.
NAME_WIDTH = 22
MIN_SCORE_WIDTH = 12
MIN_TEXT_WIDTH = 24
TERMINAL_WIDTH = 120  # if stdout is not a terminal
SEPARATOR = " | "


@dataclass(frozen=True)
class CommandLine:
    """Flags of this script; `args` are the settings with their defaults, `block_size` None means the model's."""

    models: list[str]
    dataset: str | None
    reference: str | None
    suite: bool
    num_samples: int
    lm_eval: str | None
    block_size: int | None
    quantize: Literal["int8"] | None
    json: bool
    objective: dict[
        str, object
    ]  # typed settings of the preference objective; others are those of the model's run
    args: ModelArgs


def parse_command_line() -> CommandLine:
    """Return the flags of this script; exit with 2 if there is nothing to evaluate."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        nargs="+",
        required=True,
        metavar="DIR",
        help="run folders, step folders or Llama folders in Hugging Face format",
    )
    parser.add_argument("--dataset", help="folder under data_dir: evaluate on its validation set")
    parser.add_argument(
        "--reference", metavar="DIR", help="model to compare with (default: the start of a DPO run)"
    )
    parser.add_argument("--suite", action="store_true", help="evaluate held-out answers and stories")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="show N held-out stories of each")
    parser.add_argument(
        "--lm_eval", metavar="TASKS", help="tasks of lm-eval, or YAML files, separated by commas"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="rows at a time (default: 16)")
    parser.add_argument(
        "--block_size",
        type=int,
        default=argparse.SUPPRESS,
        help="shorter rows than the model's context (default: its context)",
    )
    parser.add_argument("--quantize", choices=("int8",), help="evaluate the models with int8 weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_settings({"data", "device", *OBJECTIVE_SETTINGS})

    flags = vars(parser.parse_args())
    if not (flags["dataset"] or flags["suite"] or flags["lm_eval"]):
        parser.error("nothing to evaluate: give --dataset NAME, --suite or --lm_eval TASKS")
    if flags["samples"] < 0:
        parser.error(f"--samples {flags['samples']} must be 0 or more")
    if flags.get("beta") == 0:
        parser.error("--beta 0 must be above 0")
    if flags["reference"] and not flags["dataset"]:
        parser.error("--reference goes with --dataset")

    return CommandLine(
        models=flags["model"],
        num_samples=flags["samples"],
        block_size=flags.get("block_size"),
        objective={name: flags[name] for name in OBJECTIVE_SETTINGS if name in flags},
        args=resolve(flags),
        **{name: flags[name] for name in ("dataset", "reference", "suite", "lm_eval", "quantize", "json")},
    )


def dataset_scores(
    model: Llama,
    tokenizer: Tokenizer,
    reference: Reference | None,
    data: Path,
    args: ModelArgs,
    env: DistributedEnv,
    block_size: int | None = None,
) -> dict[str, float]:
    """Return the scores of a model on the complete validation set of a dataset.

    | score         | meaning                                                                               |
    |---------------|---------------------------------------------------------------------------------------|
    | loss          | nats per token with a label                                                           |
    | tokens        | number of tokens with a label                                                         |
    | perplexity    | exp(loss)                                                                             |
    | bits_per_byte | bits per byte of text, unless labels are lost by truncation to the context            |
    | pairs         | preferences only: number of pairs; loss and tokens are of both answers                |
    | preferred     | preferences only: share of pairs whose chosen answer has the higher log-prob          |
    | accuracy      | with a reference only: share of pairs whose chosen answer has the higher reward       |
    | margin        | with a reference only: mean difference of the rewards                                 |
    | dpo_loss      | with a reference only: nats per pair, by the objective of the model's run             |
    """
    meta = read_meta(data)
    check_tokens_are_for(tokenizer, data, meta)
    store = TokenDataset(data, "val", meta)
    if not len(store):
        raise UserError(
            f"{data} has no validation set to evaluate on: prepare it with --val_fraction or --val_files"
        )
    limits = [model.args.block_size]
    if isinstance(reference, Llama):
        limits.append(reference.args.block_size)
    if block_size:
        limits.append(block_size)
    context = min(limits)

    if meta["kind"] == "preference":
        scores = preference_scores(model, reference, PairRows(store, context, 0), args, env)
    else:
        rows = ROWS[meta["kind"]](store, context, 0)
        batches = fixed_batches(rows, args.batch_size, env.rank, env.world_size)
        means = evaluate(next_token, model, batches, env)
        scores = {"loss": means["loss"], "tokens": means["count"]}

    loss = scores["loss"]
    nats = loss * scores["tokens"]
    scores["perplexity"] = math.exp(loss) if loss < MAX_EXP_ARG else math.inf

    # The bytes of truncated parts are not known, so bits per byte need the labels of all texts.
    if meta["kind"] == "text" or scores["tokens"] == store.num_loss_tokens:
        scores["bits_per_byte"] = nats / math.log(2) / store.bytes
    scores["tokens"] = int(scores["tokens"])
    return scores


def lm_eval_scores(folder: Path, tasks: str, device: torch.device) -> dict[str, float]:
    """Return the scores {"task/metric": value} of EleutherAI's lm-evaluation-harness on a checkpoint folder.

    A task is the name of one of the harness's, or the path of a YAML file of your own.
    """
    try:
        from lm_eval import simple_evaluate  # an extra, and slow to import
    except ImportError:
        raise UserError("--lm_eval needs the lm-evaluation-harness: pip install lm-eval") from None

    task_list = []
    for task in tasks.split(","):
        if task.endswith(".yaml"):
            task = yaml.safe_load(Path(task).read_text(encoding="utf-8"))
        task_list.append(task)

    model_args = {"pretrained": str(folder), "device": str(device)}
    if base := find_base(folder):
        model_args |= {"pretrained": str(base), "peft": str(folder)}
    results = simple_evaluate("hf", model_args=model_args, tasks=task_list)["results"]

    scores = {}
    for task, metrics in results.items():
        for metric, value in metrics.items():
            if isinstance(value, float):
                scores[f"{task}/{metric.removesuffix(',none')}"] = value
    return scores


def evaluate_model(name: str, command: CommandLine, env: DistributedEnv) -> dict:
    """Return all requested scores of one model."""
    args = command.args
    folder = find_or_download(name, args.save_checkpoint_dir)
    model, tokenizer = load_model(folder)
    if command.quantize:
        quantize(model)
    model.to(env.device)

    scores: dict = {"model": str(folder)}
    if command.dataset:
        data_dir = Path(args.data_dir)
        data = data_dir / require_name(command.dataset, data_dir)
        args = args.replace(**(objective_of_run(folder) | command.objective))
        reference = _find_reference(folder, data, command, model)
        if isinstance(reference, Llama):
            reference.to(env.device)
        scores["dataset"] = command.dataset
        scores |= dataset_scores(model, tokenizer, reference, data, args, env, command.block_size)
    if command.suite:
        with env.autocast():
            scores |= story_suite(model, tokenizer, seed=args.seed)
    if command.lm_eval:
        scores |= lm_eval_scores(folder, command.lm_eval, env.device)
    return scores


def _find_reference(folder: Path, data: Path, command: CommandLine, model: Llama) -> Reference | None:
    """Return the reference of preferences: --reference, else that of the DPO run. Other data has none, or UserError."""
    kind = read_meta(data)["kind"]
    if kind != "preference":
        if command.reference:
            raise UserError(f"--reference is for preferences; --dataset {data.name} is {kind}: drop it")
        return None
    if command.reference:
        return load_llama(find_or_download(command.reference, command.args.save_checkpoint_dir))
    return reference_of_run(folder, data, command.block_size or model.args.block_size)


def table(scores_of_models: Sequence[dict]) -> str:
    """Return the scores as a table to read: a line for each score, a column for each model."""
    titles = [_title(Path(scores["model"])) for scores in scores_of_models]
    width = max(MIN_SCORE_WIDTH, *map(len, titles))

    all_names = [name for scores in scores_of_models for name in scores]
    names = [name for name in dict.fromkeys(all_names) if name not in ("model", "dataset")]

    lines = [" " * NAME_WIDTH + "".join(f"  {title:>{width}}" for title in titles)]
    for name in names:
        cells = [_cell(scores.get(name)) for scores in scores_of_models]
        lines.append(f"{name:{NAME_WIDTH}}" + "".join(f"  {cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def _title(folder: Path) -> str:
    """Return the name of the run of a step folder, or the name of another folder."""
    if folder.name.startswith("step_"):
        folder = folder.parent
    return folder.name or str(folder)


def _cell(score: float | None) -> str:
    if score is None:
        return "-"
    if isinstance(score, int):
        return f"{score:,}"
    return f"{score:.4f}"


def side_by_side(folders: Sequence[str], count: int, seed: int, env: DistributedEnv) -> str:
    """Return the texts of all models for the same held-out requests, with the same seed, in columns."""
    tasks = held_out(("about", "wish"), count, seed)
    params = SamplingParams(temperature=SAMPLE_TEMPERATURE, seed=seed)
    replies_of_models = []
    for folder in folders:
        model, tokenizer = load_model(folder)
        with env.autocast():
            replies = list(answers(model.to(env.device), tokenizer, tasks, STORY_TOKENS, params))
        replies_of_models.append(replies)

    terminal_width = shutil.get_terminal_size((TERMINAL_WIDTH, 0)).columns
    free_width = terminal_width - len(SEPARATOR) * (len(folders) - 1)
    width = max(MIN_TEXT_WIDTH, free_width // len(folders))

    lines = []
    for index, task in enumerate(tasks):
        lines += ["", task.instruction, SEPARATOR.join(f"{Path(folder).name:{width}}" for folder in folders)]
        columns = []
        for replies in replies_of_models:
            text, ended = replies[index]
            columns.append(textwrap.wrap(text if ended else f"{text} ...", width))
        for row in itertools.zip_longest(*columns, fillvalue=""):
            lines.append(SEPARATOR.join(f"{line:{width}}" for line in row))
    return "\n".join(lines)


def main() -> None:
    """Print the scores of models."""
    command = parse_command_line()
    args = command.args
    env = distributed.init(args.device, args.dtype)
    try:
        scores = [evaluate_model(name, command, env) for name in command.models]
        if command.json:
            text = json.dumps(scores[0] if len(scores) == 1 else {"models": scores})
        else:
            text = table(scores)
            if command.num_samples:
                text += "\n" + side_by_side(command.models, command.num_samples, args.seed, env)
        if env.is_main_process:
            print(text.rstrip())
    finally:
        distributed.shutdown()


if __name__ == "__main__":
    run_cli(main)
