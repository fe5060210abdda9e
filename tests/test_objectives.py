"""The objective against the plain formula, and sums that are divided once."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batch import Batch
from config import IGNORE, ModelArgs
from distributed import Env
from model import Llama
from objectives import evaluate, global_means, head_loss, next_token


def plain_loss(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(states @ weight.T, labels, ignore_index=IGNORE, reduction="sum")


def random_batch(args: ModelArgs, B: int, T: int, ignored: float = 0.0) -> Batch:
    generator = torch.Generator().manual_seed(B * T)
    tokens = torch.randint(args.vocab_size, (B, T + 1), generator=generator)
    nothing = torch.rand(B, T, generator=generator) < ignored
    return Batch(tokens[:, :-1], tokens[:, 1:].masked_fill(nothing, IGNORE))


@pytest.mark.parametrize("V, N", [(5, 7), (257, 100), (50304, 400), (70000, 300)])  # the last two in several chunks
@pytest.mark.parametrize("autocast", [False, True])
def test_head_loss_is_the_plain_cross_entropy(V: int, N: int, autocast: bool) -> None:
    torch.manual_seed(V)
    states, weight = torch.randn(N, 8, requires_grad=True), torch.randn(V, 8, requires_grad=True)
    labels = torch.randint(V, (N,)).masked_fill(torch.rand(N) < 0.2, IGNORE)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = head_loss(states, weight, labels)
    expected = plain_loss(states, weight, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3 if autocast else 1e-5)
    assert not autocast or loss.item() != expected.item()  # the low precision is at work
    gradients = torch.autograd.grad(3 * loss, (states, weight))
    for ours, theirs in zip(gradients, torch.autograd.grad(3 * expected, (states, weight)), strict=True):
        assert theirs.abs().max() > 0
        assert (ours - theirs).norm() < (2e-2 if autocast else 1e-4) * theirs.norm()


def test_rows_of_several_chunks_add_up_under_autocast() -> None:
    torch.manual_seed(0)
    states, weight, labels = torch.randn(9000, 8), torch.randn(17, 8), torch.randint(17, (9000,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head_loss(states, weight, labels)
    assert loss.item() == pytest.approx(plain_loss(states, weight, labels).item(), rel=1e-3)


def test_next_token_is_the_cross_entropy_of_the_logits(tiny: ModelArgs) -> None:
    model, batch = Llama(tiny), random_batch(tiny, 3, 16, ignored=0.3)
    loss, count, sums = next_token(model, batch)
    expected = F.cross_entropy(model(batch.tokens).flatten(0, 1), batch.labels.flatten(), reduction="sum")
    assert 0 < count < 48 and count == (batch.labels != IGNORE).sum() and sums == {}
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    expected.backward()
    for name, p in model.named_parameters():
        assert p.grad.norm() > 0 and (gradients[name] - p.grad).norm() < 1e-4 * p.grad.norm(), name


def test_packed_documents_are_kept_apart(tiny: ModelArgs) -> None:
    model, batch = Llama(tiny), random_batch(tiny, 2, 16)
    doc_ids = torch.arange(16).div(8, rounding_mode="floor").expand(2, -1)
    packed = next_token(model, batch._replace(doc_ids=doc_ids))[0].item()
    halves = [Batch(batch.tokens[:, part], batch.labels[:, part]) for part in (slice(8), slice(8, 16))]
    assert packed == pytest.approx(sum(next_token(model, half)[0].item() for half in halves), rel=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_batch_without_labels_teaches_nothing(tiny: ModelArgs, env: Env, autocast: bool) -> None:
    model, batch = Llama(tiny), random_batch(tiny, 2, 8, ignored=2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        result = next_token(model, batch)
    assert result[0] == 0 and result[1] == 0
    result[0].backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())
    assert global_means([result], env) == {"loss": 0.0, "count": 0.0}


def test_autocast_keeps_the_loss_in_float32(tiny: ModelArgs, spread, env: Env) -> None:
    model, batch = spread(Llama(tiny)), random_batch(tiny, 4, 32)
    exact = next_token(model, batch)[0].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _, _ = next_token(model, batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-2) and loss.item() != exact
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_is_without_dropout_and_leaves_no_trace(tiny: ModelArgs, env: Env, training: bool) -> None:
    model = Llama(tiny.replace(dropout=0.5)).train(training)
    batches = [random_batch(tiny, B, 16, ignored=B / 8) for B in (1, 2, 5)]
    before = torch.get_rng_state()
    first, again = (evaluate(next_token, model, iter(batches), env) for _ in range(2))
    assert first == again and model.training is training and torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    results = [next_token(model.eval(), batch) for batch in batches]
    assert first["count"] == sum(int(count) for _, count, _ in results)
    assert first["loss"] == pytest.approx(sum(loss.item() for loss, _, _ in results) / first["count"])


def test_means_divide_once(env: Env) -> None:
    results = [(torch.tensor(10.0), torch.tensor(1), {"right": torch.tensor(1.0)}),
               (torch.tensor(10.0), torch.tensor(9), {"right": torch.tensor(3.0)})]
    assert global_means(results, env) == {"loss": 2.0, "count": 10.0, "right": 0.4}  # means of means: 5.6 and 0.67


def test_a_wrapped_model_has_the_same_head(tiny: ModelArgs) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module):
            super().__init__()
            self.module = module

        def forward(self, *args, **options):
            return self.module(*args, **options)

    model, batch = Llama(tiny), random_batch(tiny, 2, 8)
    loss = next_token(Wrapper(model), batch)[0]
    assert torch.equal(loss, next_token(model, batch)[0]) and 0 < loss < 100 * math.log(96)
