"""Weights once published for SmolLlama, converted to a model folder: another architecture, for inference only.

The published architecture has eight query heads and four key-value heads of a quarter of the width, no rotary
positions, no norm before the head, and a bias in the head. Each group of two query heads has an output projection, and
one more projection joins the groups. Nothing is between the two projections, so their product is one projection.
"""

from pathlib import Path

import torch
from torch import Tensor

from checkpoint import write_model
from config import ModelArgs
from model import Llama
from modelfiles.pickled_weights import PICKLE_ERRORS, load_pickled, pickle_error, plain_weights
from runtime.errors import UserError
from tokenizer import gpt2

NUM_GROUPS = 4  # key-value heads
QUERIES_PER_GROUP = 2
CONTEXT = 256  # tokens of a row when they were trained
NORMS = {"norm1.rmsnorm_layer": "input_layernorm", "norm2.rmsnorm_layer": "post_attention_layernorm"}
SWIGLU = {"linear_layer1": "gate_proj", "linear_layer2": "up_proj", "linear_layer3": "down_proj"}
COMPILED_PREFIX = "_orig_mod."  # torch.compile's prefix of names


def convert(file: Path, folder: Path, stage: str) -> None:
    """Write a model folder from a published .pt file, without its optimizer. Raises UserError if it is not one."""
    try:
        content = load_pickled(file)
        if not isinstance(content, dict):
            raise TypeError("it holds no MODEL_STATE")
        state = plain_weights(content["MODEL_STATE"])
        args, weights = translate(
            {name.removeprefix(COMPILED_PREFIX): weight for name, weight in state.items()}
        )
        model = Llama(args, legacy=True)
        model.load_state_dict(weights)
    except (OSError, *PICKLE_ERRORS) as error:
        raise UserError(f"{pickle_error(file, 'published weights', error)}: download it again") from None

    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, model, gpt2(), {"stage": stage, "legacy": True})


def translate(published: dict[str, Tensor]) -> tuple[ModelArgs, dict[str, Tensor]]:
    """Return (settings, weights by our names). The weights are removed from `published` on the way.

    Raises KeyError or ValueError if a weight is missing or unknown.
    """
    embedding = published.pop("embeddings.weight")
    head = published.pop("linear_layer.weight")
    weights = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        "lm_head.bias": published.pop("linear_layer.bias"),
    }

    layer_numbers = [int(name.split(".")[1]) for name in published if name.startswith("decoder.")]
    num_layers = 1 + max(layer_numbers)
    for layer in range(num_layers):
        weights |= _translate_layer(published, f"decoder.{layer}.", f"model.layers.{layer}.")

    if published:
        raise ValueError(f"unknown weights, such as {next(iter(published))}")

    vocab_size, width = embedding.shape
    args = ModelArgs(
        vocab_size=vocab_size,
        embeddings_dims=width,
        no_of_decoder_layers=num_layers,
        no_of_heads=NUM_GROUPS * QUERIES_PER_GROUP,
        no_kv_heads=NUM_GROUPS,
        head_dim=width // NUM_GROUPS,
        block_size=CONTEXT,
        hidden_dims=len(weights["model.layers.0.mlp.gate_proj.weight"]),
        eps=torch.finfo(torch.float32).eps,
        tie_embeddings=torch.equal(embedding, head),
        dropout=0.0,
        attn_dropout=0.0,
    )
    return args, weights


def _translate_layer(published: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """Return one layer's weights by our names; `old` and `new` are the prefixes of the names."""
    weights = {}
    for old_name, name in NORMS.items():
        weights[f"{new}{name}.weight"] = published.pop(f"{old}{old_name}.weight")
    for old_name, name in SWIGLU.items():
        weights[f"{new}mlp.{name}.weight"] = published.pop(
            f"{old}feedforward_network.swiglue.{old_name}.weight"
        )

    queries = []
    keys = []
    values = []
    outputs = []
    joins = published.pop(f"{old}gqa.linear_layer.weight").double().chunk(NUM_GROUPS, dim=1)
    for group in range(NUM_GROUPS):
        prefix = f"{old}gqa.mqa.{group}."
        for query in range(QUERIES_PER_GROUP):
            queries.append(published.pop(f"{prefix}multi_query.{query}.weight"))
        keys.append(published.pop(f"{prefix}key.weight"))
        values.append(published.pop(f"{prefix}value.weight"))
        outputs.append(joins[group] @ published.pop(f"{prefix}linear_layer.weight").double())

    weights[f"{new}self_attn.q_proj.weight"] = torch.cat(queries)
    weights[f"{new}self_attn.k_proj.weight"] = torch.cat(keys)
    weights[f"{new}self_attn.v_proj.weight"] = torch.cat(values)
    weights[f"{new}self_attn.o_proj.weight"] = torch.cat(outputs, dim=1)
    return weights
