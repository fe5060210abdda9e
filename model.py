"""Llama: decoder-only transformer with a key-value cache.

    tokens -> embedding -> n x [x + attention(norm(x)); x + SwiGLU(norm(x))] -> norm -> logits

- RMSNorm before each branch and before the head, computed in float32
- rotary positions, half-split layout
- grouped-query attention: several query heads share one key and value head
- SwiGLU in the feed-forward branch, no biases, head tied to the embedding (by default)

Weight names and the half-split rotation are those of Hugging Face's LlamaForCausalLM, so a checkpoint needs
no translation. Nothing here knows about training: no loss, no device, no global.

Shapes: B batch, T tokens, C width, H query heads, K key and value heads, D head width,
V vocabulary, S segments.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from config import ModelArgs
from kernels.attention import Segments, attention, attention_mask, takes_segments

INIT_STD = 0.02  # GPT-2's


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32 (arXiv 1910.07467)."""

    def __init__(self, dims: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dims))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)

        # Under autocast, each product that follows would cast its input again, and keep it for backward.
        if torch.is_autocast_enabled(x.device.type):
            return y.to(torch.get_autocast_dtype(x.device.type))
        return y.type_as(x)


def rope_frequencies(args: ModelArgs) -> Tensor:
    """Return the rotary frequencies (D/2) in float32 (arXiv 2104.09864), scaled where the model's positions are.

    Scaling lets a model take longer texts than those it was trained on. `linear` divides all frequencies. `llama3`
    divides those whose wavelength is longer than the original context allows, keeps short ones, and blends between.
    """
    exponents = torch.arange(0, args.head_dim, 2, dtype=torch.float32) / args.head_dim
    frequencies = 1.0 / args.rope_theta**exponents  # D/2

    scaling = args.rope_scaling
    if scaling is None:
        return frequencies
    if scaling["rope_type"] == "linear":
        return frequencies / scaling["factor"]

    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    periods = (
        scaling["original_max_position_embeddings"] / wavelengths
    )  # of each pair in the original context
    kept = ((periods - low) / (high - low)).clamp(0, 1)  # 1 = as it was, 0 = divided
    return (1 - kept) * frequencies / scaling["factor"] + kept * frequencies


def rope_table(args: ModelArgs) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (block_size, D) of the rotary angles in float32, half-split."""
    positions = torch.arange(args.block_size, dtype=torch.float32)
    angles = torch.outer(positions, rope_frequencies(args))  # block_size D/2
    angles = torch.cat((angles, angles), dim=-1)  # block_size D

    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x[i], x[i + D/2]) of x (B, heads, T, D) by its position's angle; cos, sin: (T, D)."""
    left, right = x.chunk(2, dim=-1)
    rotated = torch.cat((-right, left), dim=-1)
    return (x * cos + rotated * sin).type_as(x)


class KVCache:
    """Keys and values of the tokens so far, in memory that is allocated once; `length` tokens are filled."""

    def __init__(
        self, args: ModelArgs, batch_size: int, max_tokens: int, dtype: torch.dtype, device: torch.device
    ):
        shape = (args.no_of_decoder_layers, batch_size, args.no_kv_heads, max_tokens, args.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, K, T, D) of the next T tokens of a layer; return those of all tokens."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def select(self, rows: Tensor) -> None:
        """Replace the batch by these rows (N,), in this order; a row may be taken several times."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]


class Context(NamedTuple):
    """Inputs that all layers of one forward share: rotary tables, mask or segments, earlier tokens."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    segments: Segments | None
    cache: KVCache | None


class Attention(nn.Module):
    """Causal attention in which groups of query heads share a key and value head (arXiv 2305.13245)."""

    def __init__(self, args: ModelArgs, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = int(args.head_dim)  # torch.compile wants a plain one
        self.dropout = args.attn_dropout

        self.q_proj = nn.Linear(args.embeddings_dims, args.no_of_heads * args.head_dim, bias=False)
        self.k_proj = nn.Linear(args.embeddings_dims, args.no_kv_heads * args.head_dim, bias=False)
        self.v_proj = nn.Linear(args.embeddings_dims, args.no_kv_heads * args.head_dim, bias=False)
        self.o_proj = nn.Linear(args.no_of_heads * args.head_dim, args.embeddings_dims, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        B, T, _ = x.shape

        q = self.q_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # B H T D
        k = self.k_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # B K T D
        v = self.v_proj(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # B K T D

        q = apply_rope(q, context.cos, context.sin)
        k = apply_rope(k, context.cos, context.sin)

        # Keys are cached after the rotation, so each is rotated once.
        if context.cache is not None:
            k, v = context.cache.extend(self.layer, k, v)  # B K start+T D

        dropout = self.dropout if self.training else 0.0
        y = attention(q, k, v, context.mask, context.segments, dropout)  # B H T D
        y = y.transpose(1, 2).reshape(B, T, -1)  # B T H*D
        return self.o_proj(y)  # B T C


class MLP(nn.Module):
    """SwiGLU feed-forward branch (arXiv 2002.05202)."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.gate_proj = nn.Linear(args.embeddings_dims, args.hidden_dims, bias=False)
        self.up_proj = nn.Linear(args.embeddings_dims, args.hidden_dims, bias=False)
        self.down_proj = nn.Linear(args.hidden_dims, args.embeddings_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)  # B T hidden
        up = self.up_proj(x)  # B T hidden

        if not torch.is_grad_enabled():
            return self._down(gate, up)

        # SiLU and its product are recomputed in backward: they take little time and much memory. There is no
        # dropout inside, so the state of the random generator need not be kept.
        return checkpoint(self._down, gate, up, use_reentrant=False, preserve_rng_state=False)

    def _down(self, gate: Tensor, up: Tensor) -> Tensor:
        return self.down_proj(F.silu(gate) * up)  # B T C


class Block(nn.Module):
    """Decoder layer: attention, then SwiGLU, each on a normalised residual branch."""

    def __init__(self, args: ModelArgs, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(args.embeddings_dims, args.eps)
        self.self_attn = Attention(args, layer)
        self.post_attention_layernorm = RMSNorm(args.embeddings_dims, args.eps)
        self.mlp = MLP(args)
        self.dropout = nn.Dropout(args.dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), context))
        x = x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
        return x


class Llama(nn.Module):
    """Decoder-only transformer: token ids (B, T) in, logits (B, T, V) out.

    `legacy` is the form of the weights once published for SmolLlama, which can be run but not trained: no
    positions, no norm before the head, a bias in the head.
    """

    def __init__(self, args: ModelArgs, legacy: bool = False):
        super().__init__()
        self.args = args
        self.legacy = legacy
        # Name of each quantized matrix -> int8 weights, scale of each row (generation/cpu_decoder.py).
        self.int8: dict[str, tuple[Tensor, Tensor]] = {}

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

        cos, sin = rope_table(args)  # block_size D
        if legacy:
            # Every pair is rotated by the angle 0.
            cos = torch.ones_like(cos)
            sin = torch.zeros_like(sin)
        # Not persistent: they follow from the settings, and transformers' checkpoints do not hold them.
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

        self.init_weights()

    def init_weights(self) -> None:
        """Draw normal weights, std 0.02; matrices that write to the residual: 0.02 / sqrt(2 * layers)."""
        residual_std = INIT_STD / math.sqrt(2 * self.args.no_of_decoder_layers)

        for name, weight in self.named_parameters():
            if weight.dim() != 2:
                continue  # norms stay at 1

            std = INIT_STD
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std = residual_std
            nn.init.normal_(weight, std=std)

    def forward(
        self,
        tokens: Tensor,
        doc_ids: Tensor | None = None,
        cache: KVCache | None = None,
        return_hidden: bool = False,
        branches: Tensor | None = None,
        positions: Tensor | None = None,
        segments: Segments | None = None,
    ) -> Tensor:
        """Return logits (B, T, V) for tokens (B, T); with return_hidden, the hidden states (B, T, C).

        The logits at position t are those of token t + 1, in float32 or autocast's dtype. The hidden states are
        the normalised input of the head.

        - doc_ids (B, T): a token attends to its own document only
        - branches (B, T): within the document, to its own branch and to branch 0
        - segments: both of these in the form that is fast, where the device takes it
        - cache: the tokens continue those in it; doc_ids (B, start + T) are then those of all tokens
        - positions (B, T), below block_size, where they are not start, start + 1, ...

        Raises ValueError when tokens without positions reach past block_size.
        """
        start = cache.length if cache else 0
        T = tokens.shape[1]

        if positions is not None:
            cos = self.cos[positions][:, None]  # B 1 T D
            sin = self.sin[positions][:, None]
        elif start + T <= self.args.block_size:
            cos = self.cos[start : start + T]  # T D
            sin = self.sin[start : start + T]
        else:
            raise ValueError(f"{start + T} tokens do not fit the context of {self.args.block_size}")

        if segments is not None and not self._takes_segments(tokens.device):
            segments = None
        mask = None
        if segments is None:
            mask = attention_mask(T, start, doc_ids, branches, tokens.device)
        if mask is not None and tokens.device.type != "cpu":
            # As what is added to scores: made once, not again in every layer, and kept once for backward.
            added = torch.zeros(mask.shape, dtype=self._product_dtype(tokens.device), device=tokens.device)
            mask = added.masked_fill(~mask, -torch.inf)
        context = Context(cos, sin, mask, segments, cache)

        x = self.dropout(self.model["embed_tokens"](tokens))  # B T C
        if torch.is_autocast_enabled(tokens.device.type):
            x = x.float()  # also where the weights are in 16 bits: the residual stream is not
        for block in self.model["layers"]:
            x = block(x, context)
        if cache is not None:
            cache.length += T  # after the last layer: each layer writes at the same place

        x = self.model["norm"](x)
        if return_hidden:
            return x
        return self.lm_head(x)  # B T V

    def new_cache(self, batch_size: int, max_tokens: int) -> KVCache:
        """Return an empty cache on the model's device, in the precision that keys and values have there."""
        device = self.lm_head.weight.device
        return KVCache(self.args, batch_size, max_tokens, self._product_dtype(device), device)

    def _product_dtype(self, device: torch.device) -> torch.dtype:
        """Return the precision of matrix products: that of autocast, or that of the weights."""
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.lm_head.weight.dtype

    def _takes_segments(self, device: torch.device) -> bool:
        """Check whether attention takes segments on a device, at the precision of now."""
        dropout = self.args.attn_dropout if self.training else 0.0
        head_dim = self.model["layers"][0].self_attn.head_dim
        return takes_segments(device, self._product_dtype(device), head_dim, dropout)


def count_parameters(args: ModelArgs) -> int:
    """Return the number of parameters of Llama(args), by formula; a tied head is counted once."""
    C, D = args.embeddings_dims, args.head_dim
    attention_weights = C * D * 2 * (args.no_of_heads + args.no_kv_heads)  # q and o; k and v
    mlp_weights = 3 * C * args.hidden_dims
    norms = 2 * C
    layer = attention_weights + mlp_weights + norms

    vocabulary_matrices = 1 if args.tie_embeddings else 2
    return args.vocab_size * C * vocabulary_matrices + args.no_of_decoder_layers * layer + C


def flops_per_token(args: ModelArgs) -> float:
    """Return floating-point operations of training per token: 6 per matrix weight, 6 * T * C for attention.

    This is the usual count (arXiv 2204.02311, appendix B) with half of the square of attention, since the
    other half is masked.
    """
    norms = (2 * args.no_of_decoder_layers + 1) * args.embeddings_dims
    # An untied embedding is a table look-up: no product. A tied one is counted as the head.
    lookup = 0 if args.tie_embeddings else args.vocab_size * args.embeddings_dims
    matrices = count_parameters(args) - norms - lookup

    scores_and_values = args.no_of_decoder_layers * args.no_of_heads * args.head_dim * args.block_size
    return 6 * matrices + 6 * scores_and_values
