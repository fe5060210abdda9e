"""What is optimised, as sums over its own unit, never means: (model, batch) -> (loss_sum, count, sums).

The caller adds over micro-batches and ranks and divides once by the global count, so every split gives the same
gradients.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from batch import Batch
from config import IGNORE
from distributed import Env, all_reduce_sum

Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor, dict[str, Tensor]]]


def next_token(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Cross-entropy of the labels in nats. Unit: learned tokens."""
    states = model(batch.tokens, batch.doc_ids, head=False)  # (B, T, C)
    loss = head_loss(states.flatten(0, 1), output_weight(model), batch.labels.flatten())
    return loss, (batch.labels != IGNORE).sum(), {}


def head_loss(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of labels (N,) under the head weight (V, C) at states (N, C), in float32.

    The logits are made and used up some rows at a time: all at once would be the largest tensor of a step.
    """
    if torch.is_autocast_enabled(states.device.type):
        # Products in the low precision, softmax and sum in float32; linear_cross_entropy knows only one of the two.
        return sum(checkpoint(_rows_loss, rows, weight, wanted, use_reentrant=False, preserve_rng_state=False)
                   for rows, wanted in zip(states.split(4096), labels.split(4096), strict=True))
    rows = max(256, (1 << 24) // weight.shape[0])
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows)
    return F.linear_cross_entropy(states, weight, labels, ignore_index=IGNORE, reduction="sum", options=options)


def _rows_loss(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(states, weight).float(), labels, ignore_index=IGNORE, reduction="sum")


def output_weight(model: nn.Module) -> Tensor:
    """The head's weight (V, C) of a Llama, bare or wrapped."""
    return getattr(model, "module", model).lm_head.weight


@torch.no_grad()
def evaluate(objective: Objective, model: nn.Module, batches: Iterable[Batch], env: Env) -> dict[str, float]:
    """The objective's means over the batches of all ranks, in nats per unit, with dropout off."""
    was_training = model.training
    model.eval()
    results = []
    for batch in batches:
        with env.autocast():
            results.append(objective(model, batch.to(env.device)))
    model.train(was_training)
    return global_means(results, env)


def global_means(results: list[tuple[Tensor, Tensor, dict[str, Tensor]]], env: Env) -> dict[str, float]:
    """{"loss", "count", and the objective's own}: sums over results and ranks, divided once by the global count."""
    names = ["loss", "count", *results[0][2]]
    precision = torch.float32 if env.device.type == "mps" else torch.float64
    rows = [torch.stack([value.detach().to(precision) for value in (loss, count, *sums.values())])
            for loss, count, sums in results]
    values = dict(zip(names, all_reduce_sum(torch.stack(rows).sum(0)).tolist(), strict=True))
    return {name: value if name == "count" else value / max(1.0, values["count"]) for name, value in values.items()}
