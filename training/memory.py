"""Memory that a run needs: an estimate, compared with CPUs, an H100 and torch's MemTracker (benchmarks/LOG.md)."""

import torch

from config import ModelArgs, world_size
from kernels.attention import form_of_attention
from model import count_parameters
from training.chunked_loss import CUDA_CHUNK_TOKENS, MAX_CHUNK_LOGITS, MIN_CHUNK_TOKENS
from training.lora import count_adapter_parameters

# Memory of a rank besides weights and activations: libraries, code, buffers of the system.
BASE_BYTES = 3e8
PEFT_BYTES = 1e8  # of the library that LoRA needs
# Weight, gradient and AdamW's two moments of a parameter, in float32.
BYTES_PER_PARAMETER = 16

# Bytes of an activation. In float32 4, and a tenth for the gaps between blocks of memory; several micro-batches a step
# leave larger gaps. In mixed precision most are kept in 2 bytes, some in 4; those that are recomputed not at all.
BYTES_32_BIT = {False: 4.4, True: 7.5}  # by whether gradients are accumulated
BYTES_16_BIT = 3
BYTES_16_BIT_CUDA = 1.5

# Matrices of T x T scores that are kept of each head where a CPU's attention has dropout: probabilities, those dropped.
KEPT_SCORES = 1.4
# Layers that are in memory in full under --activation_checkpointing: recomputed, their gradients, gaps.
FULL_LAYERS = {"cpu": 3.0, "cuda": 1.3}


def memory_bytes(args: ModelArgs, device: torch.device, dtype: torch.dtype) -> float:
    """Estimate a rank's memory: weights, gradients, moments, activations of a micro-batch, a chunk of logits."""
    on_cuda = device.type == "cuda"
    per_layer = _values_of_layer(args, device, dtype) * _bytes_of_value(args, device, dtype)
    per_token = args.no_of_decoder_layers * per_layer
    if args.activation_checkpointing:  # the input of each layer, and few layers at a time in full
        full_layers = FULL_LAYERS["cuda" if on_cuda else "cpu"] * per_layer
        per_token = 4 * args.no_of_decoder_layers * args.embeddings_dims + full_layers
    activations = args.micro_batch_size * args.row_tokens * per_token

    # Two copies: the logits, and what becomes their gradient.
    chunk = max(MAX_CHUNK_LOGITS, MIN_CHUNK_TOKENS * args.vocab_size)
    if on_cuda:
        chunk = CUDA_CHUNK_TOKENS * args.vocab_size
    logits = 2 * chunk * (dtype.itemsize if on_cuda else 4)

    shards = world_size() if args.parallel == "fsdp" else 1
    parameters = BYTES_PER_PARAMETER * count_parameters(args) / shards
    if args.lora_rank:  # the frozen weights have neither gradients nor moments
        frozen = dtype.itemsize * count_parameters(args)
        parameters = frozen + BYTES_PER_PARAMETER * count_adapter_parameters(args) + PEFT_BYTES
    return parameters + activations + logits + BASE_BYTES


def _bytes_of_value(args: ModelArgs, device: torch.device, dtype: torch.dtype) -> float:
    """Return the bytes of a value that backward needs."""
    if dtype == torch.float32:
        return BYTES_32_BIT[device.type != "cuda" and args.gradient_accumulation_steps > 1]
    return BYTES_16_BIT_CUDA if device.type == "cuda" else BYTES_16_BIT


def _values_of_layer(args: ModelArgs, device: torch.device, dtype: torch.dtype) -> float:
    """Return the values that backward needs of a layer for each token."""
    norms_and_residuals = 6 * args.embeddings_dims
    if args.dropout:
        norms_and_residuals += 2 * args.embeddings_dims

    heads = args.head_dim * (4 * args.no_of_heads + 4 * args.no_kv_heads)
    if device.type == "cuda":
        form = form_of_attention(device, dtype, args.head_dim, args.attn_dropout, packed=True)
        if form == "mask":  # keys and values are repeated for all heads
            heads += 2 * args.head_dim * (args.no_of_heads - args.no_kv_heads)
    elif args.attn_dropout:  # no kernel of a CPU that is free of the scores drops any of them
        heads += KEPT_SCORES * args.no_of_heads * args.block_size
    return norms_and_residuals + heads + 4 * args.hidden_dims
