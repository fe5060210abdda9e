"""Objectives, as sums: (model, batch) -> (loss_sum, count, sums), in nats over the objective's own unit.

The caller adds over micro-batches and ranks and divides once by the global count, so every split of a step gives the
same gradients; a mean of means would weigh tokens differently in short and long micro-batches.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from config import IGNORE, ModelArgs
from dataloader.batch import Batch
from runtime.distributed import DistributedEnv
from training import lora
from training.chunked_loss import chunked_linear_loss, label_logps, linear_cross_entropy, output_weight

Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor, dict[str, Tensor]]]


def next_token(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the summed cross-entropy of the labels and their number. Unit: tokens with a label."""
    hidden, weight, labels = hidden_at_labels(model, batch)
    loss = linear_cross_entropy(hidden, weight, labels)
    return loss, (batch.labels != IGNORE).sum(), {}


def preference(args: ModelArgs) -> Objective:
    """Return the objective of preference pairs with --dpo_loss, --beta and --label_smoothing. Unit: pairs.

    The reference is in the batch; under LoRA it is the model without its adapter.
    """

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if args.lora_rank:
            batch = batch._replace(reference=base_logps(model, batch))
        lengths = torch.ones_like(batch.reference)
        if args.dpo_loss == "ipo":
            lengths = completion_lengths(batch)

        # The chunked loss calls this once for each chunk; a chunk ends at a pair's end, so it holds complete pairs.
        def chunk_loss(logps: Tensor, chunk: slice) -> Tensor:
            pairs = _pairs_of_chunk(batch.pair_boundaries, chunk)
            answers = slice(2 * pairs.start, 2 * pairs.stop)
            index = batch.completion_index[chunk] - answers.start
            answer_logps = _sum_by_completion(logps, index, answers.stop - answers.start)
            ratios = (answer_logps - batch.reference[answers]) / lengths[answers]
            chosen, rejected = _chosen_rejected(ratios)
            return preference_loss(chosen, rejected, args.beta, args.label_smoothing, args.dpo_loss).sum()

        hidden, weight, labels = hidden_at_labels(model, batch)
        total, logps = chunked_linear_loss(hidden, weight, labels, chunk_loss, batch.pair_boundaries)
        sums = _preference_sums(
            _sum_by_completion(logps, batch.completion_index, len(lengths)), batch, args.beta
        )
        # Not torch.tensor, which waits for a GPU.
        pairs = torch.full((), len(lengths) // 2, device=total.device)
        return total, pairs, sums

    return objective


def _pairs_of_chunk(boundaries: list[int], chunk: slice) -> slice:
    """Return the pairs that lie in a chunk of loss positions; pairs without any go with the pair before them."""
    first = bisect_right(boundaries, chunk.start) if chunk.start else 0
    return slice(first, bisect_right(boundaries, chunk.stop))


def _preference_sums(answer_logps: Tensor, batch: Batch, beta: float) -> dict[str, Tensor]:
    """Return the sums over pairs that the metrics show; rewards are beta times the log-ratio policy : reference."""
    chosen, rejected = _chosen_rejected(beta * (answer_logps - batch.reference))
    chosen_logps, rejected_logps = _chosen_rejected(answer_logps)
    return {
        "accuracy": (chosen > rejected).float().sum(),
        "margin": (chosen - rejected).sum(),
        "chosen_reward": chosen.sum(),
        "rejected_reward": rejected.sum(),
        "chosen_logps": chosen_logps.sum(),
        "rejected_logps": rejected_logps.sum(),
    }


def preference_loss(
    chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float = 0.0, kind: str = "sigmoid"
) -> Tensor:
    """Return the losses (P,) of log-ratios policy : reference of the chosen and rejected answers (P,).

    sigmoid: DPO, arXiv 2305.18290 eq. 7, with label_smoothing the conservative one (eq. 3 of its authors' cDPO note).
    ipo: arXiv 2310.12036 eq. 17, whose log-ratios are means over the tokens of an answer.
    """
    difference = chosen - rejected
    if kind == "ipo":
        return (difference - 1 / (2 * beta)) ** 2
    as_labelled = F.logsigmoid(beta * difference)
    the_other_way = F.logsigmoid(-beta * difference)
    return -(1 - label_smoothing) * as_labelled - label_smoothing * the_other_way


def completion_logps(model: nn.Module, batch: Batch) -> Tensor:
    """Return the summed log-prob (2P,) of each completion of the batch: chosen, rejected, chosen, ..."""
    logps = label_logps(*hidden_at_labels(model, batch))
    return _sum_by_completion(logps, batch.completion_index, len(batch.reference))


@torch.no_grad()
def base_logps(model: nn.Module, batch: Batch) -> Tensor:
    """Return the log-probs (2P,) of the completions under a model without its adapter and without dropout."""
    was_training = model.training
    model.eval()
    with lora.without_adapter(model):
        logps = completion_logps(model, batch)
    model.train(was_training)
    return logps


def completion_lengths(batch: Batch) -> Tensor:
    """Return the number of tokens with a label (2P,) of each completion."""
    ones = torch.ones_like(batch.completion_index, dtype=torch.float32)
    return _sum_by_completion(ones, batch.completion_index, len(batch.reference))


def _chosen_rejected(values: Tensor) -> tuple[Tensor, Tensor]:
    """Split values of completions (2P,) into those of chosen (P,) and rejected (P,)."""
    return values.view(-1, 2).unbind(1)  # P 2


def _sum_by_completion(values: Tensor, completion_index: Tensor, count: int) -> Tensor:
    """Sum values (N,) by completion, into (count,)."""
    # One after another in float32, a thousand log-probs would be off by more than the margin of a pair.
    sums = torch.zeros(count, dtype=_sum_dtype(values.device), device=values.device)
    return sums.index_add(0, completion_index, values.to(sums.dtype)).float()


def _sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of long sums: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def hidden_at_labels(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states (N, C), output weight (V, C) and labels (N,) of the positions that have a label."""
    hidden = model(
        batch.tokens,
        batch.doc_ids,
        return_hidden=True,
        branches=batch.branches,
        positions=batch.positions,
        segments=batch.segments,
    )
    hidden = hidden.flatten(0, 1)  # (B T) C
    labels = batch.labels.flatten()  # (B T)
    if batch.loss_positions is not None:
        hidden = hidden[batch.loss_positions]
        labels = labels[batch.loss_positions]
    return hidden, output_weight(model), labels


@torch.no_grad()
def evaluate(
    objective: Objective, model: nn.Module, batches: Iterable[Batch], env: DistributedEnv
) -> dict[str, float]:
    """Return the objective's means over the batches of all ranks, in nats per unit, with dropout off."""
    was_training = model.training
    model.eval()
    results = []
    try:
        for batch in batches:
            with env.autocast():
                results.append(objective(model, batch.to(env.device)))
    finally:
        model.train(was_training)
    return global_means(results, env)


def global_means(
    results: list[tuple[Tensor, Tensor, dict[str, Tensor]]], env: DistributedEnv
) -> dict[str, float]:
    """Return "loss", "count" and the objective's own: sums over results and ranks, divided once by the global count."""
    names = ["loss", "count", *results[0][2]]
    rows = []
    for loss, count, sums in results:
        values = [value.detach().to(_sum_dtype(env.device)) for value in (loss, count, *sums.values())]
        rows.append(torch.stack(values))

    totals = torch.stack(rows).sum(0)
    if dist.is_initialized():
        dist.all_reduce(totals)

    means = dict(zip(names, totals.tolist(), strict=True))
    for name in means.keys() - {"count"}:
        means[name] /= max(1.0, means["count"])
    return means
