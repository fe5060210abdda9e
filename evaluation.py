"""Measure models: loss, perplexity and bits per byte on prepared data, preferences, and the story suite.

    python evaluation.py --model checkpoints/P-stories --dataset stories [--json]
    python evaluation.py --model checkpoints/D-dpo --dataset dpo [--reference checkpoints/S-alpaca]
    python evaluation.py --model checkpoints/P-stories checkpoints/S-stories_instruct --suite --samples 2
    python evaluation.py --model checkpoints/P-fw --lm_eval hellaswag,arc_easy     with pip install lm-eval

Several models make a table with a column for each. Preferences: `preferred` is the share of pairs whose chosen answer
has the higher log-prob; `accuracy` and `margin` compare rewards, beta * (log-prob - reference's), where a reference is
known: the one given, or the weights that a DPO run started from.
"""

import itertools
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from checkpoint import find_model, load_llama, load_model
from config import ModelArgs, Parser, resolve
from dataloader.batch import Batch
from dataloader.loader import fixed_batches
from dataloader.pairs import PairRows
from dataloader.rows import PackedRows, StreamValidation
from dataprep.shards import TokenDataset, read_meta
from generation.cpu_decoder import quantize
from generation.generate import SamplingParams
from model import Llama
from runtime import distributed
from runtime.distributed import DistributedEnv
from runtime.errors import UserError, run_cli
from stories.evaluate import STORY_TOKENS, answers, held_out, story_suite
from tokenizer import Tokenizer
from training.objectives import completion_lengths, completion_logps, evaluate, next_token
from training.reference_logps import reference_key
from training.state import initial_weights_folder, load_state

MAX_EXP_ARG = 700.0  # whose exponential is still a number
ROWS = {"text": StreamValidation, "instruct": PackedRows}


def dataset_scores(
    model: Llama,
    tokenizer: Tokenizer,
    reference: Llama | None,
    data: Path,
    args: ModelArgs,
    env: DistributedEnv,
) -> dict[str, float]:
    """{"loss" in nats per learned token, "perplexity", "bits_per_byte", "tokens"} on a dataset's whole validation set.

    There are no bits per byte where the context cuts off what should be learned: its bytes are not known apart.
    Of preferences, where both answers count, also {"pairs", "preferred"} and, with a reference, {"accuracy", "margin"}.
    """
    meta = read_meta(data)
    if meta["tokenizer"]["hash"] != tokenizer.hash:
        raise UserError(
            f"{data} was prepared with another tokenizer than the model's: prepare it with "
            "data.py --tokenizer and the model's folder"
        )
    store = TokenDataset(data, "val", meta)
    T = min(args.block_size, model.args.block_size, *([reference.args.block_size] if reference else []))
    if meta["kind"] == "preference":
        found = _preference_scores(model, reference, PairRows(store, T, 0), args, env)
    else:
        batches = fixed_batches(ROWS[meta["kind"]](store, T, 0), args.batch_size, env.rank, env.world_size)
        found = evaluate(next_token, model, batches, env)
        found = {"loss": found["loss"], "tokens": found["count"]}
    nats, whole = (
        found["loss"] * found["tokens"],
        meta["kind"] == "text" or found["tokens"] == store.num_loss_tokens,
    )
    perplexity = math.exp(found["loss"]) if found["loss"] < MAX_EXP_ARG else math.inf
    return {
        **found,
        "tokens": int(found["tokens"]),
        "perplexity": perplexity,
        **({"bits_per_byte": nats / math.log(2) / store.bytes} if whole else {}),
    }


def _preference_scores(
    model: Llama, reference: Llama | None, rows: PairRows, args: ModelArgs, env: DistributedEnv
) -> dict[str, float]:
    """The scores of pairs, all ranks together."""
    batches = fixed_batches(rows, args.batch_size, env.rank, env.world_size)
    means = evaluate(_pair_objective(reference, args.beta), model, batches, env)
    tokens = means["tokens"] * means["count"]
    found = {
        "loss": means["loss"] * means["count"] / tokens,
        "tokens": tokens,
        "pairs": int(means["count"]),
        "preferred": means["preferred"],
    }
    return found | ({name: means[name] for name in ("accuracy", "margin")} if reference else {})


def _pair_objective(reference: Llama | None, beta: float) -> Callable:
    """What is summed over pairs: the loss of both answers, their tokens, and how chosen and rejected compare."""

    def objective(model: Llama, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        logps = completion_logps(model, batch)
        chosen, rejected = logps.view(-1, 2).unbind(1)
        sums = {"tokens": completion_lengths(batch).sum(), "preferred": (chosen > rejected).sum()}
        if reference:
            margin = beta * (
                (logps - completion_logps(reference, batch)).view(-1, 2) @ logps.new_tensor([1.0, -1.0])
            )
            sums |= {"accuracy": (margin > 0).sum(), "margin": margin.sum()}
        return -logps.sum(), torch.tensor(len(chosen), device=logps.device), sums

    return objective


def dpo_reference(folder: Path) -> Llama | None:
    """The model that a DPO run started from, when it is still there with the weights that it had."""
    try:
        state = load_state(folder)[1]
    except UserError:  # not of a run
        return None
    start = initial_weights_folder(folder, state) if state["reference"] else None
    if not start or not (start / "config.json").is_file():
        return None
    model, dtype = load_llama(start), getattr(torch, state["reference_dtype"])
    if reference_key(model, state["data"], state["args"]["block_size"], dtype) == state["reference"]:
        return model
    print(
        f"{start} is not what {folder} started from any more: accuracy and margin are left out (--reference DIR says "
        "what to compare with)",
        file=sys.stderr,
    )
    return None


def lm_eval_scores(folder: Path, tasks: str, device: torch.device) -> dict[str, float]:
    """Scores of EleutherAI's lm-evaluation-harness on the checkpoint folder, {"task/metric": value}.

    A task is one of the harness's by its name, or one of your own by the path of its YAML file.
    """
    try:
        from lm_eval import simple_evaluate  # an extra, and slow to import
    except ImportError:
        raise UserError("--lm_eval needs the lm-evaluation-harness: pip install lm-eval") from None
    chosen = [
        yaml.safe_load(Path(task).read_text(encoding="utf-8")) if task.endswith(".yaml") else task
        for task in tasks.split(",")
    ]
    found = simple_evaluate("hf", model_args={"pretrained": str(folder), "device": str(device)}, tasks=chosen)
    return {
        f"{task}/{metric.removesuffix(',none')}": value
        for task, metrics in found["results"].items()
        for metric, value in metrics.items()
        if isinstance(value, float)
    }


def measure(name: str, asked: dict, args: ModelArgs, env: DistributedEnv) -> dict:
    """All that is asked for, of one model."""
    folder = find_model(name)
    model, tokenizer = load_model(folder)
    if asked["quantize"]:
        quantize(model)
    model.to(env.device)
    found: dict = {"model": str(folder)}
    if asked["dataset"]:
        data = Path(args.data_dir) / asked["dataset"]
        reference = None
        if read_meta(data)["kind"] == "preference":
            reference = (
                load_llama(find_model(asked["reference"])) if asked["reference"] else dpo_reference(folder)
            )
            reference = reference and reference.to(env.device)
        found |= {"dataset": asked["dataset"], **dataset_scores(model, tokenizer, reference, data, args, env)}
    if asked["suite"]:
        with env.autocast():
            found |= story_suite(model, tokenizer, seed=args.seed)
    return found | (lm_eval_scores(folder, asked["lm_eval"], env.device) if asked["lm_eval"] else {})


def table(measured: list[dict]) -> str:
    """The scores for people: a line for each, a column for each model."""
    names = dict.fromkeys(name for scores in measured for name in scores if name not in ("model", "dataset"))
    folders = [Path(scores["model"]) for scores in measured]
    heads = [
        (folder.parent if folder.name.startswith("step_") else folder).name or str(folder)
        for folder in folders
    ]
    width = max(12, *map(len, heads))
    lines = [f"{'':22}" + "".join(f"  {head:>{width}}" for head in heads)]
    for name in names:
        cells = [scores.get(name) for scores in measured]
        shown = [
            "-" if cell is None else f"{cell:,}" if isinstance(cell, int) else f"{cell:.4f}" for cell in cells
        ]
        lines.append(f"{name:22}" + "".join(f"  {cell:>{width}}" for cell in shown))
    return "\n".join(lines)


def side_by_side(folders: list[str], count: int, seed: int, env: DistributedEnv) -> str:
    """What every model writes for the same held-out requests with the same seed, in columns."""
    tasks, columns = held_out(("about", "wish"), count, seed), []
    params = SamplingParams(temperature=0.7, seed=seed)
    for folder in folders:
        model, tokenizer = load_model(folder)
        with env.autocast():
            columns.append(list(answers(model.to(env.device), tokenizer, tasks, STORY_TOKENS, params)))
    width = max(24, (shutil.get_terminal_size((120, 0)).columns - 3 * (len(folders) - 1)) // len(folders))
    lines = []
    for n, task in enumerate(tasks):
        lines += ["", task.instruction, " | ".join(f"{Path(folder).name:{width}}" for folder in folders)]
        texts = [textwrap.wrap(column[n][0] + ("" if column[n][1] else " ..."), width) for column in columns]
        lines += [
            " | ".join(f"{line:{width}}" for line in row)
            for row in itertools.zip_longest(*texts, fillvalue="")
        ]
    return "\n".join(lines)


def main() -> None:
    """Print the scores of models."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        nargs="+",
        required=True,
        metavar="DIR",
        help="run folders, step folders or Llama folders in Hugging Face format",
    )
    parser.add_argument("--dataset", help="folder under data_dir, of which the whole validation set is taken")
    parser.add_argument(
        "--reference",
        metavar="DIR",
        help="model that preferences are compared with (default: what a DPO run started from)",
    )
    parser.add_argument(
        "--suite", action="store_true", help="answers and stories of the story world, held-out ones"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=0,
        metavar="N",
        help="show what the models write for N held-out requests of the story world",
    )
    parser.add_argument(
        "--lm_eval",
        metavar="TASKS",
        help="tasks of the lm-evaluation-harness, or YAML files of your own, with commas between",
    )
    parser.add_argument("--batch_size", type=int, default=16, help="rows at a time (default: 16)")
    parser.add_argument(
        "--block_size", type=int, default=1 << 20, help="shorter rows than the model's context"
    )
    parser.add_argument(
        "--quantize", choices=("int8",), help="measure the models with their weights as bytes"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_settings({"data", "device", "beta"})
    asked = vars(parser.parse_args())
    if not (asked["dataset"] or asked["suite"] or asked["lm_eval"]):
        parser.error("nothing to measure: give --dataset NAME, --suite or --lm_eval TASKS")
    if asked["samples"] < 0:
        parser.error(f"--samples {asked['samples']} must be 0 or more")
    args = resolve(asked)
    env = distributed.init(args.device, args.dtype)
    try:
        measured = [measure(name, asked, args, env) for name in asked["model"]]
        if env.is_main_process and asked["json"]:
            print(json.dumps(measured[0] if len(measured) == 1 else {"models": measured}))
        elif env.is_main_process:
            print(table(measured))
        if env.is_main_process and asked["samples"] and not asked["json"]:
            print(side_by_side(asked["model"], asked["samples"], args.seed, env))
    finally:
        distributed.shutdown()


if __name__ == "__main__":
    run_cli(main)
