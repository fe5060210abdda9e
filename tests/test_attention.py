"""Attention in runs is attention under the mask: outputs, gradients, and what attention_segments makes of rows."""

from collections.abc import Callable

import numpy as np
import torch

from config import ModelArgs
from dataloader.batch import attention_segments
from model import Llama, attention, attention_mask

# Two rows of packed pairs: with a shared part, without one, and what fills the row; then one document alone.
DOC_IDS = np.array([[0] * 9 + [1] * 5 + [2] * 2, [0] * 16])
BRANCHES = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2] + [1, 1, 2, 2, 2] + [0, 0], [0] * 16])
RUNS = [[3, 0], [4, 1], [2, 1], [2, 0], [3, 0], [2, 0], [16, 0]]


def test_find_runs() -> None:
    assert attention_segments(DOC_IDS, BRANCHES).tolist() == RUNS
    assert attention_segments(DOC_IDS, None).tolist() == [[9, 0], [5, 0], [2, 0], [16, 0]]
    assert attention_segments(np.array([[0, 0], [0, 1]]), None).tolist() == [[2, 0], [1, 0], [1, 0]]


def test_runs_are_the_mask() -> None:
    torch.manual_seed(0)
    qkv = [torch.randn(2, heads, 16, 8, requires_grad=True) for heads in (4, 2, 2)]
    mask = attention_mask(16, 0, *map(torch.from_numpy, (DOC_IDS, BRANCHES)), torch.device("cpu"))
    weight = torch.randn(2, 4, 16, 8)
    results = []
    for seen in ((mask, None), (None, torch.tensor(RUNS)), (None, None)):
        out = attention(*qkv, *seen, dropout=0.0)
        results.append([out, *torch.autograd.grad((out * weight).sum(), qkv)])
    for masked, in_runs, causal in zip(*results, strict=True):
        torch.testing.assert_close(in_runs, masked, rtol=0, atol=2e-6)
        assert (causal - masked).abs().max() > 0.1


def test_the_model_takes_either(tiny: ModelArgs, spread: Callable[[Llama], Llama]) -> None:
    torch.manual_seed(0)
    model = spread(Llama(tiny)).eval()
    tokens, doc_ids, branches = (
        torch.randint(96, (2, 16)),
        torch.from_numpy(DOC_IDS),
        torch.from_numpy(BRANCHES),
    )
    masked = model(tokens, doc_ids, branches=branches)
    torch.testing.assert_close(
        model(tokens, doc_ids, branches=branches, segments=torch.tensor(RUNS)), masked, rtol=0, atol=1e-5
    )
    assert (model(tokens) - masked).abs().max() > 0.1
