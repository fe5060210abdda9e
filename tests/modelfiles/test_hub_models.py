"""Models of the hub by name: one download, no network afterwards, the revision kept, the right files only."""

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub import REVISION, Hub, connect

import data
from checkpoint import find_or_download, load_args, write_model
from config import ModelArgs
from generation.chat import choose_model
from model import Llama
from modelfiles.hub_models import model_files, model_of_hub
from modelfiles.origin import read_origin
from runtime.errors import UserError
from tokenizer import byte_level, load_tokenizer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a hub with a guest: a Llama folder of another program."""
    torch.manual_seed(0)
    folder = tmp_path / "guest"
    folder.mkdir()
    args = ModelArgs(embeddings_dims=16, no_of_decoder_layers=1, no_of_heads=2, no_kv_heads=2, vocab_size=320)
    write_model(folder, Llama(args), byte_level(), {"stage": "P"})
    config = json.loads((folder / "config.json").read_text())
    del config["smolllama"]
    (folder / "config.json").write_text(json.dumps(config))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files |= {
        "README.md": b"---\nlicense: mit\n---\n",
        "pytorch_model.bin": b"the same again",
        "onnx/model.onnx": b"0",
    }
    monkeypatch.chdir(tmp_path)
    with Hub({}, {"other/guest-1M": files}) as hub, connect(hub, monkeypatch):
        yield hub


def test_a_name_is_downloaded_once(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_or_download("other/guest-1M", "runs")
    assert folder == Path("runs/other--guest-1M") and load_args(folder).vocab_size == 320
    assert not (folder / "pytorch_model.bin").exists()
    assert read_origin(folder).base_model == {
        "name": "other/guest-1M",
        "revision": REVISION,
        "license": "mit",
    }

    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_or_download("other/guest-1M", "runs") == folder
    assert choose_model("other/guest-1M", ModelArgs(save_checkpoint_dir="runs")) == folder
    assert hub.requests == []


def test_a_local_folder_comes_first(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "guest").rename(tmp_path / "other" / "guest-1M")
    assert find_or_download("other/guest-1M", "runs") == Path("other/guest-1M")
    for mistyped in ("other/guest-2M", "runs/P-fw", "nowhere", "a/b/c", "../a"):
        with pytest.raises(UserError, match="no model in .* or the OWNER/NAME of one on the hub"):
            find_or_download(mistyped, "runs")
    assert hub.requests == []


def test_a_name_that_is_not_there_is_one_line(hub: Hub) -> None:
    with pytest.raises(UserError, match="not on the hub"):
        find_or_download("other/nothing", "runs")
    hub.models["other/guest-1M"]["config.json"] = b'{"model_type": "qwen2"}'
    with pytest.raises(UserError, match="model_type qwen2 needs biases"):
        find_or_download("other/guest-1M", "runs")
    assert not list(Path("runs").glob("[!.]*"))


def test_data_is_prepared_with_the_tokenizer_of_a_name(hub: Hub) -> None:
    folder = data.folder_of_tokenizer("other/guest-1M")
    assert folder == Path("checkpoints/other--guest-1M") and load_tokenizer(folder).vocab_size == 257
    assert data.folder_of_tokenizer("gpt2") == "gpt2"


def test_other_ranks_wait_for_the_first(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the first rank is the sleep of the second one."""

    def first_rank(seconds: float) -> None:
        monkeypatch.setenv("LOCAL_RANK", "0")
        model_of_hub("other/guest-1M", Path("runs"), load_args)
        monkeypatch.setenv("LOCAL_RANK", "1")

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("modelfiles.hub_models.time.sleep", first_rank)
    assert model_of_hub("other/guest-1M", Path("runs"), load_args) == Path("runs/other--guest-1M")


SMALL = ["config.json", "tokenizer.json", "tokenizer.model", "LICENSE", "README.md"]


@pytest.mark.parametrize(
    "weights, others",
    [
        (["model.safetensors"], ["consolidated.safetensors", "pytorch_model.bin"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["consolidated.safetensors"],
        ),
        (["part-1.safetensors", "part-2.safetensors"], ["pytorch_model.bin"]),
        (["pytorch_model.bin"], ["training_args.bin", "optimizer.pt"]),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], ["training_args.bin"]),
    ],
)
def test_weights_come_in_one_form(weights: list[str], others: list[str]) -> None:
    small = [*SMALL, "model.safetensors.index.json"] if weights[0].startswith("model-") else SMALL
    names = dict.fromkeys([*small, *weights, *others])
    assert sorted(model_files("a/b", names)) == sorted([*small, *weights])


def test_a_repository_without_weights_says_so() -> None:
    with pytest.raises(UserError, match="a/b has no weights"):
        model_files("a/b", dict.fromkeys(SMALL))
