"""Decoding against transformers, sampling against the exact distribution, batches against single prompts."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from checkpoint import hf_config
from config import ModelArgs, resolve
from generation.chat import sampling_params
from generation.cpu_decoder import quantize
from generation.generate import (
    GREEDY,
    NOT_FINITE,
    UNCHANGED,
    SamplingParams,
    filter_logits,
    generate,
    generate_batch,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    move_for_generation,
    penalize_frequency,
    penalize_repetition,
    sample,
)
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.errors import RunError

PROMPT = [5, 17, 3, 80]
CHECKPOINTS = {
    "gqa": {},
    "mha": {"no_kv_heads": 4},
    "mqa, untied": {"no_kv_heads": 1, "tie_embeddings": False},
}


@pytest.fixture
def model(tiny: ModelArgs, spread: Callable[[Llama], Llama]) -> Llama:
    torch.manual_seed(0)
    return spread(Llama(tiny.replace(block_size=80, tie_embeddings=False))).eval()


@pytest.fixture(params=CHECKPOINTS.values(), ids=CHECKPOINTS, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[Llama, transformers.LlamaForCausalLM]:
    """Return a model with random weights whose texts vary, and transformers' with the same weights."""
    args = ModelArgs(
        embeddings_dims=32,
        no_of_decoder_layers=2,
        no_of_heads=4,
        hidden_dims=48,
        vocab_size=96,
        block_size=256,
        dropout=0.0,
        attn_dropout=0.0,
        **request.param,
    )
    torch.manual_seed(len(request.param))
    ours = Llama(args).eval()
    with torch.no_grad():
        for weight in ours.parameters():
            weight.mul_(16 if weight.dim() == 2 else 1)
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(args, eos_id=0))).eval()
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def transformers_generate(
    reference: transformers.LlamaForCausalLM, count: int, eos: int | None = None, **options
) -> list[int]:
    """Return what transformers generates after PROMPT, up to its end-of-text token."""
    output = reference.generate(
        torch.tensor([PROMPT]),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=eos,
        pad_token_id=0,
        attention_mask=torch.ones(1, len(PROMPT)),
        **options,
    )[0, len(PROMPT) :]
    return list(itertools.takewhile(lambda token: token != eos, output.tolist()))


@pytest.mark.parametrize(
    "options",
    [{}, {"repetition_penalty": 1.3}, {"num_beams": 4}, {"num_beams": 3, "repetition_penalty": 1.2}],
    ids=str,
)
def test_200_tokens_are_those_of_transformers(pair: tuple, options: dict) -> None:
    ours, reference = pair
    text = list(generate(ours, PROMPT, 200, params=SamplingParams(temperature=0.0, **options)))
    assert text == transformers_generate(reference, 200, **options)
    assert len(text) == 200 and len(set(text)) > 2


def test_generation_ends_where_transformers_ends_it(pair: tuple) -> None:
    ours, reference = pair
    lengths = set()
    for num_beams in (1, 2, 5):
        params = SamplingParams(temperature=0.0, num_beams=num_beams)
        generated = sorted(set(generate(ours, PROMPT, 40, params=params)))
        for eos in (*generated[:3], 0):
            text = list(generate(ours, PROMPT, 40, [eos], params))
            assert text == transformers_generate(reference, 40, eos, num_beams=num_beams), (num_beams, eos)
            lengths.add(len(text))
    assert len(lengths) > 3  # some stop early


def test_beam_search_finds_a_likelier_text_than_greedy() -> None:
    class Fork(Llama):
        """Model in which token 1 is likelier than 2 at first, but the token after 2 is certain."""

        after = torch.tensor([[0.0, 0.6, 0.4, 0.0], [0.4, 0.3, 0.3, 0.0], [0.0, 0.0, 0.0, 1.0], [0.25] * 4])

        def forward(self, tokens: Tensor, doc_ids: None, cache: object, return_hidden: bool) -> Tensor:
            cache.length = tokens.shape[1] + cache.length
            return (self.after[tokens] + 1e-9).log()

    fork = Fork(
        ModelArgs(vocab_size=4, block_size=8, embeddings_dims=4, no_of_heads=2, no_of_decoder_layers=1)
    )
    torch.nn.init.eye_(fork.lm_head.weight)
    assert list(generate(fork, [0], 2, params=GREEDY)) == [1, 0]
    assert list(generate(fork, [0], 2, params=SamplingParams(num_beams=2))) == [2, 3]


def processed(processor: LogitsProcessor, logits: Tensor, ids: Tensor | None = None) -> Tensor:
    return processor(ids, logits.clone())


def test_filters_and_penalties_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(6, 50) * 3, torch.randint(50, (6, 30))
    changed = 0
    for k, p in itertools.product((1, 7, 49), (0.05, 0.3, 0.9)):
        for ours, reference in (
            (keep_top_k(logits, k), TopKLogitsWarper(k)),
            (keep_top_p(logits, p), TopPLogitsWarper(p)),
            (keep_min_p(logits, p), MinPLogitsWarper(p)),
        ):
            assert torch.equal(ours, processed(reference, logits))
            changed += not torch.equal(ours, logits)
    assert changed == 27
    for penalty in (1.0, 0.5, 1.7):
        reference = processed(RepetitionPenaltyLogitsProcessor(penalty), logits, ids)
        assert torch.equal(penalize_repetition(logits, ids, penalty), reference)
        assert torch.equal(reference, logits) == (penalty == 1)


def test_frequency_counts_what_was_generated_each_time() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    penalized = penalize_frequency(logits, torch.tensor([[2, 2, 0], [1, 1, 1]]), 0.5)
    assert penalized.tolist() == [[0.5, 2.0, 2.0], [0.0, -1.5, 0.0]]


def test_penalties_make_the_text_less_repetitive(model: Llama) -> None:
    def most_repeats(**options: float) -> int:
        text = list(generate(model, PROMPT, 70, params=SamplingParams(temperature=0.0, **options)))
        return max(map(text.count, text))

    assert most_repeats() > 2 * most_repeats(frequency_penalty=3.0)
    assert most_repeats() > 2 * most_repeats(repetition_penalty=3.0)


def test_top_k_keeps_the_k_most_probable() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [9.0, 1.0, 8.0, 2.0]])
    kept = filter_logits(logits, SamplingParams(top_k=2)).isfinite()
    assert kept.tolist() == [[False, True, False, True], [True, False, True, False]]
    for everything in (0, 4, 99):
        assert torch.equal(filter_logits(logits, SamplingParams(top_k=everything)), logits)
    assert torch.equal(filter_logits(logits, SamplingParams(temperature=0.5)), logits * 2)


@pytest.mark.parametrize(
    "top_p, kept", [(0.01, 1), (0.45, 1), (0.55, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)]
)
def test_top_p_keeps_the_fewest_that_hold_p(top_p: float, kept: int) -> None:
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3]]).log()
    order = [1, 3, 0, 2]
    kept_tokens = filter_logits(logits, SamplingParams(top_p=top_p)).isfinite()[0].nonzero().flatten()
    assert kept_tokens.tolist() == sorted(order[:kept])


def test_a_filter_works_on_what_earlier_filters_keep() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def kept(**options: float) -> int:
        return int(filter_logits(logits, SamplingParams(**options)).isfinite().sum())

    assert kept(top_p=0.5) == 2
    assert kept(top_k=2, top_p=0.5) == 1  # 0.4 of 0.7
    assert kept(temperature=0.2, top_p=0.5) == 1  # sharper: 0.4 becomes 0.78
    assert kept(min_p=0.6) == 2 and kept(temperature=0.2, min_p=0.6) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_samples_follow_the_exact_distribution(options: dict) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(1)) * 1.5
    probabilities = exact_distribution(logits[0], **options)
    tokens = sample(
        logits.expand(20_000, -1), SamplingParams(**options), [torch.Generator().manual_seed(2)] * 20_000
    )
    counts = torch.bincount(tokens, minlength=12).double()
    possible = probabilities > 0
    assert counts[~possible].sum() == 0 and (counts[possible] > 0).all()
    chi_square = ((counts - 20_000 * probabilities) ** 2 / (20_000 * probabilities))[possible].sum().item()
    freedom = int(possible.sum()) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def exact_distribution(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Return the distribution by the same rules, written plainly: from the most probable token on."""
    weights = (logits.double() / temperature).exp()
    order = weights.argsort(descending=True).tolist()[: top_k or None]
    total, kept = sum(weights[i].item() for i in order), 0.0
    result = torch.zeros(len(logits), dtype=torch.float64)
    for i in order:
        if kept >= top_p * total or weights[i] < min_p * weights.max():
            break
        kept += weights[i].item()
        result[i] = weights[i]
    return result / result.sum()


def test_generate_samples_from_the_models_distribution(model: Llama) -> None:
    with torch.no_grad():
        expected = exact_distribution(model(torch.tensor([PROMPT]))[0, -1], temperature=1.0, top_k=3)
    counts = torch.zeros(96)
    for seed in range(600):
        params = SamplingParams(temperature=1.0, top_k=3, seed=seed)
        counts[next(generate(model, PROMPT, 1, params=params))] += 1
    likely = expected > 0
    assert likely.sum() == 3 and counts[~likely].sum() == 0
    chi_square = ((counts - 600 * expected) ** 2 / (600 * expected))[likely].sum()
    assert chi_square < 14  # 0.1 % of fair draws exceed it


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.0, "repetition_penalty": 1.5, "frequency_penalty": 0.5},
    ],
    ids=str,
)
def test_a_batch_gives_the_texts_of_its_prompts(model: Llama, options: dict) -> None:
    prompts = [PROMPT, [7], [9, 2] * 15, [80, 3, 17, 5, 5, 5, 80]]
    alone = [
        list(generate(model, ids, 40, [11], SamplingParams(seed=3 + row, **options)))
        for row, ids in enumerate(prompts)
    ]
    steps = list(generate_batch(model, prompts, 40, [11], SamplingParams(seed=3, **options)))
    together = [[token for token in column if token is not None] for column in zip(*steps, strict=True)]
    assert together == alone and len(set(map(tuple, alone))) == 4
    assert len(steps) == max(map(len, alone)) and all(
        column.count(None) == len(steps) - len(text)
        for column, text in zip(zip(*steps, strict=True), alone, strict=True)
    )


def test_every_cached_step_gives_the_uncached_choice(model: Llama) -> None:
    ids = list(PROMPT)
    for token in generate(model, PROMPT, 60, params=GREEDY):
        with torch.no_grad():
            assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)
    assert len(ids) == 64


def test_a_model_that_has_diverged_is_reported(tiny: ModelArgs) -> None:
    rows = [[0.0, math.nan, 1.0], [0.0, math.inf, 1.0], [0.0, -math.inf, 1.0], [-99.0, 0.0, -99.0]]
    for params in (UNCHANGED, GREEDY):
        assert sample(torch.tensor(rows), params, [None] * 4).tolist() == [NOT_FINITE] * 3 + [1]
    huge = torch.tensor([[3e38, -3e38]])
    assert sample(huge, SamplingParams(temperature=0.001), [None]).tolist() == [NOT_FINITE]


# torch's attention on a CPU takes NaN among queries and keys for masked; modelfiles/weights.py refuses such weights.
DIVERGED = (
    "model.norm",
    "model.layers.0.input_layernorm",
    "model.layers.1.mlp.down_proj",
    "model.embed_tokens",
)


@pytest.mark.parametrize("name", DIVERGED)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_weights_that_are_not_finite_are_an_error(
    name: str, value: float, int8: bool, model: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = model.get_parameter(f"{name}.weight")
    weight.data[PROMPT[0] if weight.dim() == 2 else 0] = value
    if int8:
        quantize(model)
    for _ in ("cpu_decoder.c where there is a compiler", "torch"):
        for prompt in (PROMPT, PROMPT[:1]):
            for params in (UNCHANGED, GREEDY, SamplingParams(num_beams=2)):
                with pytest.raises(RunError, match="not finite"):
                    list(generate(model, prompt, 3, params=params))
            with pytest.raises(RunError, match="not finite"):
                list(generate_batch(model, [prompt, [7, *prompt]], 3, params=GREEDY))
        monkeypatch.setattr("generation.cpu_decoder.library", lambda: None)


EXTREMES = {
    "temperature": (1e-3, 1e300),
    "top_k": (1, 10**30),
    "top_p": (1e-300, 1.0),
    "min_p": (1e-300, 1.0),
    "repetition_penalty": (0.001, 1000.0),
    "frequency_penalty": (-1000.0, 1000.0),
    "num_beams": (96, 100),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_settings_at_the_ends_of_their_ranges_give_text(model: Llama, name: str) -> None:
    """What is further out is refused by tests/test_config.py."""
    for value in EXTREMES[name]:
        for temperature in (0.0, 0.001, 1.0):
            params = sampling_params(resolve({"temperature": temperature, "top_k": 0, name: value}))
            assert len(list(generate(model, PROMPT, 4, params=params))) == 4
    least = filter_logits(torch.tensor([[0.1, 0.3, 0.2]]), SamplingParams(top_p=1e-300))
    assert least.argmax() == 1 and least.isfinite().sum() == 1


def test_on_cuda_no_token_casts_a_matrix(
    monkeypatch: pytest.MonkeyPatch, env: DistributedEnv, tiny: ModelArgs
) -> None:
    """The matrices and the cache have the precision of products; norms and the residual stream stay in float32."""
    model = Llama(tiny).eval()
    on_cuda = dataclasses.replace(env, device=torch.device("cuda"), dtype=torch.bfloat16)
    monkeypatch.setattr(Llama, "to", lambda *_: None)
    move_for_generation(model, on_cuda)
    dtypes = {weight.dim(): weight.dtype for weight in model.parameters()}
    assert dtypes == {2: torch.bfloat16, 1: torch.float32}
    residuals = []
    model.model["layers"][1].register_forward_pre_hook(lambda _, inputs: residuals.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.new_cache(1, 8).keys.dtype == torch.bfloat16
        assert len(list(generate(model, PROMPT, 3, params=GREEDY))) == 3
    assert set(residuals) == {torch.float32}


def test_temperature_zero_is_the_most_probable() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, -1.0]])
    assert sample(logits, GREEDY, [None, None]).tolist() == [1, 0]


def test_the_seed_decides_the_text(model: Llama) -> None:
    def text(seed: int | None) -> list[int]:
        return list(generate(model, PROMPT, 20, params=SamplingParams(seed=seed)))

    before = torch.get_rng_state()
    assert text(1) == text(1) != text(2)
    assert torch.equal(before, torch.get_rng_state())  # the run's own generator does not move
    assert text(None) != text(None)


def test_the_stop_token_ends_and_is_not_yielded(model: Llama) -> None:
    full = list(generate(model, PROMPT, 40, params=GREEDY))
    stop = full[7]
    first = full.index(stop)
    assert list(generate(model, PROMPT, 40, [stop], GREEDY)) == full[:first] and 0 < first < 40
    absent = next(token for token in range(96) if token not in full)
    assert list(generate(model, PROMPT, 40, [absent], GREEDY)) == full


def test_no_more_than_max_new_tokens_and_never_past_the_context(model: Llama) -> None:
    for max_new_tokens in (0, 1, 5, 75, 76, 1000):
        text = list(generate(model, PROMPT, max_new_tokens, params=GREEDY))
        assert len(text) == min(max_new_tokens, 80 - len(PROMPT))
    assert len(list(generate(model, [7] * 79, 10, params=GREEDY))) == 1
    longest = list(generate(model, PROMPT, 76, params=GREEDY))
    with torch.no_grad():
        logits = model(torch.tensor([[*PROMPT, *longest]]))[0]
    assert [int(row.argmax()) for row in logits[3:-1]] == longest  # up to the last position


@pytest.mark.parametrize(
    "ids, message",
    [
        ([], "empty"),
        ([1] * 80, "80 tokens .* 80 tokens"),
        ([1] * 200, "200 tokens"),
        ([96], "token 96 .* 96 tokens"),
        ([5, -1], "token -1"),
        ([10**12], "token 1000000000000"),
    ],
)
def test_a_prompt_that_does_not_fit_raises(model: Llama, ids: list[int], message: str) -> None:
    for params in (UNCHANGED, SamplingParams(num_beams=2)):
        with pytest.raises(ValueError, match=message):
            next(generate(model, ids, 5, params=params))


def test_tokens_come_one_at_a_time(model: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "generation.generate.build_cpu_decoder", lambda model, batch_size: None
    )  # tests/generation/test_cpu_decoder.py tests that one
    lengths = []
    model.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    stream = generate(model, PROMPT, 5, params=GREEDY)
    assert lengths == []
    next(stream)
    assert lengths == [4]
    list(stream)
    assert lengths == [4, 1, 1, 1, 1]  # the cache holds the others, and no token is computed in vain


@pytest.mark.parametrize("ids", [[5000], [10**8], [-1], [1, 96]], ids=str)
@pytest.mark.parametrize("beams", [1, 2])
def test_a_token_that_the_model_has_not_reads_no_foreign_memory(
    tiny: ModelArgs, ids: list[int], beams: int
) -> None:
    with pytest.raises(ValueError, match="is not in the vocabulary of 96 tokens"):
        list(generate(Llama(tiny).eval(), ids, 3, params=SamplingParams(num_beams=beams)))
