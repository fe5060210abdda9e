"""Llama against transformers' own; properties of attention, positions, packing, cache and dropout."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from checkpoint import hf_config
from config import ModelArgs
from model import Llama, apply_rope, count_parameters, flops_per_token, rope_frequencies, rope_table

# Llama 3.2's, with a context of a few tokens: one pair is kept, some are blended, the rest are divided.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS = {
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 100.0, "head_dim": 12},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "mha": {"no_kv_heads": 4},
    "gqa": {"no_kv_heads": 2},
    "mqa": {"no_kv_heads": 1},
    "head_dim": {"head_dim": 20},
    "untied": {"tie_embeddings": False},
    "other numbers": {"eps": 1e-2, "rope_theta": 500.0, "no_of_decoder_layers": 3},
}
Spread = Callable[[Llama], Llama]


@pytest.fixture
def model(tiny: ModelArgs, spread: Spread) -> Llama:
    torch.manual_seed(0)
    return spread(Llama(tiny)).eval()


def random_tokens(args: ModelArgs, B: int, T: int) -> Tensor:
    return torch.randint(args.vocab_size, (B, T), generator=torch.Generator().manual_seed(B * T))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_logits_equal_those_of_transformers(tiny: ModelArgs, spread: Spread, changes: dict) -> None:
    args = tiny.replace(**changes)
    torch.manual_seed(0)
    ours = spread(Llama(args)).eval()
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(args, eos_id=0))).eval()
    reference.load_state_dict(ours.state_dict())  # every name and shape is the same
    tokens = random_tokens(args, 3, args.block_size)
    with torch.no_grad():
        expected, logits = reference(tokens).logits, ours(tokens)
    assert logits.shape == (3, args.block_size, args.vocab_size) and expected.std() > 0.5
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert count_parameters(args) == sum(p.numel() for p in ours.parameters()) == reference.num_parameters()


def test_rope_is_relative_and_not_trivial() -> None:
    cos, sin = rope_table(ModelArgs(block_size=64, head_dim=16))
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16)

    def score(query: int, key: int) -> float:
        rotated_q = apply_rope(q, cos[query], sin[query])
        rotated_k = apply_rope(k, cos[key], sin[key])
        return (rotated_q * rotated_k).sum().item()

    size = (q.norm() * k.norm()).item()
    for distance in (0, 1, 7, 30):
        assert score(distance, 0) == pytest.approx(score(33 + distance, 33), abs=1e-6 * size)
    scores = torch.tensor([score(distance, 0) for distance in range(8)])
    assert scores.std() > 0.1  # the original project's rotation was the same everywhere
    assert score(0, 0) == pytest.approx((q * k).sum().item(), abs=2e-7 * size)


def test_llama3_divides_long_wavelengths_only(tiny: ModelArgs) -> None:
    plain = tiny.replace(head_dim=12, rope_theta=100.0)
    ratios = rope_frequencies(plain) / rope_frequencies(plain.replace(rope_scaling=LLAMA3))
    assert ratios[0] == 1 < ratios[1] < ratios[2] < 8
    assert ratios[3:].tolist() == [8, 8, 8]


def test_order_of_the_tokens_matters(model: Llama) -> None:
    tokens = random_tokens(model.args, 1, 16)
    swapped = tokens[:, [1, 0, *range(2, 16)]]
    assert (model(tokens)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-2


def test_future_tokens_change_nothing(model: Llama) -> None:
    tokens = random_tokens(model.args, 2, 32)
    changed = tokens.clone()
    changed[:, 20:] = (tokens[:, 20:] + 1) % model.args.vocab_size
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert (before[:, 20:] - after[:, 20:]).abs().max() > 1e-2


def test_packed_documents_equal_separate_ones(model: Llama) -> None:
    tokens, lengths = random_tokens(model.args, 2, 32), (5, 1, 17, 9)
    doc_ids = torch.arange(4).repeat_interleave(torch.tensor(lengths)).expand(2, -1)
    packed, mixed = model(tokens, doc_ids), model(tokens)
    separate = torch.cat([model(part) for part in tokens.split(lengths, dim=1)], dim=1)
    assert (packed - separate).abs().max() < 1e-5 * separate.abs().max()
    assert (mixed - separate)[:, 5:].abs().max() > 1e-2  # without doc_ids they would differ


@pytest.mark.parametrize("chunks", [(1,) * 32, (7, 1, 1, 11, 12), (31, 1), (1, 31)], ids=str)
def test_cached_decoding_equals_uncached(model: Llama, chunks: tuple[int, ...]) -> None:
    tokens = random_tokens(model.args, 2, 32)
    cache = model.new_cache(2, 32)
    pieces = []
    for chunk in tokens.split(chunks, dim=1):
        pieces.append(model(chunk, cache=cache))
    expected = model(tokens)
    assert cache.length == 32
    assert (torch.cat(pieces, dim=1) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_past_the_context_raises(model: Llama) -> None:
    with pytest.raises(ValueError, match="33 .* 32"):
        model(random_tokens(model.args, 1, 33))
    cache = model.new_cache(1, 64)
    model(random_tokens(model.args, 1, 30), cache=cache)
    with pytest.raises(ValueError, match="33 .* 32"):
        model(random_tokens(model.args, 1, 3), cache=cache)


@pytest.mark.parametrize("name", ["dropout", "attn_dropout"])
def test_dropout_is_for_training_only(tiny: ModelArgs, spread: Spread, name: str) -> None:
    model, tokens = spread(Llama(tiny.replace(**{name: 0.3}))), random_tokens(tiny, 1, 16)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
    still = Llama(tiny)  # dropout 0: training differs in nothing
    assert torch.equal(still(tokens), still(tokens))


def test_dropout_is_on_the_embedding_and_on_each_branch(tiny: ModelArgs) -> None:
    model, dropped = Llama(tiny.replace(dropout=0.3)), []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(
                lambda module, inputs, out: dropped.append((out == 0).float().mean().item())
            )
    model(random_tokens(tiny, 4, 32))
    assert dropped == pytest.approx([0.3] * (1 + 2 * tiny.no_of_decoder_layers), abs=0.05)


def test_models_do_not_influence_each_other(tiny: ModelArgs, model: Llama) -> None:
    tokens = random_tokens(tiny, 1, 16)
    before = model(tokens)
    other = Llama(
        tiny.replace(no_kv_heads=4, head_dim=4, eps=0.5, rope_theta=3.0, block_size=16, dropout=0.9)
    )
    assert other.train()(tokens).shape == before.shape
    assert torch.equal(model(tokens), before)
    assert model.cos.shape == (32, 8) and other.cos.shape == (16, 4)


def test_a_new_model_gives_uniform_probabilities(tiny: ModelArgs) -> None:
    torch.manual_seed(0)
    args = tiny.replace(vocab_size=1024, embeddings_dims=64, hidden_dims=None)
    model, tokens = Llama(args), random_tokens(args, 8, 32)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(1024), abs=0.05)
    deviations = {name: weight.std().item() for name, weight in model.named_parameters() if weight.dim() == 2}
    for name, deviation in deviations.items():
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        assert deviation == pytest.approx(0.01 if residual else 0.02, rel=0.1), name


def test_hidden_states_are_those_before_the_head(model: Llama) -> None:
    tokens = random_tokens(model.args, 2, 8)
    hidden = model(tokens, return_hidden=True)
    assert hidden.shape == (2, 8, 32)
    assert torch.equal(F.linear(hidden, model.lm_head.weight), model(tokens))


def test_flops_are_those_of_the_matrices(tiny: ModelArgs) -> None:
    for args in (tiny, tiny.replace(tie_embeddings=False)):
        model = Llama(args)
        matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
        square = args.block_size * args.no_of_heads * args.head_dim * args.no_of_decoder_layers
        # Forward 2 per weight; scores and values 2 * square each, of which the causal half is done; backward
        # is twice the forward.
        assert flops_per_token(args) == 3 * (2 * matrices + (2 + 2) * square / 2)
