"""Decoding, from logits to token ids: penalties, filters, sampling, the cached decoding loop, beam search.

Everything here works on ids; text, and the stop strings in it, are in chat.py.
Shapes: B rows (prompts or beams), T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generation.cpu_decoder import CPUDecoder, build_cpu_decoder
from model import KVCache, Llama
from runtime.distributed import DistributedEnv
from runtime.errors import RunError


@dataclass(frozen=True)
class SamplingParams:
    """Rules for choosing a token, named like the settings in ModelArgs.

    The defaults change nothing: tokens are drawn from the model's own distribution.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    num_beams: int = 1
    seed: int | None = None


UNCHANGED = SamplingParams()
GREEDY = SamplingParams(temperature=0.0)
DIVERGED = "the model's logits are not finite: its weights diverged in training, use an earlier checkpoint"
NOT_FINITE = -1  # in place of a token, where the model's logits are not finite


# ---- one token: penalties, filters, the draw


def penalize_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Return logits (B, V) with those of tokens among ids (B, T) made smaller (arXiv 1909.05858).

    Positive logits are divided by the penalty, negative ones multiplied by it.
    """
    seen = logits.gather(1, ids)  # B T
    penalized = torch.where(seen < 0, seen * penalty, seen / penalty)
    return logits.scatter(1, ids, penalized)


def penalize_frequency(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Return logits (B, V) less the penalty for each time a token is among ids (B, T), as in OpenAI's API."""
    return logits.scatter_add(1, ids, torch.full_like(ids, -penalty, dtype=logits.dtype))


def penalize(logits: Tensor, tokens: Tensor, prompt_length: int, params: SamplingParams) -> Tensor:
    """Return logits (B, V) after both penalties.

    The repetition penalty counts all tokens (B, T), the frequency penalty those after the prompt.
    """
    if params.repetition_penalty != 1:
        logits = penalize_repetition(logits, tokens, params.repetition_penalty)
    if params.frequency_penalty:
        logits = penalize_frequency(logits, tokens[:, prompt_length:], params.frequency_penalty)
    return logits


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Return logits (B, V) with -inf outside the k highest of each row."""
    lowest_kept = logits.topk(k).values[:, -1:]  # B 1
    return logits.masked_fill(logits < lowest_kept, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Return logits (B, V) with -inf outside the fewest tokens that hold probability p (arXiv 1904.09751)."""
    sorted_logits, order = logits.sort(descending=True)
    probabilities = sorted_logits.softmax(-1)

    # The first token has nothing before it and is always kept, also where p rounds to 0 in float32.
    probability_before = probabilities.cumsum(-1) - probabilities
    dropped = (probability_before >= p) & (probability_before > 0)
    kept = sorted_logits.masked_fill(dropped, -torch.inf)
    return logits.scatter(1, order, kept)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Return logits (B, V) with -inf below p times the highest probability of the row (arXiv 2407.01082)."""
    probabilities = logits.softmax(-1)
    threshold = p * probabilities.amax(-1, keepdim=True)  # B 1
    return logits.masked_fill(probabilities < threshold, -torch.inf)


def filter_logits(logits: Tensor, params: SamplingParams) -> Tensor:
    """Return logits (B, V) at the temperature, with -inf outside top-k, then top-p, then min-p."""
    logits = logits / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p < 1:
        logits = keep_top_p(logits, params.top_p)
    if params.min_p:
        logits = keep_min_p(logits, params.min_p)
    return logits


def sample(logits: Tensor, params: SamplingParams, generators: Sequence[torch.Generator | None]) -> Tensor:
    """Draw a token (B,) from logits (B, V), each row with its own generator; temperature 0 takes the best.

    It is NOT_FINITE where one of the logits is: to raise an error here, the host would have to wait for a GPU.
    """
    finite = logits.isfinite().all(-1)  # B
    if params.temperature == 0:
        return logits.argmax(-1).where(finite, NOT_FINITE)

    probabilities = filter_logits(logits, params).softmax(-1)
    finite &= probabilities.isfinite().all(-1)  # huge logits overflow at a low temperature
    probabilities = probabilities.where(finite[:, None], 1.0)

    draws = []
    for row, generator in zip(probabilities.unbind(), generators, strict=True):
        draws.append(torch.multinomial(row, 1, generator=generator))
    return torch.cat(draws).where(finite, NOT_FINITE)


# ---- many tokens


def move_for_generation(model: Llama, env: DistributedEnv) -> None:
    """Move a model to its device in place; on CUDA its matrices get env.dtype, so that no token has to cast them."""
    model.to(env.device)
    if env.device.type != "cuda":
        return
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data = weight.data.to(env.dtype)


def generate(
    model: Llama,
    ids: list[int],
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    params: SamplingParams = UNCHANGED,
) -> Iterator[int]:
    """Yield tokens after the prompt, until one of stop_ids (not yielded), max_new_tokens or the end of the context.

    A beam search runs to its end before the first token is yielded.

    Raises ValueError for a prompt that is empty, leaves no room in the context or holds an id that is no token,
    RunError where logits are not finite.
    """
    if params.num_beams > 1:
        yield from beam_search(model, ids, max_new_tokens, stop_ids, params)
        return

    for row in generate_batch(model, [ids], max_new_tokens, stop_ids, params):
        yield row[0]


@torch.inference_mode()
def generate_batch(
    model: Llama,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    params: SamplingParams = UNCHANGED,
) -> Iterator[list[int | None]]:
    """Yield the next token of all prompts, None for one that has reached one of stop_ids; otherwise like generate.

    Row n draws with seed + n, so its text does not depend on its neighbours. The longest prompt ends all of
    them at the end of the context.

    Raises RunError where logits are not finite.
    """
    prompt_length = max(len(ids) for ids in prompts)
    max_new_tokens = _max_new_tokens(model, prompts, max_new_tokens)
    device = model.lm_head.weight.device

    tokens, doc_ids = _pad_left(prompts, max_new_tokens, device)
    generators = _generators(params.seed, len(prompts), device)
    cache = model.new_cache(len(prompts), prompt_length + max_new_tokens)
    cpu_decoder = build_cpu_decoder(model, len(prompts))
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)

    for _ in range(max_new_tokens):
        logits = _next_logits(model, tokens, cache, doc_ids, cpu_decoder)  # B V
        logits = penalize(logits, tokens, prompt_length, params)
        next_tokens = sample(logits, params, generators)  # B

        for stop_id in stop_ids:
            ended |= next_tokens == stop_id

        # The host waits for the device here alone: one transfer for all rows.
        chosen, has_ended = torch.stack((next_tokens, ended.long())).tolist()
        if NOT_FINITE in chosen:
            raise RunError(DIVERGED)
        if all(has_ended):
            return

        # A row that has ended continues, unseen, until the others have.
        yield [None if done else token for token, done in zip(chosen, has_ended, strict=True)]
        tokens = torch.cat((tokens, next_tokens[:, None]), dim=1)  # B T+1


@torch.inference_mode()
def beam_search(
    model: Llama, ids: list[int], max_new_tokens: int, stop_ids: Sequence[int], params: SamplingParams
) -> list[int]:
    """Return the token ids of the finished beam with the highest log-probability per token (EOS counted).

    Equals transformers' beam search with length_penalty=1, early_stopping=False; tested token by token.
    Temperature and filters are not used.
    """
    max_new_tokens = _max_new_tokens(model, [ids], max_new_tokens)
    num_beams = params.num_beams

    tokens = torch.tensor([ids], device=model.lm_head.weight.device)  # beams T, one beam at first
    scores = torch.zeros(1, device=tokens.device)  # beams, the sum of log-probabilities
    cache = model.new_cache(1, len(ids) + max_new_tokens)
    finished: list[tuple[float, list[int]]] = []  # the best so far, best first

    for length in range(1, max_new_tokens + 1):
        logits = _next_logits(model, tokens, cache)  # beams V
        if not logits.isfinite().all():
            raise RunError(DIVERGED)
        logps = penalize(logits.log_softmax(-1), tokens, len(ids), params)  # beams V

        # Twice as many candidates as beams: enough to continue with if half of them end here.
        totals = (scores[:, None] + logps).flatten()  # beams * V
        scores, candidates = totals.topk(min(2 * num_beams, len(totals)))
        beams = candidates // logps.shape[-1]
        next_tokens = candidates % logps.shape[-1]
        tokens = torch.cat((tokens[beams], next_tokens[:, None]), dim=1)  # candidates T+1

        stopped = torch.zeros_like(next_tokens, dtype=torch.bool)
        for stop_id in stop_ids:
            stopped |= next_tokens == stop_id
        ends = stopped
        if length == max_new_tokens:
            ends = torch.ones_like(stopped)

        # A candidate that ends counts only among the num_beams best, as in transformers.
        for n in ends[:num_beams].nonzero().flatten().tolist():
            output_ids = tokens[n, len(ids) :].tolist()
            if stopped[n]:
                output_ids.pop()
            finished.append((scores[n].item() / length, output_ids))
        finished = sorted(finished, key=lambda beam: -beam[0])[:num_beams]

        open_beams = (~ends).nonzero().flatten()[:num_beams]
        tokens = tokens[open_beams]
        scores = scores[open_beams]
        if not len(open_beams):
            break
        best_open_score = scores[0].item() / length
        if len(finished) == num_beams and best_open_score <= finished[-1][0]:
            break
        cache.select(beams[open_beams])

    return finished[0][1]


def _max_new_tokens(model: Llama, prompts: Sequence[list[int]], max_new_tokens: int) -> int:
    """Return how many tokens fit after the prompts, at most max_new_tokens.

    Raises ValueError where a prompt is empty or holds an id that is no token, or no token fits.
    """
    longest = max(len(ids) for ids in prompts)
    context = model.args.block_size
    vocab_size = model.args.vocab_size
    if not all(prompts):
        raise ValueError("the prompt is empty")
    for token in (token for ids in prompts for token in ids):
        if not 0 <= token < vocab_size:
            raise ValueError(f"token {token} is not in the vocabulary of {vocab_size} tokens")
    if longest >= context:
        raise ValueError(f"a prompt of {longest} tokens does not fit a context of {context} tokens")
    return min(max_new_tokens, context - longest)


def _pad_left(
    prompts: Sequence[list[int]], max_new_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return prompts as one tensor (B, T) and the documents (B, T + max_new_tokens) that hide the padding.

    Shorter prompts are padded on the left with their own first token, which then adds to no repetition
    penalty. The padding is document 0, which document 1 does not attend to. Positions are relative, so they
    need no correction. The second result is None where no prompt is padded.
    """
    longest = max(len(ids) for ids in prompts)
    rows = []
    doc_ids = []
    for ids in prompts:
        padding = longest - len(ids)
        rows.append(ids[:1] * padding + ids)
        doc_ids.append([0] * padding + [1] * (len(ids) + max_new_tokens))

    tokens = torch.tensor(rows, device=device)
    if all(len(ids) == longest for ids in prompts):
        return tokens, None
    return tokens, torch.tensor(doc_ids, device=device)


def _generators(seed: int | None, rows: int, device: torch.device) -> list[torch.Generator | None]:
    """Return a random generator for each row, with seed + row; without a seed, None: torch's global one."""
    if seed is None:
        return [None] * rows
    return [torch.Generator(device).manual_seed(seed + row) for row in range(rows)]


def _next_logits(
    model: Llama,
    tokens: Tensor,
    cache: KVCache,
    doc_ids: Tensor | None = None,
    cpu_decoder: CPUDecoder | None = None,
) -> Tensor:
    """Return logits (B, V) in float32 of the token after tokens (B, T); the cache holds the first of them."""
    new_tokens = tokens.shape[1] - cache.length

    if cpu_decoder and new_tokens == 1:
        cache.length += 1
        return cpu_decoder(int(tokens[0, -1]), cache.length - 1, cache.keys, cache.values)

    if doc_ids is not None:
        doc_ids = doc_ids[:, : tokens.shape[1]]
    hidden = model(tokens[:, cache.length :], doc_ids, cache, return_hidden=True)  # B new C
    return model.lm_head(hidden[:, -1]).float()  # the head for the last token alone
