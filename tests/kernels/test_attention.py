"""Attention by segments against attention under the mask: outputs, gradients; the segments of rows."""

from collections.abc import Callable

import numpy as np
import torch

from config import ModelArgs
from dataloader.batch import attention_segments
from kernels.attention import attention, attention_mask
from model import Llama

# Rows: two packed pairs, one with a shared prompt and one without, then padding; and one document alone.
DOC_IDS = np.array([[0] * 9 + [1] * 5 + [2] * 2, [0] * 16])
BRANCHES = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2] + [1, 1, 2, 2, 2] + [0, 0], [0] * 16])
SEGMENTS = [[3, 0], [4, 1], [2, 1], [2, 0], [3, 0], [2, 0], [16, 0]]


def test_segments_of_rows() -> None:
    assert attention_segments(DOC_IDS, BRANCHES).tolist() == SEGMENTS
    assert attention_segments(DOC_IDS, None).tolist() == [[9, 0], [5, 0], [2, 0], [16, 0]]
    assert attention_segments(np.array([[0, 0], [0, 1]]), None).tolist() == [[2, 0], [1, 0], [1, 0]]


def test_segments_give_the_attention_of_the_mask() -> None:
    torch.manual_seed(0)
    qkv = [torch.randn(2, heads, 16, 8, requires_grad=True) for heads in (4, 2, 2)]
    mask = attention_mask(16, 0, *map(torch.from_numpy, (DOC_IDS, BRANCHES)), torch.device("cpu"))
    weight = torch.randn(2, 4, 16, 8)
    results = []
    for mask_and_segments in ((mask, None), (None, torch.tensor(SEGMENTS)), (None, None)):
        out = attention(*qkv, *mask_and_segments, dropout=0.0)
        results.append([out, *torch.autograd.grad((out * weight).sum(), qkv)])
    for masked, by_segment, causal in zip(*results, strict=True):
        assert (by_segment - masked).abs().max() < 2e-6 * masked.abs().max()
        assert (causal - masked).abs().max() > 0.1


def test_the_model_takes_either(tiny: ModelArgs, spread: Callable[[Llama], Llama]) -> None:
    torch.manual_seed(0)
    model = spread(Llama(tiny)).eval()
    tokens = torch.randint(96, (2, 16))  # B T
    doc_ids = torch.from_numpy(DOC_IDS)
    branches = torch.from_numpy(BRANCHES)
    masked = model(tokens, doc_ids, branches=branches)
    by_segment = model(tokens, doc_ids, branches=branches, segments=torch.tensor(SEGMENTS))
    assert (by_segment - masked).abs().max() < 1e-5 * masked.abs().max()
    assert (model(tokens) - masked).abs().max() > 0.1
