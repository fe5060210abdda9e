"""What is optimised, as sums over its own unit, never means: (model, batch) -> (loss_sum, count, sums).

The caller adds over micro-batches and ranks and divides once by the global count, so every split gives the same
gradients.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from config import IGNORE, ModelArgs
from dataloader.batch import Batch
from runtime.distributed import DistributedEnv
from training.chunked_loss import chunked_linear_loss, label_logps, linear_cross_entropy, output_weight

Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor, dict[str, Tensor]]]


def next_token(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Cross-entropy of the labels in nats. Unit: learned tokens."""
    loss = linear_cross_entropy(*hidden_at_labels(model, batch))
    return loss, (batch.labels != IGNORE).sum(), {}


def preference(args: ModelArgs) -> Objective:
    """The objective of preference pairs with the settings' --dpo_loss, --beta and --label_smoothing. Unit: pairs."""

    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        tokens = lengths(batch) if args.dpo_loss == "ipo" else 1

        def loss(by_label: Tensor) -> Tensor:
            ratios = (_per_completion(batch, by_label) - batch.reference) / tokens
            return preference_loss(*_sides(ratios), args.beta, args.label_smoothing, args.dpo_loss).sum()

        total, found = chunked_linear_loss(*hidden_at_labels(model, batch), loss, batch.pair_boundaries)
        logps = _per_completion(batch, found)
        chosen, rejected = _sides(args.beta * (logps - batch.reference))
        chosen_logps, rejected_logps = _sides(logps)
        sums = {
            "accuracy": (chosen > rejected).float().sum(),
            "margin": (chosen - rejected).sum(),
            "chosen_reward": chosen.sum(),
            "rejected_reward": rejected.sum(),
            "chosen_logps": chosen_logps.sum(),
            "rejected_logps": rejected_logps.sum(),
        }
        return total, torch.tensor(len(chosen), device=total.device), sums

    return objective


def preference_loss(
    chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float = 0.0, kind: str = "sigmoid"
) -> Tensor:
    """Losses (P,) of log-ratios policy : reference of the chosen and rejected answers (P,).

    sigmoid: DPO, arXiv 2305.18290 eq. 7, with label_smoothing the conservative one (eq. 3 of its authors' cDPO note).
    ipo: arXiv 2310.12036 eq. 17, whose log-ratios are means over the tokens of an answer.
    """
    difference = chosen - rejected
    if kind == "ipo":
        return (difference - 1 / (2 * beta)) ** 2
    return -(1 - label_smoothing) * F.logsigmoid(beta * difference) - label_smoothing * F.logsigmoid(
        -beta * difference
    )


def completion_logps(model: nn.Module, batch: Batch) -> Tensor:
    """Summed log-prob (2P,) of each completion of the batch: chosen, rejected, chosen, ..."""
    return _per_completion(batch, label_logps(*hidden_at_labels(model, batch)))


def lengths(batch: Batch) -> Tensor:
    """Learned tokens (2P,) of each completion."""
    return _per_completion(batch, torch.ones_like(batch.completion_index, dtype=torch.float32))


def _sides(values: Tensor) -> tuple[Tensor, Tensor]:
    """(chosen (P,), rejected (P,)) of the values (2P,) of completions."""
    return values.view(-1, 2).unbind(1)


def _per_completion(batch: Batch, values: Tensor) -> Tensor:
    # One after another in float32, a thousand log-probs would be off by more than what is learned from a pair.
    sums = torch.zeros_like(batch.reference, dtype=_precision(values.device))
    return sums.index_add(0, batch.completion_index, values.to(sums.dtype)).float()


def _precision(device: torch.device) -> torch.dtype:
    """Of long sums: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def hidden_at_labels(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(states (N, C), head weight (V, C), labels (N,)) of the positions that are learned."""
    states = model(
        batch.tokens,
        batch.doc_ids,
        return_hidden=True,
        branches=batch.branches,
        positions=batch.positions,
        segments=batch.segments,
    )
    states, labels = states.flatten(0, 1), batch.labels.flatten()
    if batch.loss_positions is not None:
        states, labels = states[batch.loss_positions], labels[batch.loss_positions]
    return states, output_weight(model), labels


@torch.no_grad()
def evaluate(
    objective: Objective, model: nn.Module, batches: Iterable[Batch], env: DistributedEnv
) -> dict[str, float]:
    """The objective's means over the batches of all ranks, in nats per unit, with dropout off."""
    was_training = model.training
    model.eval()
    results = []
    for batch in batches:
        with env.autocast():
            results.append(objective(model, batch.to(env.device)))
    model.train(was_training)
    return global_means(results, env)


def global_means(
    results: list[tuple[Tensor, Tensor, dict[str, Tensor]]], env: DistributedEnv
) -> dict[str, float]:
    """{"loss", "count", and the objective's own}: sums over results and ranks, divided once by the global count."""
    names = ["loss", "count", *results[0][2]]
    rows = [
        torch.stack([value.detach().to(_precision(env.device)) for value in (loss, count, *sums.values())])
        for loss, count, sums in results
    ]
    totals = torch.stack(rows).sum(0)
    if dist.is_initialized():
        dist.all_reduce(totals)
    values = dict(zip(names, totals.tolist(), strict=True))
    return {
        name: value if name == "count" else value / max(1.0, values["count"])
        for name, value in values.items()
    }
