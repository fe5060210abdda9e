"""Compiling: chosen by time, refused or done without where the compiler fails."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
from torch import Tensor, nn
from varlen import varlen_stand_in

from config import ModelArgs
from dataloader.batch import attention_segments
from kernels import attention
from kernels.attention import Segments
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from training.compilation import allow_any_segments, compile_if_faster, compile_or_plain


def forward_and_backward(model: nn.Module) -> float:
    """Run a model as training does; its time says nothing here."""
    model(torch.ones(2, 3)).sum().backward()
    return 1.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [([1.0, 1.5], "compiled: 1.50 x faster ("), ([2.0, 1.0], "not compiled: 2.00 x slower (")],
)
def test_the_faster_one_is_taken(seconds: list[float], words: str, env: DistributedEnv) -> None:
    model = nn.Linear(3, 3)
    said: list[str] = []
    times = iter(seconds)
    chosen = compile_if_faster(model, False, lambda _: next(times), env, said.append)
    assert (chosen is model) == words.startswith("not")
    assert said[0].startswith("compiling the model") and said[1].startswith(words)


@pytest.fixture
def no_compiler() -> Iterator[None]:
    import torch._inductor.config as inductor

    with inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        torch._dynamo.reset()
        yield


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_plain_model_is_taken(env: DistributedEnv) -> None:
    model = nn.Linear(3, 3)
    said: list[str] = []
    assert compile_if_faster(model, False, forward_and_backward, env, said.append) is model
    assert said[-1].startswith("not compiled: ") and "compiler" in said[-1]
    assert model.weight.grad is None or model.weight.grad.eq(2).all()  # of the plain pass alone


@pytest.mark.usefixtures("no_compiler")
def test_a_forced_compilation_is_refused_in_a_line(env: DistributedEnv) -> None:
    with pytest.raises(UserError, match="--no-compile") as refusal:
        compile_if_faster(nn.Linear(3, 3), True, forward_and_backward, env, lambda _: None)
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("no_compiler")
def test_a_function_stays_plain_without_a_compiler() -> None:
    double = compile_or_plain(lambda x: 2 * x + 1)
    for _ in range(2):
        assert double(torch.ones(3)).tolist() == [3, 3, 3]


@torch.library.custom_op("smolllama_tests::varlen", mutates_args=())
def opaque_varlen(q: Tensor, k: Tensor, v: Tensor, query_ends: Tensor, key_ends: Tensor, T: int) -> Tensor:
    """The stand-in as torch.compile sees the kernel: one operation."""
    return varlen_stand_in(q, k, v, query_ends, key_ends, T, T, window_size=(-1, 0), enable_gqa=True)


@opaque_varlen.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def packed(pairs: bool, seed: int) -> dict[str, Tensor | Segments]:
    """Inputs of two rows of 16 tokens with some documents, or pairs, in each."""
    rng = np.random.default_rng(seed)
    doc_ids = np.sort(rng.integers(0, 2 + seed, (2, 16)), axis=1)
    branches = np.zeros_like(doc_ids)
    if pairs:
        starts = np.diff(doc_ids, axis=1, prepend=-1) > 0
        branches = np.minimum(2, np.where(starts, 0, np.arange(16) % 4))
    segments = Segments.of(attention_segments(doc_ids, branches if pairs else None))
    # On a device each part is a tensor of its own.
    segments = segments._replace(rows=None, key_ends=segments.key_ends.clone())
    inputs = {"doc_ids": torch.from_numpy(doc_ids), "segments": segments}
    if pairs:
        inputs |= {"branches": torch.from_numpy(branches), "positions": torch.arange(16).expand(2, 16)}
    return inputs


@pytest.mark.parametrize("pairs", [False, True])
def test_packed_rows_on_cuda_are_one_graph(
    pairs: bool, tiny: ModelArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of documents."""
    monkeypatch.setattr(
        torch.nn.attention.varlen,
        "varlen_attn",
        lambda q, k, v, ends, key_ends, T, _, **options: opaque_varlen(q, k, v, ends, key_ends, T),
    )
    monkeypatch.setattr(attention, "_attention_by_segment", lambda q, k, v, *_: None)
    monkeypatch.setattr(
        "model.attention", lambda q, k, v, mask, segments, _: attention._attention_varlen(q, k, v, segments)
    )
    torch.manual_seed(0)
    model = Llama(tiny).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    tokens = torch.randint(96, (2, 16))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch.no_grad():
        for seed in range(6):
            inputs = packed(pairs, seed)
            if seed == 0:
                allow_any_segments(inputs["segments"])
            expected = model(tokens, **inputs)
            assert (compiled(tokens, **inputs) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 1
