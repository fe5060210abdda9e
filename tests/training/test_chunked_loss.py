"""The chunked loss against the plain formula: values and gradients, any chunks, any loss that is a sum over them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from config import IGNORE
from training import chunked_loss
from training.chunked_loss import chunked_linear_loss, label_logps, linear_cross_entropy, split_into_chunks
from training.compilation import compile_or_plain


def plain_loss(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy of the full logits."""
    return F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORE, reduction="sum")


@pytest.mark.parametrize(
    "V, N", [(5, 7), (257, 100), (50304, 400), (70000, 300)]
)  # the last two in several chunks
@pytest.mark.parametrize("autocast", [False, True])
def test_head_loss_is_the_plain_cross_entropy(V: int, N: int, autocast: bool) -> None:
    torch.manual_seed(V)
    states, weight = torch.randn(N, 8, requires_grad=True), torch.randn(V, 8, requires_grad=True)
    labels = torch.randint(V, (N,)).masked_fill(torch.rand(N) < 0.2, IGNORE)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = linear_cross_entropy(states, weight, labels)
    expected = plain_loss(states, weight, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3 if autocast else 1e-5)
    assert not autocast or loss.item() != expected.item()  # the low precision is at work
    gradients = torch.autograd.grad(3 * loss, (states, weight))
    for ours, theirs in zip(gradients, torch.autograd.grad(3 * expected, (states, weight)), strict=True):
        assert theirs.abs().max() > 0
        assert (ours - theirs).norm() < (2e-2 if autocast else 1e-4) * theirs.norm()


@pytest.mark.parametrize("boundaries", [None, [100, 130, 420, 700]], ids=str)
def test_a_chunked_loss_has_the_gradients_of_the_plain_one(boundaries: list[int] | None) -> None:
    """The loss is not linear in its parts, as that of pairs is not; there are more positions than fit one chunk."""
    torch.manual_seed(0)
    hidden = torch.randn(700, 8, requires_grad=True)
    weight = torch.randn(50304, 8, requires_grad=True)
    labels = torch.randint(50304, (700,))
    labels[::7] = IGNORE
    coefficients = torch.randn(700)
    chunks = []

    def loss(logps: Tensor, chunk: slice) -> Tensor:
        chunks.append(chunk)
        weighted = 0.1 * coefficients[chunk] * logps
        if boundaries is None:
            return F.softplus(weighted).sum()
        inside = [end - chunk.start for end in boundaries if chunk.start < end < chunk.stop]
        return sum(F.softplus(part.sum()) for part in weighted.tensor_split(inside))

    total, logps = chunked_linear_loss(hidden, weight, labels, loss, boundaries)
    assert len(chunks) == 2 and chunks[0].start == 0 and chunks[0].stop == chunks[1].start
    assert chunks[1].stop == 700 and (boundaries is None or chunks[0].stop in boundaries)

    expected_logps = -F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORE, reduction="none")
    expected = loss(expected_logps, slice(0, 700))
    assert not logps.requires_grad and torch.equal(logps, label_logps(hidden, weight, labels))
    torch.testing.assert_close(logps, expected_logps, rtol=1e-5, atol=1e-5)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        assert torch.equal(chunked_linear_loss(hidden, weight, labels, loss, boundaries)[0], total)

    gradients = torch.autograd.grad(3 * total, (hidden, weight))
    expected_gradients = torch.autograd.grad(3 * expected, (hidden, weight))
    for gradient, plain in zip(gradients, expected_gradients, strict=True):
        assert plain.norm() > 0 and (gradient - plain).norm() < 1e-5 * plain.norm()


@pytest.mark.parametrize(
    "positions, boundaries, stops",
    [
        (10, None, [10]),
        (11, None, [5, 11]),
        (24, None, [8, 16, 24]),
        (0, None, [0]),
        (0, [], [0]),
        (24, [3, 15, 24], [3, 15, 24]),
        (24, [24], [24]),
        (24, [1, 2, 3, 24], [3, 24]),
        (12, [11, 11, 12], [11, 12]),
    ],
)
def test_chunks_are_even_and_end_at_boundaries(
    monkeypatch: pytest.MonkeyPatch, positions: int, boundaries: list[int] | None, stops: list[int]
) -> None:
    monkeypatch.setattr(chunked_loss, "MIN_CHUNK_TOKENS", 7)
    monkeypatch.setattr(chunked_loss, "MAX_CHUNK_LOGITS", 100)
    chunks = split_into_chunks(positions, 100, boundaries)
    assert [chunk.stop for chunk in chunks] == stops
    assert [chunk.start for chunk in chunks] == [0, *stops[:-1]]


def test_rows_of_several_chunks_add_up_under_autocast() -> None:
    torch.manual_seed(0)
    states, weight, labels = torch.randn(9000, 8), torch.randn(17, 8), torch.randint(17, (9000,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(states, weight, labels)
    assert loss.item() == pytest.approx(plain_loss(states, weight, labels).item(), rel=1e-3)


def test_chunks_on_cuda_have_one_size_and_a_rest() -> None:
    chunks = split_into_chunks(9000, 50304, None, "cuda")
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 4096), (4096, 8192), (8192, 9000)]
    assert split_into_chunks(0, 50304, None, "cuda") == [slice(0, 0)]
    by_pairs = split_into_chunks(9000, 50304, [*range(300, 9000, 300), 9000], "cuda")
    assert [chunk.stop for chunk in by_pairs] == [4200, 8100, 9000]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_form_for_cuda_has_the_gradients_of_the_plain_one(
    compiled: bool, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its functions, plain and compiled for the CPU, over several sizes of chunk."""
    functions = chunked_loss.logps_and_logsumexp, chunked_loss.softmax_minus_onehot
    if compiled:
        torch._dynamo.reset()
        functions = tuple(compile_or_plain(function) for function in functions)
    monkeypatch.setattr(chunked_loss, "_compiled", lambda: functions)
    monkeypatch.setattr(chunked_loss, "_projection", chunked_loss._CUDAProjection)
    monkeypatch.setattr(
        chunked_loss, "split_into_chunks", lambda n, V, boundaries, _: split_into_chunks(n, V, None, "cuda")
    )
    monkeypatch.setattr(chunked_loss, "CUDA_CHUNK_TOKENS", 64)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]

    for N in (192, 200, 100, 77, 0):
        torch.manual_seed(N)
        states, weight = torch.randn(N, 8, requires_grad=True), torch.randn(97, 8, requires_grad=True)
        labels = torch.randint(97, (N,)).masked_fill(torch.rand(N) < 0.2, IGNORE)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = linear_cross_entropy(states, weight, labels)
            logps = label_logps(states, weight, labels)
        expected = plain_loss(states, weight, labels)
        assert loss.item() == pytest.approx(expected.item(), rel=5e-3 if autocast else 1e-5)
        assert logps.shape == (N,) and logps.sum().item() == pytest.approx(-loss.item(), rel=1e-5)
        gradients = torch.autograd.grad(3 * loss, (states, weight))
        for ours, theirs in zip(gradients, torch.autograd.grad(3 * expected, (states, weight)), strict=True):
            assert ours.dtype == torch.float32
            assert (ours - theirs).norm() <= (2e-2 if autocast else 1e-4) * theirs.norm()

    # One graph for full chunks, one for all other sizes, and sizes 0 and 1 are always their own.
    if compiled:
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before <= 6


def test_a_frozen_weight_costs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the hidden states is that of a weight that is trained; the product for its own is not made."""
    torch.manual_seed(0)
    weight = torch.randn(60, 8)
    labels = torch.randint(60, (40,))
    products, gradients = [], []
    real = chunked_loss._add_product
    monkeypatch.setattr(chunked_loss, "_add_product", lambda *args: (products.append(args), real(*args)))
    for trained in (True, False):
        hidden = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        weight = weight.detach().clone().requires_grad_(trained)
        linear_cross_entropy(hidden, weight, labels).backward()
        gradients.append(hidden.grad)
        assert (weight.grad is not None) == trained
        assert len(products) == 1
    assert torch.equal(*gradients)
