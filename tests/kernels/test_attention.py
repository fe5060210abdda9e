"""Every form of attention against attention under the mask: outputs, gradients; which form is taken where."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.attention.varlen
import torch.nn.functional as F
from torch import Tensor
from varlen import varlen_stand_in

from config import ModelArgs
from dataloader.batch import attention_segments
from kernels import attention as kernels
from kernels.attention import Segments, attention, attention_mask, form_of_attention
from model import Llama

# Rows: two packed pairs, one with a shared prompt and one without, then padding; and one document alone.
DOC_IDS = np.array([[0] * 9 + [1] * 5 + [2] * 2, [0] * 16])
BRANCHES = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2] + [1, 1, 2, 2, 2] + [0, 0], [0] * 16])
SEGMENTS = [[3, 0], [4, 1], [2, 1], [2, 0], [3, 0], [2, 0], [16, 0]]


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of a CUDA device with flash attention, with the stand-in for its kernel."""
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_stand_in)

    def by_varlen(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, dropout: float) -> Tensor:
        return kernels._attention_varlen(q, k, v, Segments.of(rows.numpy()))

    monkeypatch.setattr(kernels, "_attention_by_segment", by_varlen)


def outputs_and_gradients(
    qkv: list[Tensor], mask: Tensor | None, segments: Segments | None
) -> tuple[Tensor, ...]:
    out = attention(*qkv, mask, segments, dropout=0.0)
    torch.manual_seed(1)
    return (out, *torch.autograd.grad((out * torch.randn(out.shape)).sum(), qkv))


def random_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents and branches of two rows of odd length: packed pairs and documents, some of one token."""
    rng = np.random.default_rng(seed)
    T = int(rng.integers(1, 70))
    doc_ids, branches = np.zeros((2, T), int), np.zeros((2, T), int)
    for row in range(2):
        place, number = 0, 0
        while place < T:
            prompt, chosen, rejected = rng.integers(0, 12), rng.integers(0, 9), rng.integers(1, 9)
            pieces = np.repeat([0, 1, 2], [prompt, chosen, rejected])[: T - place]
            branches[row, place : place + len(pieces)] = pieces
            doc_ids[row, place : place + len(pieces)] = number
            place, number = place + len(pieces), number + 1
    return doc_ids, branches


def test_segments_of_rows() -> None:
    assert attention_segments(DOC_IDS, BRANCHES).tolist() == SEGMENTS
    assert attention_segments(DOC_IDS, None).tolist() == [[9, 0], [5, 0], [2, 0], [16, 0]]
    assert attention_segments(np.array([[0, 0], [0, 1]]), None).tolist() == [[2, 0], [1, 0], [1, 0]]


def test_example_in_the_docstring_of_segments() -> None:
    segments = Segments.of(np.array([[3, 0], [2, 1], [2, 1]]))
    assert segments.query_ends.tolist() == [0, 3, 5, 7]
    assert segments.key_ends.tolist() == [0, 3, 8, 13]
    assert segments.key_index.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6]
    alone = Segments.of(np.array([[3, 0], [4, 0]]))
    assert alone.key_index is None and alone.key_ends.tolist() == alone.query_ends.tolist() == [0, 3, 7]


@pytest.mark.parametrize("form", ["by segment", "varlen"])
@pytest.mark.parametrize("seed", range(6))
def test_segments_give_the_attention_of_the_mask(
    form: str, seed: int, request: pytest.FixtureRequest
) -> None:
    if form == "varlen":
        request.getfixturevalue("on_cuda")
    torch.manual_seed(seed)
    doc_ids, branches = (DOC_IDS, BRANCHES) if seed == 0 else random_rows(seed)
    if seed % 3 == 2:
        branches = np.zeros_like(doc_ids)  # documents alone
    T = doc_ids.shape[1]
    qkv = [torch.randn(2, heads, T, 8, requires_grad=True) for heads in (4, 2, 2)]
    mask = attention_mask(T, 0, torch.from_numpy(doc_ids), torch.from_numpy(branches), torch.device("cpu"))
    segments = Segments.of(attention_segments(doc_ids, branches))

    masked = outputs_and_gradients(qkv, mask, None)
    by_segment = outputs_and_gradients(qkv, None, segments)
    causal = outputs_and_gradients(qkv, None, None)
    for wanted, got, other in zip(masked, by_segment, causal, strict=True):
        assert (got - wanted).abs().max() < 2e-6 * wanted.abs().max()
        assert T < 3 or (other - wanted).abs().max() > 0.02


@pytest.mark.parametrize("form", ["by segment", "varlen"])
def test_the_model_takes_either(
    form: str, tiny: ModelArgs, spread: Callable[[Llama], Llama], request: pytest.FixtureRequest
) -> None:
    if form == "varlen":
        request.getfixturevalue("on_cuda")
    torch.manual_seed(0)
    model = spread(Llama(tiny)).eval()
    tokens = torch.randint(96, (2, 16))  # B T
    doc_ids = torch.from_numpy(DOC_IDS)
    branches = torch.from_numpy(BRANCHES)
    masked = model(tokens, doc_ids, branches=branches)
    by_segment = model(tokens, doc_ids, branches=branches, segments=Segments.of(np.array(SEGMENTS)))
    assert (by_segment - masked).abs().max() < 1e-5 * masked.abs().max()
    assert (model(tokens) - masked).abs().max() > 0.1


def test_no_kernel_gets_a_mask_together_with_grouped_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two together leave only the kernel that keeps all scores, on most CUDA devices."""
    calls = []
    sdpa = F.scaled_dot_product_attention

    def recording(q: Tensor, k: Tensor, v: Tensor, **how: object) -> Tensor:
        calls.append((how["attn_mask"] is not None, how["enable_gqa"], k.shape[1]))
        return sdpa(q, k, v, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    qkv = [torch.randn(2, heads, 16, 8) for heads in (4, 2, 2)]
    mask = attention_mask(16, 0, *map(torch.from_numpy, (DOC_IDS, BRANCHES)), torch.device("cpu"))
    attention(*qkv, mask, None, dropout=0.0)
    attention(*qkv, None, None, dropout=0.0)
    attention(*qkv, None, Segments.of(np.array(SEGMENTS)), dropout=0.0)
    assert calls[0] == (True, False, 4) and calls[1] == (False, True, 2)
    assert {(masked, grouped) for masked, grouped, _ in calls} == {(True, False), (False, True)}

    # On CUDA a mask does not meet cuDNN's kernel.
    def of_mask(*_: object, **__: object) -> None:
        calls.append(torch.backends.cuda.cudnn_sdp_enabled())

    monkeypatch.setattr(F, "scaled_dot_product_attention", of_mask)
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    calls.clear()
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    attention(*qkv, mask, None, dropout=0.1)
    assert calls == [False] and torch.backends.cuda.cudnn_sdp_enabled() == enabled
    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)

    # Where there is no flash attention, grouped heads are repeated without a mask too.
    monkeypatch.setattr(kernels, "has_flash", lambda *_: False)
    calls.clear()
    attention(*qkv, None, None, dropout=0.0)
    assert calls == [(False, False, 4)]


class Card:
    """What torch says of a CUDA device."""

    def __init__(self, major: int):
        self.major = major


@pytest.mark.parametrize(
    ("major", "dtype", "dropout", "head_dim", "form"),
    [
        (8, torch.bfloat16, 0.0, 64, "varlen"),
        (9, torch.float16, 0.0, 128, "varlen"),
        (7, torch.float16, 0.0, 64, "mask"),  # T4, V100: no flash attention
        (9, torch.float32, 0.0, 64, "mask"),
        (9, torch.bfloat16, 0.1, 64, "mask"),
        (9, torch.bfloat16, 0.0, 20, "mask"),
        (9, torch.bfloat16, 0.0, 512, "mask"),
    ],
)
def test_form_on_cuda(
    major: int,
    dtype: torch.dtype,
    dropout: float,
    head_dim: int,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card(major))
    cuda = torch.device("cuda:0")
    assert form_of_attention(cuda, dtype, head_dim, dropout, packed=True) == form
    assert form_of_attention(cuda, dtype, head_dim, dropout, packed=False) == "causal"


def test_form_elsewhere() -> None:
    for dropout in (0.0, 0.1):
        assert form_of_attention(torch.device("cpu"), torch.float32, 20, dropout, True) == "by segment"
        assert form_of_attention(torch.device("mps"), torch.float32, 64, dropout, True) == "mask"
