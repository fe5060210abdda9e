"""The Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings; and its key-value cache.

Weight names and the half-split rotation are those of Hugging Face's LlamaForCausalLM, so a checkpoint needs no
translation. Nothing here knows about training: no loss, no device, no global.
Shapes: B batch, T tokens, C width, H query heads, K key and value heads, D head width, V vocabulary.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from config import ModelArgs


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32 (arXiv 1910.07467)."""

    def __init__(self, dims: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dims))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).type_as(x)


def rope_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, D) of the rotary angles in float32 (arXiv 2104.09864, half-split layout)."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)  # (D/2,)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)  # (length, D/2)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of x (B, heads, T, D) by its position's angle; cos, sin are (T, D)."""
    left, right = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-right, left), dim=-1) * sin).type_as(x)


class KVCache:
    """Keys and values of the tokens seen so far, in memory that is allocated once; `length` tokens are filled."""

    def __init__(self, args: ModelArgs, batch_size: int, max_tokens: int, like: Tensor):
        shape = (args.no_of_decoder_layers, batch_size, args.no_kv_heads, max_tokens, args.head_dim)
        self.keys = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, K, T, D) of the next T tokens of a layer; return those of all tokens so far."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def select(self, rows: Tensor) -> None:
        """Make the batch of these rows (N,), in this order; one may be taken several times."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, segments: Tensor | None, dropout: float
) -> Tensor:
    """Attention (B, H, T, D) of queries (B, H, T, D) to keys and values (B, K, S, D), causal where no mask is given.

    With segments (S, 2), see Batch, a token attends within its segment. Groups of query heads share keys and values.
    """
    if segments is not None:
        return _attention_by_segment(q, k, v, segments, dropout)
    # is_causal aligns the triangle top-left, which is right only when queries and keys are the same tokens.
    causal = mask is None and q.shape[2] == k.shape[2] and q.shape[2] > 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True, dropout_p=dropout
    )


def attention_mask(
    T: int, start: int, doc_ids: Tensor | None, branches: Tensor | None, device: torch.device
) -> Tensor | None:
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


# Segments differ from batch to batch: there would be a graph for each. torch.compiler.disable would import a compiler.
@torch._disable_dynamo
def _attention_by_segment(q: Tensor, k: Tensor, v: Tensor, segments: Tensor, dropout: float) -> Tensor:
    """Attention that computes only what is seen; the segments are read on the host, so they stay there."""
    lengths, follows = segments.T.tolist()
    flat = (x.transpose(1, 2).flatten(0, 1).split(lengths) for x in (q, k, v))
    out, shared, mask = [], (), None
    for *run, follow in zip(*flat, follows, strict=True):
        own = [x.transpose(0, 1)[None] for x in run]  # (1, H or K, length, D)
        if follow:
            own[1:] = [torch.cat(pair, dim=2) for pair in zip(shared, own[1:], strict=True)]
            T, S = own[0].shape[2], own[1].shape[2]
            mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
        else:
            shared, mask = own[1:], None
        out.append(attention(*own, mask, None, dropout)[0].transpose(0, 1))  # (length, H, D)
    return torch.cat(out).view(q.shape[0], q.shape[2], *q.shape[1::2]).transpose(1, 2)


class Context(NamedTuple):
    """What all layers of one forward share: rotary tables, who sees whom (attention.py), the tokens before."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    segments: Tensor | None
    cache: KVCache | None


class Attention(nn.Module):
    """Causal attention in which groups of query heads share a key and value head (arXiv 2305.13245)."""

    def __init__(self, args: ModelArgs, layer: int):
        super().__init__()
        self.layer, self.head_dim, self.dropout = layer, args.head_dim, args.attn_dropout
        self.q_proj = nn.Linear(args.embeddings_dims, args.no_of_heads * args.head_dim, bias=False)
        self.k_proj = nn.Linear(args.embeddings_dims, args.no_kv_heads * args.head_dim, bias=False)
        self.v_proj = nn.Linear(args.embeddings_dims, args.no_kv_heads * args.head_dim, bias=False)
        self.o_proj = nn.Linear(args.no_of_heads * args.head_dim, args.embeddings_dims, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (
            proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H or K, T, D)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = apply_rope(q, context.cos, context.sin), apply_rope(k, context.cos, context.sin)
        if context.cache is not None:
            k, v = context.cache.extend(self.layer, k, v)
        x = attention(q, k, v, context.mask, context.segments, self.dropout if self.training else 0.0)
        return self.o_proj(x.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.gate_proj = nn.Linear(args.embeddings_dims, args.hidden_dims, bias=False)
        self.up_proj = nn.Linear(args.embeddings_dims, args.hidden_dims, bias=False)
        self.down_proj = nn.Linear(args.hidden_dims, args.embeddings_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if not torch.is_grad_enabled():
            return self._down(gate, up)
        # What is between these and the last product is made again in backward: it takes little time and much memory.
        return checkpoint(self._down, gate, up, use_reentrant=False, preserve_rng_state=False)

    def _down(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.down_proj(F.silu(gate) * up)


class Block(nn.Module):
    """One decoder layer: attention, then SwiGLU, each on a normalised residual branch."""

    def __init__(self, args: ModelArgs, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(args.embeddings_dims, args.eps)
        self.self_attn = Attention(args, layer)
        self.post_attention_layernorm = RMSNorm(args.embeddings_dims, args.eps)
        self.mlp = MLP(args)
        self.dropout = nn.Dropout(args.dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), context))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Llama(nn.Module):
    """A decoder-only transformer: token ids in, logits out.

    `legacy` is the form of the weights once published for SmolLlama, which are run but not trained: no positions, no
    norm before the head, a bias in the head.
    """

    def __init__(self, args: ModelArgs, legacy: bool = False):
        super().__init__()
        self.args, self.legacy = args, legacy
        self.int8: dict[
            str, tuple[Tensor, Tensor]
        ] = {}  # matrices as bytes, each row's scale (decode.quantize)
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(args.vocab_size, args.embeddings_dims),
                "layers": nn.ModuleList(Block(args, layer) for layer in range(args.no_of_decoder_layers)),
                "norm": nn.Identity() if legacy else RMSNorm(args.embeddings_dims, args.eps),
            }
        )
        self.dropout = nn.Dropout(args.dropout)
        self.lm_head = nn.Linear(args.embeddings_dims, args.vocab_size, bias=legacy)
        if args.tie_embeddings:
            self.lm_head.weight = self.model["embed_tokens"].weight
        cos, sin = rope_table(args.block_size, args.head_dim, args.rope_theta)
        if legacy:
            cos, sin = torch.ones_like(cos), torch.zeros_like(sin)  # every pair is turned by nothing
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Normal weights of deviation 0.02, smaller by sqrt(2 * layers) where a matrix writes to the residual."""
        residual = 0.02 / math.sqrt(2 * self.args.no_of_decoder_layers)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(
                    weight, std=residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                )

    def forward(
        self,
        tokens: Tensor,
        doc_ids: Tensor | None = None,
        cache: KVCache | None = None,
        return_hidden: bool = False,
        branches: Tensor | None = None,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) for tokens (B, T), or the normalised states (B, T, C) before the head if `return_hidden`.

        With doc_ids (B, T) a token attends to its own document only, with branches (B, T) to its own branch and branch
        0 of it; segments (S, 2) say both in the form that a CPU is fast with. With a cache the tokens continue those in
        it, and doc_ids (B, start + T) are of all of them. Positions (B, T), where they are not 0, 1, 2 ..., must be
        below block_size; without them, raises ValueError when the tokens reach past block_size.
        """
        start, T = cache.length if cache else 0, tokens.shape[1]
        if positions is not None:
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # (B, 1, T, D)
        elif start + T <= self.args.block_size:
            cos, sin = self.cos[start : start + T], self.sin[start : start + T]
        else:
            raise ValueError(f"{start + T} tokens do not fit the context of {self.args.block_size}")
        segments = segments if tokens.device.type == "cpu" else None
        mask = attention_mask(T, start, doc_ids, branches, tokens.device) if segments is None else None
        context = Context(cos, sin, mask, segments, cache)
        x = self.dropout(self.model["embed_tokens"](tokens))
        for block in self.model["layers"]:
            x = block(x, context)
        if cache is not None:
            cache.length += T
        x = self.model["norm"](x)
        return x if return_hidden else self.lm_head(x)


def count_parameters(args: ModelArgs) -> int:
    """Parameters of Llama(args), by formula; the tied head is counted once."""
    C, D = args.embeddings_dims, args.head_dim
    attention = C * D * 2 * (args.no_of_heads + args.no_kv_heads)
    layer = attention + 3 * C * args.hidden_dims + 2 * C
    return args.vocab_size * C * (1 if args.tie_embeddings else 2) + args.no_of_decoder_layers * layer + C


def flops_per_token(args: ModelArgs) -> float:
    """Floating-point operations of training per token: 6 per matrix weight and 6 * T * width for causal attention.

    The usual count (arXiv 2204.02311, appendix B) with half of the square of attention, since the other half is masked.
    """
    norms = (2 * args.no_of_decoder_layers + 1) * args.embeddings_dims
    lookup = 0 if args.tie_embeddings else args.vocab_size * args.embeddings_dims
    attention = 6 * args.no_of_decoder_layers * args.no_of_heads * args.head_dim * args.block_size
    return 6 * (count_parameters(args) - norms - lookup) + attention
