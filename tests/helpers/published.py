"""Weights of the form that was once published for SmolLlama, tiny and random, and the plain forward pass of that model.

No code is shared with the project: heads are walked one by one, projections multiplied one after the other.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, LAYERS, VOCABULARY = 32, 2, 50304


def published_state(seed: int = 0) -> dict[str, Tensor]:
    """MODEL_STATE of a small model."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    d, h = WIDTH, int(8 * WIDTH / 3)
    embedding = random(VOCABULARY, d) * 3
    state = {
        "embeddings.weight": embedding,
        "linear_layer.weight": embedding,
        "linear_layer.bias": random(VOCABULARY),
    }
    for i in range(LAYERS):
        for norm in ("norm1", "norm2"):
            state[f"decoder.{i}.{norm}.rmsnorm_layer.weight"] = 1 + random(d)
        for j in range(4):
            for name in ("multi_query.0", "multi_query.1", "key", "value"):
                state[f"decoder.{i}.gqa.mqa.{j}.{name}.weight"] = random(d // 4, d) * 3
            state[f"decoder.{i}.gqa.mqa.{j}.linear_layer.weight"] = random(d, d // 2)
        state[f"decoder.{i}.gqa.linear_layer.weight"] = random(d, 4 * d)
        for number, shape in (1, (h, d)), (2, (h, d)), (3, (d, h)):
            state[f"decoder.{i}.feedforward_network.swiglue.linear_layer{number}.weight"] = random(*shape)
    return state


def published_file(path: Path, state: dict[str, Tensor] | None = None) -> Path:
    """A file as it was published, with an optimizer's state and the prefix that compiling leaves."""
    state = {f"_orig_mod.{name}": weight for name, weight in (state or published_state()).items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(100_000)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save({"MODEL_STATE": state, "OPTIMIZER_STATE": optimizer, "EPOCHS_RUN": None, "STEP_RUN": 7}, path)
    return path


def published_logits(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Logits (B, T, V) of that model, written plainly."""
    x = state["embeddings.weight"][tokens]
    T, eps = tokens.shape[1], torch.finfo(torch.float32).eps
    future = torch.ones(T, T).triu(1).bool()

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * state[f"{name}.rmsnorm_layer.weight"]

    for i in range(LAYERS):
        layer, groups = f"decoder.{i}.", []
        y = norm(x, f"{layer}norm1")
        for j in range(4):
            group = f"{layer}gqa.mqa.{j}."
            key, value = y @ state[f"{group}key.weight"].T, y @ state[f"{group}value.weight"].T
            heads = []
            for m in range(2):
                scores = (
                    y @ state[f"{group}multi_query.{m}.weight"].T @ key.transpose(1, 2) / (WIDTH // 4) ** 0.5
                )
                heads.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ value)
            groups.append(torch.cat(heads, -1) @ state[f"{group}linear_layer.weight"].T)
        x = x + torch.cat(groups, -1) @ state[f"{layer}gqa.linear_layer.weight"].T
        y = norm(x, f"{layer}norm2")
        gate, up, down = (
            state[f"{layer}feedforward_network.swiglue.linear_layer{n}.weight"] for n in (1, 2, 3)
        )
        x = x + (F.silu(y @ gate.T) * (y @ up.T)) @ down.T
    return x @ state["linear_layer.weight"].T + state["linear_layer.bias"]
