"""Weights of other programs: shards by their index, pickled files without running their code, 16 bits."""

import json
import math
from pathlib import Path

import pytest
import torch
from examples import Bomb
from safetensors.torch import save_file
from torch import Tensor

from config import ModelArgs
from model import Llama
from modelfiles.weights import PICKLED, PICKLED_INDEX, SAFETENSORS, SAFETENSORS_INDEX, read_weights
from runtime.errors import UserError


@pytest.fixture
def model(tiny: ModelArgs) -> Llama:
    return Llama(tiny)


def weights_of(model: Llama) -> dict[str, Tensor]:
    weights = dict(model.state_dict())
    del weights["lm_head.weight"]  # tied
    return weights


def shards(folder: Path, weights: dict[str, Tensor], suffix: str) -> list[str]:
    """Write the weights into two files with an index; return the names of the files."""
    names = sorted(weights)
    files = [f"part-{number}{suffix}" for number in (1, 2)]
    for number, file in enumerate(files):
        part = {name: weights[name] for name in names[number::2]}
        save = save_file if suffix == ".safetensors" else torch.save
        save(part, folder / file)
    index = SAFETENSORS_INDEX if suffix == ".safetensors" else PICKLED_INDEX
    weight_map = {name: files[position % 2] for position, name in enumerate(names)}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


def assert_same(folder: Path, model: Llama) -> None:
    weights = read_weights(folder, model)
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_only_the_files_of_the_index_are_read(tmp_path: Path, model: Llama, suffix: str) -> None:
    files = shards(tmp_path, weights_of(model), suffix)
    (tmp_path / f"another{suffix}").write_bytes(b"no weights")
    assert_same(tmp_path, model)
    (tmp_path / files[1]).unlink()
    with pytest.raises(UserError, match=f"{files[1]}, which .*index.json names, is missing"):
        read_weights(tmp_path, model)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": {"a": 1}}']
)
def test_a_broken_index_is_one_line(tmp_path: Path, model: Llama, content: str) -> None:
    (tmp_path / SAFETENSORS_INDEX).write_text(content)
    with pytest.raises(UserError, match="index.json is broken"):
        read_weights(tmp_path, model)


def test_one_complete_file_comes_before_an_index(tmp_path: Path, model: Llama) -> None:
    (tmp_path / SAFETENSORS_INDEX).write_text("{")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"of something else")
    save_file(weights_of(model), tmp_path / SAFETENSORS)
    assert_same(tmp_path, model)


def test_pickled_weights_are_read_where_there_is_nothing_else(tmp_path: Path, model: Llama) -> None:
    torch.save(weights_of(model), tmp_path / PICKLED)
    assert_same(tmp_path, model)

    other = {name: weight + 1 for name, weight in weights_of(model).items()}
    save_file(other, tmp_path / SAFETENSORS)
    assert torch.equal(
        read_weights(tmp_path, model)["model.norm.weight"], model.state_dict()["model.norm.weight"] + 1
    )


@pytest.mark.parametrize("content", [Bomb(), {"a": Bomb()}, {"step": 5}, [1], "text"], ids=type)
def test_no_pickled_code_is_run(tmp_path: Path, model: Llama, content: object) -> None:
    torch.save(content, tmp_path / PICKLED)
    with pytest.raises(UserError, match="no code in it was run"):
        read_weights(tmp_path, model)
    assert not list(Path().glob("exploded")) and not list(tmp_path.rglob("exploded"))


def test_16_bits_load_in_float32(tmp_path: Path, model: Llama) -> None:
    rounded = {name: weight.bfloat16() for name, weight in weights_of(model).items()}
    save_file(rounded, tmp_path / SAFETENSORS)
    model.load_state_dict(read_weights(tmp_path, model))
    weight = model.state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, rounded["model.layers.0.mlp.up_proj.weight"].float())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_that_are_not_finite_are_named(
    tmp_path: Path, model: Llama, value: float, dtype: torch.dtype
) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    weights = {name: weight.to(dtype) for name, weight in weights_of(model).items()}
    weights[name][3, 3] = value
    save_file(weights, tmp_path / SAFETENSORS)
    with pytest.raises(UserError, match=f"{name} in .* not finite: .* earlier checkpoint"):
        read_weights(tmp_path, model)


def test_a_folder_without_weights_says_so(tmp_path: Path, model: Llama) -> None:
    with pytest.raises(UserError, match="has no weights"):
        read_weights(tmp_path, model)
