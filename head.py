"""The output head and its loss together, so that the logits of all positions never exist at once."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import IGNORE, UserError


def head_loss(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of labels (N,) under the head weight (V, C) at states (N, C), in float32.

    The logits are made and used up some rows at a time: all at once would be the largest tensor of a step.
    """
    if torch.is_autocast_enabled(states.device.type):
        # Products in the low precision, softmax and sum in float32; linear_cross_entropy knows only one of the two.
        return label_logps(states, weight, labels).sum().neg()
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=_rows_at_a_time(len(labels), weight))
    return F.linear_cross_entropy(states, weight, labels, ignore_index=IGNORE, reduction="sum", options=options)


def label_logps(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Log-probs (N,) of labels (N,) under the head weight (V, C) at states (N, C), in float32; 0 where ignored."""
    return _LabelLogps.apply(states, weight, labels)


class _LabelLogps(torch.autograd.Function):
    """label_logps with one buffer of logits at a time: backward makes them again, and gradients of them in place."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        device = states.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        low = states.to(precision), weight.to(precision)
        norms, logps = (torch.empty(len(labels), device=states.device) for _ in range(2))
        for rows in _shares(len(labels), weight):
            logits = _logits(low[0][rows], low[1])
            picked = logits.gather(1, labels[rows, None].clamp(min=0))
            largest = logits.amax(1, keepdim=True)
            norms[rows] = (logits.sub_(largest).exp_().sum(1, keepdim=True).log() + largest)[:, 0]
            logps[rows] = picked[:, 0] - norms[rows]
        ctx.save_for_backward(*low, labels, norms)
        return logps.masked_fill_(labels == IGNORE, 0.0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        states, weight, labels, norms = ctx.saved_tensors
        gradient = gradient.float().masked_fill(labels == IGNORE, 0.0)[:, None]
        to_states, to_weight = torch.empty_like(states), torch.zeros_like(weight, dtype=torch.float32)
        for rows in _shares(len(labels), weight):
            grads = _logits(states[rows], weight).sub_(norms[rows, None]).exp_().mul_(-gradient[rows])
            grads.scatter_add_(1, labels[rows, None].clamp(min=0), gradient[rows])
            grads = grads.to(weight.dtype)
            to_states[rows] = grads @ weight
            to_weight += grads.T @ states[rows]
        return to_states, to_weight, None


def _logits(states: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):  # which would keep a copy of the weight
        return F.linear(states, weight).float()


def _shares(rows: int, weight: Tensor) -> list[slice]:
    size = _rows_at_a_time(rows, weight)
    return [slice(first, first + size) for first in range(0, rows, size)]


def _rows_at_a_time(rows: int, weight: Tensor) -> int:
    """Even shares of all rows with about 64 MiB of logits: a small rest would cost nearly as much as a whole share."""
    shares = max(1, round(rows / max(256, (1 << 24) // weight.shape[0])))
    return max(1, -(-rows // shares))


def output_weight(model: nn.Module) -> Tensor:
    """The head's weight (V, C) of a Llama, bare or wrapped. Raises UserError where that is not all of the head."""
    head = getattr(model, "module", model).lm_head
    if head.bias is not None:
        raise UserError("the published legacy weights have another head: they can be run, not measured or trained")
    return head.weight
