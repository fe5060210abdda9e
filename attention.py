"""Attention behind one name: plain causal, under a mask, or run by run where a row holds several documents.

Shapes: B rows, T queries, S keys, H query heads, K key and value heads, D head width; R segments.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, segments: Tensor | None, dropout: float) -> Tensor:
    """Attention (B, H, T, D) of queries (B, H, T, D) to keys and values (B, K, S, D), causal where no mask is given.

    With segments (attention_segments) a token sees what its run may see. Groups of query heads share a key and value head.
    """
    if segments is not None:
        return _attend_runs(q, k, v, segments, dropout)
    # is_causal aligns the triangle top-left, which is right only when queries and keys are the same tokens.
    causal = mask is None and q.shape[2] == k.shape[2] and q.shape[2] > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True, dropout_p=dropout)


def attention_mask(T: int, start: int, doc_ids: Tensor | None, branches: Tensor | None,
                   device: torch.device) -> Tensor | None:
    """Who may be attended to, True = yes, (B or 1, 1, T, start + T); None where plain causal attention is meant.

    Rotary attention depends on distances only, so packed documents need no position of their own. Branches do: each
    goes on where branch 0 of its document ends.
    """
    if doc_ids is None and (start == 0 or T == 1):
        return None
    mask = torch.ones(T, start + T, dtype=torch.bool, device=device).tril(start)[None]
    if doc_ids is not None:
        mask = mask & (doc_ids[:, start:, None] == doc_ids[:, None, :])
    if branches is not None:
        mask = mask & ((branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :]))
    return mask[:, None]


def attention_segments(doc_ids: np.ndarray, branches: np.ndarray | None) -> np.ndarray:
    """The same in segments (R, 2): how many tokens, row after row, belong together, and whether they follow a shared run.

    A run sees itself causally; one that follows sees all of the last run that does not, too. That is the branch 0 of
    its document: a branch of a document without it follows nothing.
    """
    branches = np.zeros_like(doc_ids) if branches is None else branches
    opens, parts = np.ones(doc_ids.shape, bool), np.ones(doc_ids.shape, bool)
    opens[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    parts[:, 1:] = opens[:, 1:] | (branches[:, 1:] != branches[:, :-1])
    starts = np.flatnonzero(parts)
    first = np.maximum.accumulate(np.where(opens.ravel()[starts], starts, 0))  # where the run's document starts
    follows = (branches.ravel()[starts] > 0) & (branches.ravel()[first] == 0)
    return np.stack([np.diff(starts, append=doc_ids.size), follows], axis=1)


@torch._disable_dynamo  # segments differ: there would be a graph for each. torch.compiler.disable would import a compiler
def _attend_runs(q: Tensor, k: Tensor, v: Tensor, segments: Tensor, dropout: float) -> Tensor:
    """Attention that computes only what is seen; the segments are read on the host, so they stay there."""
    lengths, follows = segments.T.tolist()
    flat = (x.transpose(1, 2).flatten(0, 1).split(lengths) for x in (q, k, v))
    out, shared, mask = [], (), None
    for *run, follow in zip(*flat, follows, strict=True):
        own = [x.transpose(0, 1)[None] for x in run]                                     # (1, H or K, length, D)
        if follow:
            own[1:] = [torch.cat(pair, dim=2) for pair in zip(shared, own[1:], strict=True)]
            T, S = own[0].shape[2], own[1].shape[2]
            mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
        else:
            shared, mask = own[1:], None
        out.append(attend(*own, mask, None, dropout)[0].transpose(0, 1))                 # (length, H, D)
    return torch.cat(out).view(q.shape[0], q.shape[2], *q.shape[1::2]).transpose(1, 2)
