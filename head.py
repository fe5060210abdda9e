"""The output head and its loss together, so that the logits of all positions never exist at once."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    rows = _rows_at_a_time(len(labels), weight)
    return torch.cat([checkpoint(_logps, some, weight, wanted, use_reentrant=False, preserve_rng_state=False)
                      for some, wanted in zip(states.split(rows), labels.split(rows), strict=True)])


def _rows_at_a_time(rows: int, weight: Tensor) -> int:
    """Even shares of all rows with about 64 MiB of logits: a small rest would cost nearly as much as a whole share."""
    shares = max(1, round(rows / max(256, (1 << 24) // weight.shape[0])))
    return max(1, -(-rows // shares))


def _logps(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return -F.cross_entropy(F.linear(states, weight).float(), labels, ignore_index=IGNORE, reduction="none")


def output_weight(model: nn.Module) -> Tensor:
    """The head's weight (V, C) of a Llama, bare or wrapped. Raises UserError where that is not all of the head."""
    head = getattr(model, "module", model).lm_head
    if head.bias is not None:
        raise UserError("the published legacy weights have another head: they can be run, not measured or trained")
    return head.weight
