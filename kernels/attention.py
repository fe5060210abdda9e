"""Attention in the form that is fast on each device.

A row may hold several documents; a token attends to earlier tokens of its own document. There are four forms:

| form       | where                                                       | kernel                                   |
|------------|-------------------------------------------------------------|------------------------------------------|
| causal     | rows of one document each                                   | scaled_dot_product_attention             |
| by segment | packed rows on a CPU                                        | the same, for each segment alone         |
| varlen     | packed rows on CUDA, in 16 bits, without attention dropout  | flash attention, over cumulative lengths |
| mask       | packed rows elsewhere, and after a cache of keys and values | scaled_dot_product_attention with a mask |

All give the same values. A mask costs most: kernels with a mask compute the full square of scores.

Shapes: B batch, T tokens, H query heads, K key and value heads, D head width, S segments.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

HALF = (torch.float16, torch.bfloat16)


class Segments(NamedTuple):
    """Attention segments of a batch whose rows, T tokens each, are flattened into one.

    | field      | shape    | dtype | where  | meaning                                                             |
    |------------|----------|-------|--------|---------------------------------------------------------------------|
    | rows       | (S, 2)   | int64 | CPU    | length, attends_prefix                                              |
    | query_ends | (S + 1,) | int32 | device | 0, then where each segment ends: the sum of lengths until there     |
    | key_ends   | (S + 1,) | int32 | device | the same of the keys that segments attend to, prefixes included     |
    | key_index  | (N,)     | int64 | device | which tokens these keys are; None where they are the tokens, once   |

    A segment attends causally to itself. With attends_prefix = 1 it also attends to all of the latest segment with
    attends_prefix = 0: in a preference pair, both answers attend to the shared prompt. A CPU needs `rows` alone; on
    other devices they are None.

    Example: prompt 3, chosen 2, rejected 2 tokens -> rows [[3, 0], [2, 1], [2, 1]], query_ends [0, 3, 5, 7],
    key_ends [0, 3, 8, 13], key_index [0 1 2, 0 1 2 3 4, 0 1 2 5 6].
    """

    rows: Tensor | None
    query_ends: Tensor
    key_ends: Tensor
    key_index: Tensor | None

    @classmethod
    def of(cls, rows: np.ndarray) -> "Segments":
        """Return the segments with these rows (S, 2), on the CPU."""
        lengths, attends_prefix = rows.T
        ends = lengths.cumsum()
        query_ends = _with_zero(ends)
        if not attends_prefix.any():
            return cls(torch.from_numpy(rows), query_ends, query_ends, None)

        # The prefix of a segment: the latest one that attends to none itself.
        numbers = np.arange(len(rows))
        prefixes = np.maximum.accumulate(np.where(attends_prefix, 0, numbers))
        prefix_lengths = np.where(attends_prefix, lengths[prefixes], 0)

        # Each segment's keys are two pieces of the flattened batch: its prefix and itself.
        starts = ends - lengths
        piece_starts = np.stack([starts[prefixes], starts], axis=1).ravel()
        piece_lengths = np.stack([prefix_lengths, lengths], axis=1).ravel()
        before = piece_lengths.cumsum() - piece_lengths
        key_index = np.repeat(piece_starts - before, piece_lengths) + np.arange(piece_lengths.sum())

        key_ends = _with_zero((prefix_lengths + lengths).cumsum())
        return cls(torch.from_numpy(rows), query_ends, key_ends, torch.from_numpy(key_index))

    def to(self, device: torch.device) -> "Segments":
        """Return the segments for attention on a device; copies to CUDA go from pinned memory and do not block."""
        if device.type == "cpu":
            return self
        parts = [None if part is None else copy_to(part, device) for part in self[1:]]
        return Segments(None, *parts)


def copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; the host does not wait for a copy to CUDA."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _with_zero(ends: np.ndarray) -> Tensor:
    """Return cumulative lengths (S + 1,) as the kernel wants them: int32, from 0."""
    return torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32))


# ---- the choice


def has_flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Check whether a CUDA device has flash attention (arXiv 2205.14135) for heads of this width."""
    if device.type != "cuda" or torch.version.hip or dtype not in HALF:
        return False
    # Not get_device_capability: torch.compile does not trace it.
    return torch.cuda.get_device_properties(device).major >= 8 and head_dim % 8 == 0 and head_dim <= 256


def takes_segments(device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float) -> bool:
    """Check whether packed rows need no mask: always on a CPU, with flash attention on CUDA."""
    return device.type == "cpu" or (not dropout and has_flash(device, dtype, head_dim))


def form_of_attention(
    device: torch.device, dtype: torch.dtype, head_dim: int, dropout: float, packed: bool
) -> str:
    """Return the form of attention that training takes, see the table above: causal, by segment, varlen or mask."""
    if not packed:
        return "causal"
    if not takes_segments(device, dtype, head_dim, dropout):
        return "mask"
    return "by segment" if device.type == "cpu" else "varlen"


# ---- the forms


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, segments: Segments | None, dropout: float
) -> Tensor:
    """Return attention (B, H, T, D) of queries (B, H, T, D) to keys and values (B, K, S, D).

    It is causal where no mask is given. With segments, a token attends within its segment; not every device takes
    them, see takes_segments. Groups of query heads share keys and values.
    """
    if segments is not None:
        if q.device.type == "cpu":
            return _attention_by_segment(q, k, v, segments.rows, dropout)
        return _attention_varlen(q, k, v, segments)

    # is_causal aligns the triangle top-left, which is right only when queries and keys are the same tokens.
    # A single token attends to everything before it: no mask is needed.
    causal = mask is None and q.shape[2] == k.shape[2] and q.shape[2] > 1

    # Grouped heads together with a mask, or without flash attention, would fall back to a kernel that keeps the full
    # matrix of scores for each head. Keys and values that are repeated do not.
    grouped = mask is None and (q.device.type != "cuda" or has_flash(q.device, q.dtype, q.shape[-1]))
    if not grouped:
        groups = q.shape[1] // k.shape[1]
        k = k.repeat_interleave(groups, dim=1)  # B H S D
        v = v.repeat_interleave(groups, dim=1)  # B H S D
    with _masked_kernels() if mask is not None and q.device.type == "cuda" else nullcontext():
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped, dropout_p=dropout
        )


def _masked_kernels() -> AbstractContextManager:
    """Return a context in which torch does not take cuDNN's attention.

    Its backward with a mask gives NaN at some lengths (pytorch/pytorch#196678).
    """
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def attention_mask(
    T: int, start: int, doc_ids: Tensor | None, branches: Tensor | None, device: torch.device
) -> Tensor | None:
    """Return the mask (B or 1, 1, T, start + T), True = may attend; None where causal attention is enough.

    doc_ids and branches are (B, start + T). A token attends to earlier tokens of its document that belong to
    its own branch or to branch 0, the prompt that the branches share.

    Rotary attention depends on distances only, so packed documents need no positions of their own. Branches
    do: each continues at the position where branch 0 of its document ends.
    """
    if doc_ids is None and (start == 0 or T == 1):
        return None

    mask = torch.ones(T, start + T, dtype=torch.bool, device=device).tril(start)[None]  # 1 T start+T

    if doc_ids is not None:
        same_document = doc_ids[:, start:, None] == doc_ids[:, None, :]  # B T start+T
        mask = mask & same_document

    if branches is not None:
        shared_prompt = branches[:, None, :] == 0
        same_branch = branches[:, :, None] == branches[:, None, :]
        mask = mask & (shared_prompt | same_branch)

    return mask[:, None]  # B 1 T start+T


def _attention_varlen(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Return attention (B, H, T, D) by flash attention over the flattened batch, without dropout."""
    from torch.nn.attention.varlen import varlen_attn  # it imports the compiler, which takes seconds

    B, H, T, D = q.shape

    # B H T D -> B T H D -> B*T H D, one row of tokens
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    if segments.key_index is not None:
        k = k.index_select(0, segments.key_index)  # N K D
        v = v.index_select(0, segments.key_index)

    # The window (-1, 0) is causal, with queries at the end of their keys. No segment, and no prefix with its
    # branch, is longer than a row.
    out = varlen_attn(
        q, k, v, segments.query_ends, segments.key_ends, T, T, window_size=(-1, 0), enable_gqa=True
    )
    return out.view(B, T, H, D).transpose(1, 2)  # B H T D


# Segments differ from batch to batch, and torch.compile would build one graph for each: it must skip this
# function. The public torch.compiler.disable imports the compiler even where nothing is compiled; this
# private name (torch 2.13) does not.
@torch._disable_dynamo
def _attention_by_segment(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, dropout: float) -> Tensor:
    """Return attention (B, H, T, D), computed for each segment of the flattened batch alone; rows: see Segments."""
    B, H, T, D = q.shape
    lengths, attends_prefix = rows.T.tolist()

    # B H T D -> B T H D -> B*T H D, one row of tokens; then a piece for each segment: length H D
    q_pieces, k_pieces, v_pieces = (x.transpose(1, 2).flatten(0, 1).split(lengths) for x in (q, k, v))

    outputs = []
    prefix_k = prefix_v = None
    for n, after_prefix in enumerate(attends_prefix):
        segment_q = q_pieces[n].transpose(0, 1)[None]  # 1 H length D
        segment_k = k_pieces[n].transpose(0, 1)[None]  # 1 K length D
        segment_v = v_pieces[n].transpose(0, 1)[None]
        mask = None  # causal

        if after_prefix:
            segment_k = torch.cat((prefix_k, segment_k), dim=2)  # 1 K prefix+length D
            segment_v = torch.cat((prefix_v, segment_v), dim=2)
            queries, keys = segment_q.shape[2], segment_k.shape[2]
            mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        else:
            prefix_k, prefix_v = segment_k, segment_v

        out = attention(segment_q, segment_k, segment_v, mask, None, dropout)
        outputs.append(out[0].transpose(0, 1))  # length H D

    return torch.cat(outputs).view(B, T, H, D).transpose(1, 2)  # B H T D
