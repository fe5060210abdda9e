"""Weights of other programs: shards by their index, pickled files without running their code, 16 bits."""

import json
import math
import struct
import time
from pathlib import Path

import pytest
import torch
from examples import Bomb
from safetensors.torch import save_file
from torch import Tensor

from config import ModelArgs
from model import Llama
from modelfiles import weights as weights_module
from modelfiles.weights import (
    PICKLED,
    PICKLED_INDEX,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    check_sizes,
    read_weights,
)
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


@pytest.mark.parametrize(
    "claim",
    [
        {"no_of_decoder_layers": 10**6},
        {"embeddings_dims": 10**9},
        {"hidden_dims": 10**9},
        {"vocab_size": 10**9},
        {"head_dim": 10**9},
        {"vocab_size": 10**30},
        {"block_size": 10**9},
    ],
    ids=str,
)
def test_a_config_that_claims_more_than_the_files_hold_costs_nothing(
    tmp_path: Path, tiny: ModelArgs, model: Llama, claim: dict
) -> None:
    save_file(weights_of(model), tmp_path / SAFETENSORS)
    check_sizes(tmp_path, tiny)
    start = time.process_time()
    with pytest.raises(UserError, match=r"config.json: it describes|config.json has max_position_embeddings"):
        check_sizes(tmp_path, tiny.replace(**claim))
    assert time.process_time() - start < 1


def test_a_model_larger_than_the_memory_is_refused_before_it_is_built(
    tmp_path: Path, tiny: ModelArgs, model: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(weights_of(model), tmp_path / SAFETENSORS)
    monkeypatch.setattr(weights_module, "cpu_memory", lambda: 1000.0)
    with pytest.raises(UserError, match="GB of memory in float32, and 0.0 GB are free here"):
        check_sizes(tmp_path, tiny)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_numbers_that_are_no_weights_are_refused(tmp_path: Path, model: Llama, dtype: torch.dtype) -> None:
    save_file({name: weight.to(dtype) for name, weight in weights_of(model).items()}, tmp_path / SAFETENSORS)
    with pytest.raises(UserError, match=f"quantized or no weights: .* is {dtype}"):
        read_weights(tmp_path, model)


def test_a_weight_in_two_files_is_refused(tmp_path: Path, model: Llama) -> None:
    files = shards(tmp_path, weights_of(model), ".safetensors")
    save_file(weights_of(model), tmp_path / files[1])
    with pytest.raises(UserError, match=r"part-2.safetensors holds model.*, which another file"):
        read_weights(tmp_path, model)


def broken_headers(content: bytes) -> dict[str, bytes]:
    """Return files of safetensors that are wrong in one place each."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    first, second = [name for name in header if name != "__metadata__"][:2]

    def with_header(text: str, length: int | None = None) -> bytes:
        return (
            struct.pack("<Q", len(text) if length is None else length) + text.encode() + content[8 + size :]
        )

    def with_field(**field: object) -> bytes:
        return with_header(json.dumps({**header, second: {**header[second], **field}}))

    return {
        "a length of 2^60": with_header("{}", 1 << 60),
        "a length of 2^64 - 1": with_header("{}", (1 << 64) - 1),
        "no header": with_header("", 0),
        "a header that is a list": with_header("[1]"),
        "a deep header": with_header("[" * 100_000),
        "offsets that overlap": with_field(data_offsets=header[first]["data_offsets"]),
        "an offset of 2^62": with_field(data_offsets=[0, 1 << 62]),
        "a negative offset": with_field(data_offsets=[-5, 10]),
        "an unknown dtype": with_field(dtype="F3"),
        "a shape of 2^80": with_field(shape=[1 << 40, 1 << 40]),
        "half of a file": content[: len(content) // 2],
        "half of a header": content[: size // 2],
        "nothing": b"",
    }


def test_a_broken_header_is_one_line(tmp_path: Path, model: Llama) -> None:
    path = tmp_path / SAFETENSORS
    save_file(weights_of(model), path)
    for name, content in broken_headers(path.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read .*: the file is broken or cut short"):
            read_weights(tmp_path, model)
            pytest.fail(name)
