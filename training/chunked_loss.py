"""The output head and its loss together, so that the logits of all positions never exist at once.

A loss that is a sum over parts of the positions has its gradient in the logits of a part as soon as the log-probs of
that part are known. So they are made once, used up in place, and made anew for the next part in the same memory.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from config import IGNORE
from runtime.errors import UserError

LOGITS, ROWS = (
    1 << 24,
    256,
)  # at a time: about so many logits (64 MiB), but of about so many positions at least


def linear_cross_entropy(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of labels (N,) under the head weight (V, C) at states (N, C), in float32."""
    return chunked_linear_loss(states, weight, labels, lambda logps: -logps.sum())[0]


def chunked_linear_loss(
    states: Tensor,
    weight: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor], Tensor],
    ends: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss of the label_logps (N,) as one number, these without a gradient).

    `ends` says behind which positions the loss may be cut into sums that depend on no other's log-probs (default: all).
    """
    if torch.is_grad_enabled():
        return _LossInParts.apply(states, weight, labels, loss, ends)
    logps = label_logps(states, weight, labels)
    return loss(logps), logps


@torch.no_grad()
def label_logps(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Log-probs (N,) of labels (N,) under the head weight (V, C) at states (N, C), in float32; 0 where ignored."""
    head = _Head(states, weight, labels, None)
    return torch.cat([head.logps(part)[0] for part in head.parts])


class _LossInParts(torch.autograd.Function):
    """chunked_linear_loss, whose forward makes the gradients too."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        states: Tensor,
        weight: Tensor,
        labels: Tensor,
        loss: Callable[[Tensor], Tensor],
        ends: Sequence[int] | None,
    ) -> tuple[Tensor, Tensor]:
        head, logps = _Head(states, weight, labels, ends), torch.zeros(len(labels), device=states.device)
        to_states, to_weight = torch.empty_like(states), torch.zeros_like(weight)
        for part in head.parts:
            logps[part], exps, sums = head.logps(part)
            with torch.enable_grad():
                known = logps.detach().requires_grad_()
                slopes = torch.autograd.grad(loss(known), known)[0][part]
            slopes = slopes.masked_fill(labels[part] == IGNORE, 0.0).neg_()[:, None]
            rest = exps.div_(sums).scatter_add_(
                1, head.picks[part], -torch.ones_like(sums)
            )  # softmax - onehot
            rest = rest.to(head.dtype)
            to_states[part] = (rest @ head.weight) * slopes
            weighted = (states[part] * slopes).to(head.dtype)
            if head.dtype == torch.float32:
                to_weight.addmm_(rest.T, weighted)
            else:
                to_weight += rest.T @ weighted
        ctx.gradients = to_states, to_weight
        ctx.mark_non_differentiable(logps)
        return loss(logps), logps

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor, _: Tensor) -> tuple:
        to_states, to_weight = ctx.gradients
        del ctx.gradients  # held only by the caller then, who may add to them in place
        return to_states.mul_(gradient), to_weight.mul_(gradient), None, None, None


class _Head:
    """Logits of some positions at a time, in the precision of autocast, all in one buffer."""

    def __init__(self, states: Tensor, weight: Tensor, labels: Tensor, ends: Sequence[int] | None):
        device = states.device.type
        self.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        self.states, self.weight = states.to(self.dtype), weight.to(self.dtype)
        self.labels, self.picks = labels, labels.clamp(min=0)[:, None]
        self.parts = _parts(len(labels), len(weight), ends)
        rows = max(part.stop - part.start for part in self.parts)
        self.buffer = torch.empty(rows, len(weight), dtype=self.dtype, device=states.device)

    def logps(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Of a part (n positions): log-probs (n,) of its labels, exp(logits - the largest) (n, V), its sums (n, 1)."""
        logits = torch.mm(self.states[part], self.weight.T, out=self.buffer[: part.stop - part.start]).float()
        picked, largest = logits.gather(1, self.picks[part]), logits.amax(1, keepdim=True)
        exps = logits.sub_(largest).exp_()
        sums = exps.sum(1, keepdim=True)
        logps = (picked - largest - sums.log())[:, 0]
        return logps.masked_fill_(self.labels[part] == IGNORE, 0.0), exps, sums


def _parts(rows: int, vocabulary: int, ends: Sequence[int] | None) -> list[slice]:
    """Even parts, cut at ends: a small rest would cost nearly as much as a whole part."""
    count = max(1, round(rows / max(ROWS, LOGITS // vocabulary)))
    cuts = [rows * n // count for n in range(count + 1)]
    if ends is not None:
        cuts = sorted({0, *(min(ends, key=lambda end: abs(end - cut)) for cut in cuts[1:])})
    return [slice(*pair) for pair in zip(cuts[:-1], cuts[1:], strict=True)]


def output_weight(model: nn.Module) -> Tensor:
    """The head's weight (V, C) of a Llama, bare or wrapped. Raises UserError where that is not all of the head."""
    head = getattr(model, "module", model).lm_head
    if head.bias is not None:
        raise UserError(
            "the published legacy weights have another head: they can be run, not measured or trained"
        )
    return head.weight
