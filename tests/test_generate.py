"""Decoding against transformers, sampling against the exact distribution, and where it ends."""

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor

from checkpoint import hf_config
from config import ModelArgs
from generate import filter_logits, generate, sample
from model import Llama

PROMPT = [5, 17, 3, 80]


@pytest.fixture
def model(tiny: ModelArgs, spread: Callable[[Llama], Llama]) -> Llama:
    torch.manual_seed(0)
    return spread(Llama(tiny.replace(block_size=80, tie_embeddings=False))).eval()


def test_greedy_equals_transformers(model: Llama) -> None:
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(model.args, eos_id=0))).eval()
    theirs.load_state_dict(model.state_dict())
    expected = theirs.generate(torch.tensor([PROMPT]), do_sample=False, max_new_tokens=60, min_new_tokens=60,
                               eos_token_id=None, pad_token_id=0, attention_mask=torch.ones(1, 4))[0, 4:].tolist()
    ours = list(generate(model, PROMPT, 60, temperature=0.0))
    assert ours == expected and len(ours) == 60 and len(set(ours)) > 5


def test_top_k_keeps_the_k_most_probable() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [9.0, 1.0, 8.0, 2.0]])
    kept = filter_logits(logits, 1.0, top_k=2).isfinite()
    assert kept.tolist() == [[False, True, False, True], [True, False, True, False]]
    for everything in (0, 4, 99):
        assert torch.equal(filter_logits(logits, 1.0, top_k=everything), logits)
    assert torch.equal(filter_logits(logits, 0.5), logits * 2)


@pytest.mark.parametrize("top_p, kept", [(0.01, 1), (0.45, 1), (0.55, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_hold_p(top_p: float, kept: int) -> None:
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    order = [1, 3, 0, 2]
    assert filter_logits(logits, 1.0, top_p=top_p).isfinite()[0].nonzero().flatten().tolist() == sorted(order[:kept])


def test_top_p_measures_what_temperature_and_top_k_leave() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert filter_logits(logits, 1.0, top_p=0.5).isfinite().sum() == 2
    assert filter_logits(logits, 1.0, top_k=2, top_p=0.5).isfinite().sum() == 1  # 0.4 of 0.7
    assert filter_logits(logits, 0.2, top_p=0.5).isfinite().sum() == 1  # sharper: 0.4 becomes 0.78


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.8},
                                     {"temperature": 1.5, "top_k": 9, "top_p": 0.9}], ids=str)
def test_samples_follow_the_exact_distribution(options: dict) -> None:
    options = {"temperature": 1.0, **options}
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(1)) * 1.5
    probabilities = exact_distribution(logits[0], **options)
    tokens = sample(logits.expand(20_000, -1), torch.Generator().manual_seed(2), **options)
    counts = torch.bincount(tokens, minlength=12).double()
    possible = probabilities > 0
    assert counts[~possible].sum() == 0 and (counts[possible] > 0).all()
    chi_square = ((counts - 20_000 * probabilities) ** 2 / (20_000 * probabilities))[possible].sum().item()
    freedom = int(possible.sum()) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def exact_distribution(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """The same rules, written plainly: the tokens from the most probable on, while there is room."""
    weights = (logits.double() / temperature).exp()
    order = weights.argsort(descending=True).tolist()[:top_k or None]
    total, kept = sum(weights[i].item() for i in order), 0.0
    result = torch.zeros(len(logits), dtype=torch.float64)
    for i in order:
        if kept >= top_p * total:
            break
        kept += weights[i].item()
        result[i] = weights[i]
    return result / result.sum()


def test_generate_samples_from_the_models_distribution(model: Llama) -> None:
    with torch.no_grad():
        expected = exact_distribution(model(torch.tensor([PROMPT]))[0, -1], temperature=1.0, top_k=3)
    counts = torch.zeros(96)
    for seed in range(600):
        counts[next(generate(model, PROMPT, 1, temperature=1.0, top_k=3, seed=seed))] += 1
    likely = expected > 0
    assert likely.sum() == 3 and counts[~likely].sum() == 0
    chi_square = ((counts - 600 * expected) ** 2 / (600 * expected))[likely].sum()
    assert chi_square < 14  # 0.1 % of fair draws exceed it


def test_temperature_zero_is_the_most_probable() -> None:
    assert sample(torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, -1.0]]), None, 0.0).tolist() == [1, 0]


def test_the_seed_names_the_text(model: Llama) -> None:
    def text(seed: int | None) -> list[int]:
        return list(generate(model, PROMPT, 20, temperature=1.0, seed=seed))

    before = torch.get_rng_state()
    assert text(1) == text(1) != text(2)
    assert torch.equal(before, torch.get_rng_state())  # the run's own generator does not move
    assert text(None) != text(None)


def test_the_stop_token_ends_and_is_not_yielded(model: Llama) -> None:
    whole = list(generate(model, PROMPT, 40, temperature=0.0))
    stop = whole[7]
    first = whole.index(stop)
    assert list(generate(model, PROMPT, 40, stop, temperature=0.0)) == whole[:first] and 0 < first < 40
    absent = next(token for token in range(96) if token not in whole)
    assert list(generate(model, PROMPT, 40, absent, temperature=0.0)) == whole


def test_no_more_than_asked_for_and_never_past_the_context(model: Llama) -> None:
    for asked, room in ((0, 76), (1, 76), (5, 76), (75, 76), (76, 76), (1000, 76)):
        assert len(list(generate(model, PROMPT, asked, temperature=0.0))) == min(asked, room)
    assert len(list(generate(model, [7] * 79, 10, temperature=0.0))) == 1
    longest = list(generate(model, PROMPT, 76, temperature=0.0))
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *longest]]))[0]
    assert [int(row.argmax()) for row in logits[3:-1]] == longest  # right up to the last place


@pytest.mark.parametrize("ids, said", [([], "empty"), ([1] * 80, "80 tokens .* 80 tokens"), ([1] * 200, "200 tokens")])
def test_a_prompt_that_does_not_fit_raises(model: Llama, ids: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        next(generate(model, ids, 5))


def test_tokens_come_one_at_a_time(model: Llama) -> None:
    lengths = []
    model.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    stream = generate(model, PROMPT, 5, temperature=0.0)
    assert lengths == []
    next(stream)
    assert lengths == [4]
    list(stream)
    assert lengths == [4, 1, 1, 1, 1]  # the cache holds the rest, and no step is made for nothing
