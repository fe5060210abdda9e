"""Compiling: chosen by time, refused or done without where the compiler fails."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from training.compilation import compile_if_faster, compile_or_plain


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
