"""An adapter finds its base wherever both are, notices that it is another one, and is added to it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelfiles.adapter import CONFIG, PREFIX, WEIGHTS, add_adapter, describe_base, find_base
from runtime.errors import UserError

A = torch.tensor([[1.0, 2.0, 3.0]])  # rank in
B = torch.tensor([[10.0], [20.0]])  # out rank
FILES = {f"{PREFIX}layer.q_proj.lora_A.weight": A, f"{PREFIX}layer.q_proj.lora_B.weight": B}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "base" / "step_000001"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    fill(folder, "1")
    return folder


@pytest.fixture
def folder(tmp_path: Path, base: Path) -> Path:
    folder = tmp_path / "runs" / "adapter" / "step_000002"
    folder.mkdir(parents=True)
    save_file(FILES, folder / WEIGHTS)
    write(folder, base)
    metadata = {"smolllama": {"stage": "S", "adapter_base": describe_base(folder, base)}}
    (folder / "config.json").write_text(json.dumps(metadata))
    return folder


def fill(folder: Path, digit: str) -> None:
    """Write weights, a million of them, of which one in a hundred depends on the digit."""
    weights = bytearray(1_000_000)
    weights[::100] = digit.encode() * 10_000
    (folder / "model.safetensors").write_bytes(weights)


def write(folder: Path, base: Path, **settings: object) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "base_model_name_or_path": str(base), **settings}
    (folder / CONFIG).write_text(json.dumps(config))


def test_a_base_is_found_where_both_are_moved_and_where_it_was(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    assert find_base(base) is None
    assert find_base(folder) == base
    alone = tmp_path / "elsewhere" / "deep" / "adapter"
    alone.parent.mkdir(parents=True)
    folder.rename(alone)
    assert find_base(alone) == base

    alone.rename(folder)
    (tmp_path / "runs").rename(tmp_path / "moved")
    both = tmp_path / "moved" / "adapter" / "step_000002"
    assert find_base(both) == tmp_path / "moved" / "base" / "step_000001"


def test_a_base_that_is_gone_or_another_is_refused(folder: Path, base: Path) -> None:
    fill(base, "2")
    with pytest.raises(UserError, match="not there any more"):
        find_base(folder)
    fill(base, "1")
    assert find_base(folder) == base
    (base / "config.json").unlink()
    with pytest.raises(UserError, match="not there any more"):
        find_base(folder)


def test_an_adapter_is_added_scaled_in_float32(folder: Path) -> None:
    weights = {"layer.q_proj.weight": torch.ones(2, 3, dtype=torch.bfloat16), "norm.weight": torch.ones(3)}
    merged = add_adapter(weights, folder)
    assert torch.equal(merged["layer.q_proj.weight"], 1 + 0.5 * B @ A)
    assert merged["norm.weight"] is weights["norm.weight"]
    assert torch.equal(weights["layer.q_proj.weight"].float(), torch.ones(2, 3))


@pytest.mark.parametrize(
    "settings",
    [{"use_rslora": True}, {"rank_pattern": {"q": 8}}, {"peft_type": "IA3"}, {"r": 0}],
)
def test_other_adapters_are_refused(folder: Path, base: Path, settings: dict) -> None:
    write(folder, base, **settings)
    with pytest.raises(UserError, match="cannot be added to its base"):
        add_adapter({"layer.q_proj.weight": torch.ones(2, 3)}, folder)


def test_what_does_not_fit_or_is_broken_is_refused(folder: Path) -> None:
    for weights in ({"layer.q_proj.weight": torch.ones(5, 3)}, {"other.weight": torch.ones(2, 3)}):
        with pytest.raises(UserError, match="cannot be added to its base"):
            add_adapter(weights, folder)
    (folder / WEIGHTS).write_bytes(b"half")
    with pytest.raises(UserError, match="cannot be read"):
        add_adapter({"layer.q_proj.weight": torch.ones(2, 3)}, folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(UserError, match="is broken"):
        find_base(folder)


def test_a_small_adapter_of_a_huge_product_takes_no_memory(folder: Path) -> None:
    """Two megabytes whose product would be a terabyte."""
    long = 500_000
    wide = {f"{PREFIX}layer.q_proj.lora_A.weight": torch.ones(1, long)}
    save_file({**wide, f"{PREFIX}layer.q_proj.lora_B.weight": torch.ones(long, 1)}, folder / WEIGHTS)
    with pytest.raises(
        UserError, match=r"cannot be added to its base \(ValueError: layer.q_proj has another shape"
    ):
        add_adapter({"layer.q_proj.weight": torch.ones(2, 3)}, folder)


@pytest.mark.parametrize("value", [5, "x", [], {"path": 5}, {}], ids=str)
def test_a_config_that_says_nonsense_about_the_base_leaves_peft_s_own_file(
    folder: Path, base: Path, value: object
) -> None:
    (folder / "config.json").write_text(json.dumps({"smolllama": {"adapter_base": value}}))
    assert find_base(folder) == base
