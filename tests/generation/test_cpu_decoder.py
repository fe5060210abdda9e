"""cpu_decoder.c against the model in torch, in float32 and in bytes; no compiler, no difference in what is said."""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from config import ModelArgs
from generation import cpu_decoder
from generation.generate import generate
from model import KVCache, Llama

MODELS = {
    "gqa": {},
    "mha": {"no_kv_heads": 4},
    "untied, odd sizes": {
        "no_kv_heads": 1,
        "tie_embeddings": False,
        "hidden_dims": 37,
        "vocab_size": 101,
        "head_dim": 6,
    },
}
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest, tiny: ModelArgs, spread: Callable[[Llama], Llama]) -> Llama:
    torch.manual_seed(0)
    return spread(Llama(tiny.replace(**request.param))).eval()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def both(model: Llama) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (8, V) of each token after the first eight, by cpu_decoder.c and by torch."""
    tokens, fast = torch.arange(16)[None] * 5, cpu_decoder.decoder(model, 1)
    with torch.inference_mode():
        cache = KVCache(model.args, 1, 16, like=model.lm_head.weight)
        model(tokens[:, :8], cache=cache)
        made = [fast(int(tokens[0, n]), n, cache.keys, cache.values) for n in range(8, 16)]
        return torch.cat(made), model(tokens)[0, 8:]


@needs_compiler
def test_logits_are_those_of_the_model(model: Llama) -> None:
    made, wanted = both(model)
    assert wanted.std() > 0.5
    torch.testing.assert_close(made, wanted, rtol=0, atol=2e-5)


@needs_compiler
def test_bytes_are_the_rounded_model(model: Llama) -> None:
    exact = both(model)[1]
    cpu_decoder.quantize(model)
    made, rounded = both(model)
    torch.testing.assert_close(made, rounded, rtol=0, atol=2e-2)  # its states have 12 bits or more
    assert 1e-3 < (rounded - exact).abs().max() < 0.2
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            steps, scale = model.int8[name]
            assert steps.dtype == torch.int8 and torch.equal(steps * scale[:, None], weight)


@needs_compiler
def test_generate_uses_it_and_says_the_same(model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, step = [], cpu_decoder.Decoder.__call__
    monkeypatch.setattr(
        cpu_decoder.Decoder, "__call__", lambda self, *what: calls.append(what[1]) or step(self, *what)
    )
    said = list(generate(model, [5, 17, 3], 9, temperature=0.0))
    assert calls == list(range(3, 11))
    monkeypatch.setattr(cpu_decoder, "library", lambda: None)
    assert list(generate(model, [5, 17, 3], 9, temperature=0.0)) == said and len(calls) == 8


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "smolllama"


KILLED = ("sh", "-c", 'echo half > "$3"; kill -9 $$', "cc")


@pytest.mark.parametrize(
    "command", [("no-such-compiler",), ("false",), KILLED], ids=["none", "failing", "killed"]
)
def test_without_a_compiler_there_is_no_library(
    command: tuple[str, ...], empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_decoder, "COMMAND", command)
    assert cpu_decoder.library.__wrapped__() is None and list(empty_cache.iterdir()) == []


def test_without_a_home_there_is_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cpu_decoder.library.__wrapped__() is None


@needs_compiler
def test_two_at_once_make_one_library_for_each_processor(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles, run = [], cpu_decoder.subprocess.run
    both = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(
        cpu_decoder.subprocess,
        "run",
        lambda *what, **how: (both.wait(), compiles.append(1), run(*what, **how)),
    )
    monkeypatch.setattr(
        cpu_decoder, "COMMAND", tuple(word for word in cpu_decoder.COMMAND if word != "-O3")
    )  # quicker
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(cpu_decoder.library.__wrapped__) for _ in range(2)]
    assert all(future.result().step for future in made) and len(compiles) == 2
    assert len(list(empty_cache.iterdir())) == 1
    monkeypatch.setattr(cpu_decoder.subprocess, "run", run)
    assert cpu_decoder.library.__wrapped__().step and len(compiles) == 2  # kept
    monkeypatch.setattr(cpu_decoder, "processor", lambda: "another")
    assert cpu_decoder.library.__wrapped__().step and len(list(empty_cache.iterdir())) == 2


@needs_compiler
def test_where_it_does_not_fit(model: Llama) -> None:
    assert cpu_decoder.decoder(model, 1) and cpu_decoder.decoder(model, 2) is None
    assert cpu_decoder.decoder(model.train(), 1) is None
    assert cpu_decoder.decoder(model.eval().double(), 1) is None
