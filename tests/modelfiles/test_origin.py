"""What travels from the folder that training started from: special ids, sampling, licence, the guest's name."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from checkpoint import load_end_ids, load_sampling, write_model
from config import ModelArgs
from model import Llama
from modelfiles.origin import SOURCE, Origin, read_license, read_origin
from tokenizer import byte_level

README = "---\nlicense: apache-2.0\nlanguage: [en]\n---\n\n# A model"
ARGS = ModelArgs(vocab_size=260, embeddings_dims=16, no_of_heads=2, no_of_decoder_layers=1, block_size=32)


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """Folder of another program, without weights."""
    folder = tmp_path / "Tiny-1M"
    folder.mkdir()
    ids = {"bos_token_id": 1, "eos_token_id": [2, 9], "pad_token_id": 3}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **ids}))
    generation = {
        "eos_token_id": [2, 9],
        "top_p": 0.5,
        "do_sample": True,
        "max_length": 64,
        "use_cache": True,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "README.md").write_text(README)
    (folder / "LICENSE").write_text("the licence")
    return folder


def trained(folder: Path, origin: Origin, sampling: dict | None = None) -> Path:
    """Return the folder of a model that was trained from an origin."""
    torch.manual_seed(0)
    folder.mkdir()
    write_model(folder, Llama(ARGS), byte_level(), {"stage": "S"}, sampling=sampling, origin=origin)
    return folder


def test_what_is_trained_from_a_guest_says_so(guest: Path, tmp_path: Path) -> None:
    origin = read_origin(guest)
    assert origin.base_model == {"name": "Tiny-1M", "license": "apache-2.0"}
    assert origin.special_ids == {"bos_token_id": 1, "eos_token_id": [2, 9], "pad_token_id": 3}

    first = trained(tmp_path / "first", origin)
    second = trained(tmp_path / "second", read_origin(first))
    for folder in (first, second):
        config = json.loads((folder / "config.json").read_text())
        assert config["smolllama"] == {"stage": "S", "base_model": origin.base_model}
        assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, [2, 9], 3)
        assert (folder / "LICENSE").read_text() == "the licence"
        assert (folder / "BASE_README.md").read_text() == README and not (folder / "README.md").exists()
        assert transformers.AutoConfig.from_pretrained(folder).eos_token_id == [2, 9]


def test_its_generation_config_is_kept_but_for_the_sampling_of_the_run(guest: Path, tmp_path: Path) -> None:
    origin = read_origin(guest)
    kept = trained(tmp_path / "kept", origin)
    assert load_sampling(kept) == {"top_p": 0.5}
    assert load_end_ids(kept) == [256, 2, 9]  # the end of the tokenizer that it has now

    sampling = {**vars(ModelArgs()), "temperature": 0.5, "max_length": 7}
    own = trained(tmp_path / "own", origin, sampling)
    assert load_sampling(own)["temperature"] == 0.5 and load_sampling(own)["top_p"] == ModelArgs.top_p
    config = json.loads((own / "generation_config.json").read_text())
    assert config["use_cache"] is True and config["max_new_tokens"] == 7 and "max_length" not in config


def test_our_own_models_have_no_base(tmp_path: Path) -> None:
    folder = trained(tmp_path / "own", Origin())
    origin = read_origin(folder)
    assert origin.base_model is None and origin.files == {}
    again = trained(tmp_path / "again", origin)
    for name in ("config.json", "generation_config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_a_guest_of_the_hub_has_its_name_there(guest: Path) -> None:
    (guest / SOURCE).write_text(json.dumps({"repo": "owner/Tiny-1M", "revision": "c0ffee"}))
    origin = read_origin(guest)
    assert origin.base_model == {"name": "owner/Tiny-1M", "revision": "c0ffee", "license": "apache-2.0"}


@pytest.mark.parametrize(
    "readme, expected",
    [
        (README, "apache-2.0"),
        ("# no metadata", None),
        ("---\nlicense: [a\n---\n", None),
        ("---\ntags: x\n---\n", None),
    ],
)
def test_the_licence_is_in_the_metadata_of_the_card(readme: str, expected: str | None) -> None:
    assert read_license(readme) == expected
