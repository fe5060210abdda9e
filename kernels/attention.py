"""Attention: causal, under a mask (packed documents, cache), or segment by segment (faster on a CPU).

Shapes: B batch, T tokens, H query heads, K key and value heads, D head width, S segments.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, segments: Tensor | None, dropout: float
) -> Tensor:
    """Return attention (B, H, T, D) of queries (B, H, T, D) to keys and values (B, K, S, D).

    It is causal where no mask is given. With segments (S, 2), see attention_segments in dataloader/batch.py,
    a token attends within its segment. Groups of query heads share keys and values.
    """
    if segments is not None:
        return _attention_by_segment(q, k, v, segments, dropout)

    # is_causal aligns the triangle top-left, which is right only when queries and keys are the same tokens.
    # A single token attends to everything before it: no mask is needed.
    causal = mask is None and q.shape[2] == k.shape[2] and q.shape[2] > 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True, dropout_p=dropout
    )


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


# Segments differ from batch to batch, and torch.compile would build one graph for each: it must skip this
# function. The public torch.compiler.disable imports the compiler even where nothing is compiled; this
# private name (torch 2.13) does not.
@torch._disable_dynamo
def _attention_by_segment(q: Tensor, k: Tensor, v: Tensor, segments: Tensor, dropout: float) -> Tensor:
    """Return attention (B, H, T, D), computed for each segment of the flattened batch alone.

    segments (S, 2) lie on the CPU: length, attends_prefix. A segment attends causally to itself. With
    attends_prefix = 1 it also attends to all of the latest segment with attends_prefix = 0: in a preference
    pair, both answers attend to the shared prompt.

    Example: prompt 3, chosen 2, rejected 2 tokens -> [[3, 0], [2, 1], [2, 1]].
    """
    B, H, T, D = q.shape
    lengths, attends_prefix = segments.T.tolist()

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
