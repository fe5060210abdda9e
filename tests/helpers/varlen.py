"""Stand-in for flash attention over cumulative lengths, which has no kernel on a CPU."""

import torch
from torch import Tensor


def varlen_stand_in(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    max_queries: int,
    max_keys: int,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What torch's varlen_attn does on CUDA, in plain operations: (tokens, heads, D), causal at the end of the keys."""
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert window_size == (-1, 0) and enable_gqa
    assert query_ends[-1] == len(q) and key_ends[-1] == len(k) == len(
        v
    )  # tokens past the end would be garbage
    outputs = []
    for start, end, key_start, key_end in zip(
        query_ends[:-1], query_ends[1:], key_ends[:-1], key_ends[1:], strict=True
    ):
        assert end - start <= max_queries and key_end - key_start <= max_keys
        queries, keys, values = q[start:end], k[key_start:key_end], v[key_start:key_end]
        groups = q.shape[1] // k.shape[1]
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        scores = torch.einsum("thd,shd->hts", queries, keys) / q.shape[-1] ** 0.5
        allowed = torch.ones(len(queries), len(keys), dtype=torch.bool).tril(len(keys) - len(queries))
        outputs.append(
            torch.einsum("hts,shd->thd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), values)
        )
    return torch.cat(outputs)
