"""Published weights: the converted folder gives their logits and is labelled legacy; no code in a file is run."""

import pickle
from pathlib import Path

import pytest
import torch
from examples import Bomb
from published import VOCABULARY, WIDTH, published_file, published_logits, published_state
from safetensors import safe_open

from checkpoint import load_args, load_model
from generation.generate import GREEDY, generate
from model import Llama
from modelfiles.llama_config import read_config
from publishing import published_weights
from publishing.published_weights import convert
from runtime.errors import UserError
from tokenizer import Tokenizer, byte_level
from training.chunked_loss import output_weight


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a converted file."""
    tmp = tmp_path_factory.mktemp("legacy")
    convert(published_file(tmp / "snapshot.pt"), tmp / "model", "D")
    return tmp / "model"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Llama, Tokenizer]:
    """Return the model in that folder and its tokenizer."""
    return load_model(folder)


def test_logits_are_those_of_the_published_model(loaded: tuple[Llama, Tokenizer]) -> None:
    model, tokenizer = loaded
    tokens = torch.randint(VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(1))
    expected = published_logits(published_state(), tokens)
    with torch.no_grad():
        assert (model(tokens) - expected).abs().max() < 1e-5 * expected.abs().max() and expected.std() > 0.5
    assert tokenizer.vocab_size == 50257


def test_cached_decoding_has_no_positions_either(loaded: tuple[Llama, Tokenizer]) -> None:
    model, _ = loaded
    ids = [3, 1, 4]
    for token in generate(model, ids[:], 20, params=GREEDY):
        assert token == int(published_logits(published_state(), torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)
    assert len(ids) == 23


def test_the_folder_says_that_it_is_legacy_and_holds_no_optimizer(folder: Path) -> None:
    config = read_config(folder)
    assert config["smolllama"] == {"stage": "D", "legacy": True} and "legacy" in config["model_type"]
    with safe_open(folder / "model.safetensors", "pt") as weights:
        numbers = sum(weights.get_tensor(name).numel() for name in weights.keys())
    assert numbers < 2 * VOCABULARY * WIDTH  # moments of an optimizer would be twice as many again


def test_it_is_for_inference_only(folder: Path, loaded: tuple[Llama, Tokenizer]) -> None:
    with pytest.raises(UserError, match="not a plain Llama"):
        load_args(folder)
    with pytest.raises(UserError, match="legacy"):
        output_weight(loaded[0])


def test_an_untied_head_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_weights, "gpt2", byte_level)  # GPT-2's takes a second
    state = published_state()
    state["linear_layer.weight"] = state["linear_layer.weight"].flip(0)
    convert(published_file(tmp_path / "snapshot.pt", state), tmp_path / "model", "P")
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        ours = load_model(tmp_path / "model")[0](tokens)
    expected = published_logits(state, tokens)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_an_incomplete_or_foreign_file_is_one_line_and_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = published_file(tmp_path / "good.pt").read_bytes()
    missing = published_state()
    del missing["decoder.1.gqa.linear_layer.weight"]
    published_file(tmp_path / "missing.pt", missing)
    published_file(tmp_path / "extra.pt", {**published_state(), "decoder.0.rope.weight": torch.ones(3)})
    (tmp_path / "cut.pt").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "page.pt").write_bytes(b"<html>503</html>")
    torch.save({"MODEL_STATE": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"MODEL_STATE": Bomb()}))
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("missing", "extra", "cut", "empty", "page", "bomb", "plain", "list", "nowhere"):
        with pytest.raises(UserError, match="no code in it was run") as raised:
            convert(tmp_path / f"{name}.pt", tmp_path / name, "D")
        assert "\n" not in str(raised.value) and not (tmp_path / name).exists(), name
    assert not (tmp_path / "exploded").exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())
    assert (tmp_path / "exploded").exists()  # it would have
