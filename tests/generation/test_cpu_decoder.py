"""Logits of cpu_decoder.c against torch, in float32 and int8; the same text without a compiler."""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from config import ModelArgs
from generation import cpu_decoder
from generation.generate import GREEDY, generate
from model import Llama

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


def logits_by_c_and_torch(model: Llama) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (8, V) of each token after the first eight, by cpu_decoder.c and by torch."""
    tokens = torch.arange(16)[None] * 5  # 1 T
    decode = cpu_decoder.build_cpu_decoder(model, 1)
    with torch.inference_mode():
        cache = model.new_cache(1, 16)
        model(tokens[:, :8], cache=cache)
        logits = [decode(int(tokens[0, n]), n, cache.keys, cache.values) for n in range(8, 16)]
        return torch.cat(logits), model(tokens)[0, 8:]


@needs_compiler
def test_logits_are_those_of_the_model(model: Llama) -> None:
    logits, expected = logits_by_c_and_torch(model)
    assert expected.std() > 0.5
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


@needs_compiler
def test_int8_logits_are_those_of_the_rounded_model(model: Llama) -> None:
    _, exact = logits_by_c_and_torch(model)
    cpu_decoder.quantize(model)
    logits, rounded = logits_by_c_and_torch(model)
    largest = exact.abs().max()
    assert (logits - rounded).abs().max() < 5e-3 * largest  # hidden states are rounded to 12 bits or more
    assert 3e-4 * largest < (rounded - exact).abs().max() < 7e-2 * largest
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            steps, scale = model.int8[name]
            assert steps.dtype == torch.int8 and torch.equal(steps * scale[:, None], weight)


@needs_compiler
def test_generate_uses_it_and_gives_the_same_tokens(model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = []
    decode = cpu_decoder.CPUDecoder.__call__

    def recorded(self, token: int, position: int, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        positions.append(position)
        return decode(self, token, position, keys, values)

    monkeypatch.setattr(cpu_decoder.CPUDecoder, "__call__", recorded)
    tokens = list(generate(model, [5, 17, 3], 9, params=GREEDY))
    assert positions == list(range(3, 11))

    monkeypatch.setattr(cpu_decoder, "library", lambda: None)
    assert list(generate(model, [5, 17, 3], 9, params=GREEDY)) == tokens
    assert len(positions) == 8


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
def test_two_processes_at_once_make_one_library_for_each_processor(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles = []
    run = cpu_decoder.subprocess.run
    barrier = threading.Barrier(2, timeout=60)

    def run_together(*args: object, **options: object) -> object:
        barrier.wait()
        compiles.append(1)
        return run(*args, **options)

    unoptimized = tuple(word for word in cpu_decoder.COMMAND if word != "-O3")  # compiles faster
    monkeypatch.setattr(cpu_decoder.subprocess, "run", run_together)
    monkeypatch.setattr(cpu_decoder, "COMMAND", unoptimized)
    with ThreadPoolExecutor(2) as pool:
        libraries = [pool.submit(cpu_decoder.library.__wrapped__) for _ in range(2)]
    assert all(future.result().step for future in libraries) and len(compiles) == 2
    assert len(list(empty_cache.iterdir())) == 1

    monkeypatch.setattr(cpu_decoder.subprocess, "run", run)
    assert cpu_decoder.library.__wrapped__().step and len(compiles) == 2  # kept
    monkeypatch.setattr(cpu_decoder, "processor", lambda: "another")
    assert cpu_decoder.library.__wrapped__().step and len(list(empty_cache.iterdir())) == 2


@needs_compiler
def test_other_batches_modes_and_dtypes_are_decoded_in_torch(model: Llama) -> None:
    assert cpu_decoder.build_cpu_decoder(model, 1)
    assert cpu_decoder.build_cpu_decoder(model, 2) is None
    assert cpu_decoder.build_cpu_decoder(model.train(), 1) is None
    assert cpu_decoder.build_cpu_decoder(model.eval().double(), 1) is None
