"""Scores of preference pairs: what a model prefers, and how far it has moved from its reference."""

import sys
from pathlib import Path

import numpy as np
import torch

from checkpoint import load_llama
from config import ModelArgs
from dataloader.batch import Batch
from dataloader.loader import fixed_batches
from dataloader.pairs import PairRows
from dataprep.shards import TokenDataset, read_meta
from model import Llama
from modelfiles.adapter import find_base
from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from training.objectives import (
    Objective,
    completion_lengths,
    completion_logps,
    evaluate,
    preference_loss,
)
from training.reference_logps import reference_key
from training.reference_table import read_table, table_path
from training.state import data_hash, initial_weights_folder, load_state

OBJECTIVE_SETTINGS = ("beta", "dpo_loss", "label_smoothing")
Reference = Llama | np.ndarray  # a model, or the table (pairs, 2) of its log-probs


def objective_of_run(folder: Path) -> dict[str, object]:
    """Return the settings of the objective with which a DPO run trained a model; none of other models."""
    try:
        _, state = load_state(folder)
    except UserError:  # the folder is not of a run
        return {}
    stored = state["args"]
    return {name: stored[name] for name in OBJECTIVE_SETTINGS} if stored["train"] == "D" else {}


def preference_scores(
    model: Llama, reference: Reference | None, rows: PairRows, args: ModelArgs, env: DistributedEnv
) -> dict[str, float]:
    """Return the scores of pairs, of all ranks together."""
    if isinstance(reference, np.ndarray):
        rows = rows.with_reference(reference)
    batches = fixed_batches(rows, args.batch_size, env.rank, env.world_size)
    means = evaluate(pair_objective(reference, args), model, batches, env)  # means over pairs

    num_pairs = means["count"]
    num_tokens = means["tokens"] * num_pairs
    scores = {
        "loss": means["loss"] * num_pairs / num_tokens,
        "tokens": num_tokens,
        "pairs": int(num_pairs),
        "preferred": means["preferred"],
    }
    names = ("accuracy", "margin", "dpo_loss")
    return scores | {name: means[name] for name in names if name in means}


def pair_objective(reference: Reference | None, args: ModelArgs) -> Objective:
    """Return an objective whose unit is a pair: its loss is the sum over both answers, its sums compare them."""

    def objective(model: Llama, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        logps = completion_logps(model, batch)  # 2P: chosen, rejected, chosen, ...
        chosen, rejected = logps.view(-1, 2).unbind(1)  # P each
        sums = {"tokens": completion_lengths(batch).sum(), "preferred": (chosen > rejected).sum()}

        if reference is not None:
            reference_logps = (
                batch.reference if isinstance(reference, np.ndarray) else completion_logps(reference, batch)
            )
            log_ratios = (logps - reference_logps).view(-1, 2)  # P 2
            margin = log_ratios[:, 0] - log_ratios[:, 1]
            sums["accuracy"] = (margin > 0).sum()
            sums["margin"] = args.beta * margin.sum()

            if args.dpo_loss == "ipo":
                log_ratios = log_ratios / completion_lengths(batch).view(-1, 2)  # P 2
            losses = preference_loss(*log_ratios.unbind(1), args.beta, args.label_smoothing, args.dpo_loss)
            sums["dpo_loss"] = losses.sum()

        num_pairs = torch.tensor(len(chosen), device=logps.device)
        return -logps.sum(), num_pairs, sums

    return objective


def reference_of_run(folder: Path, data: Path, context: int) -> Reference | None:
    """Return what a DPO run compares its model with: the model that it started from, or else its log-probs on disk.

    The table serves for the data and the context of the run only. None, with a line, where neither is there any more.
    """
    try:
        _, state = load_state(folder)
    except UserError:  # the folder is not of a run
        return None
    if state["args"].get("lora_rank") and state["args"]["train"] == "D":
        return load_llama(find_base(folder))
    if not state["reference"]:
        return None

    start = initial_weights_folder(folder, state)
    if start and (start / "config.json").is_file():
        model = load_llama(start)
        dtype = getattr(torch, state["reference_dtype"])
        kernel = state.get("reference_kernel")
        if (
            reference_key(model, state["data"], state["args"]["block_size"], dtype, kernel)
            == state["reference"]
        ):
            return model

    path = table_path(data, state["reference"], "val")
    meta = read_meta(data)
    if path.is_file() and (data_hash(meta), context) == (state["data"], state["args"]["block_size"]):
        return read_table(path, TokenDataset(data, "val", meta).documents // 2)
    print(
        f"the weights in {start} are not there, or not those that {folder} started from: accuracy and margin are "
        "skipped; name another model with --reference DIR",
        file=sys.stderr,
    )
    return None
