"""The weights once published for SmolLlama, as a model folder: another architecture, to be run, not trained.

Eight query heads and four key-value heads of a quarter of the width, no positions, no norm before the head, a bias in
the head. Each group of two query heads had an output projection of its own, and one more joined the groups: with
nothing between them, the two fold into one.
"""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from checkpoint import write_model
from config import ModelArgs
from model import Llama
from runtime.errors import UserError
from tokenizer import gpt2

GROUPS, QUERIES = 4, 2  # key-value heads, query heads for each
CONTEXT = 256  # tokens of a row in their training
NORMS = {"norm1.rmsnorm_layer": "input_layernorm", "norm2.rmsnorm_layer": "post_attention_layernorm"}
SWIGLU = {"linear_layer1": "gate_proj", "linear_layer2": "up_proj", "linear_layer3": "down_proj"}


def convert(file: Path, folder: Path, stage: str) -> None:
    """Write a model folder from a published .pt file, without its optimizer. Raises UserError when it is not one."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["MODEL_STATE"]
        args, weights = translate({name.removeprefix("_orig_mod."): weight for name, weight in state.items()})
        model = Llama(args, legacy=True)
        model.load_state_dict(weights)
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise UserError(
            f"{file} is not a whole file of published weights, and nothing of it was run "
            f"({type(error).__name__}: {' '.join(str(error).split())[:150]}): fetch it again"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, model, gpt2(), {"stage": stage, "legacy": True})


def translate(state: dict[str, Tensor]) -> tuple[ModelArgs, dict[str, Tensor]]:
    """(settings, weights by our names) from weights by their names, which are used up.

    Raises KeyError or ValueError where one is missing or too many.
    """
    embedding, head = state.pop("embeddings.weight"), state.pop("linear_layer.weight")
    weights = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": head,
        "lm_head.bias": state.pop("linear_layer.bias"),
    }
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("decoder."))
    for layer in range(layers):
        theirs, ours = f"decoder.{layer}.", f"model.layers.{layer}."
        weights |= {f"{ours}{name}.weight": state.pop(f"{theirs}{old}.weight") for old, name in NORMS.items()}
        weights |= {
            f"{ours}mlp.{name}.weight": state.pop(f"{theirs}feedforward_network.swiglue.{old}.weight")
            for old, name in SWIGLU.items()
        }
        groups = [f"{theirs}gqa.mqa.{group}." for group in range(GROUPS)]
        outputs = state.pop(f"{theirs}gqa.linear_layer.weight").double().chunk(GROUPS, dim=1)
        weights |= {
            f"{ours}self_attn.{name}_proj.weight": torch.cat([state.pop(part) for part in parts])
            for name, parts in (
                ("q", [f"{group}multi_query.{n}.weight" for group in groups for n in range(QUERIES)]),
                ("k", [f"{group}key.weight" for group in groups]),
                ("v", [f"{group}value.weight" for group in groups]),
            )
        }
        weights[f"{ours}self_attn.o_proj.weight"] = torch.cat(
            [
                output @ state.pop(f"{group}linear_layer.weight").double()
                for output, group in zip(outputs, groups, strict=True)
            ],
            dim=1,
        )
    if state:
        raise ValueError(f"unknown weights, such as {next(iter(state))}")
    vocab_size, width = embedding.shape
    args = ModelArgs(
        vocab_size=vocab_size,
        embeddings_dims=width,
        no_of_decoder_layers=layers,
        no_of_heads=GROUPS * QUERIES,
        no_kv_heads=GROUPS,
        head_dim=width // GROUPS,
        block_size=CONTEXT,
        hidden_dims=len(weights["model.layers.0.mlp.gate_proj.weight"]),
        eps=torch.finfo(torch.float32).eps,
        tie_embeddings=torch.equal(embedding, head),
        dropout=0.0,
        attn_dropout=0.0,
    )
    return args, weights
