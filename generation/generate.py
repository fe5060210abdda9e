"""From logits to token ids: penalties, filters, sampling, beam search, the cached decoding loop.

All of it knows ids, not text; only `until` reads text, to end it before a stop string.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from config import ModelArgs
from generation.cpu_decoder import Decoder, decoder
from model import KVCache, Llama
from runtime.errors import RunError


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen, by the names that ModelArgs has for it; unchanged, from the model's own distribution."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    num_beams: int = 1
    seed: int | None = None


def sampling_params(args: ModelArgs) -> dict[str, float]:
    """The settings that say how tokens are chosen, as generate takes them."""
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(SamplingParams)}


def penalize_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Logits (B, V), those of tokens among ids (B, T) divided by the penalty, or multiplied where they are negative
    (arXiv 1909.05858).
    """
    seen = logits.gather(1, ids)
    return logits.scatter(1, ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def penalize_frequency(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) less the penalty for each time that a token stands among ids (B, T), as in OpenAI's API."""
    return logits.scatter_add(1, ids, torch.full_like(ids, -penalty, dtype=logits.dtype))


def penalize(logits: Tensor, tokens: Tensor, prompt: int, how: SamplingParams) -> Tensor:
    """Logits (B, V) after both penalties; repetition is of all tokens (B, T), frequency of those after the prompt."""
    if how.repetition_penalty != 1:
        logits = penalize_repetition(logits, tokens, how.repetition_penalty)
    if how.frequency_penalty:
        logits = penalize_frequency(logits, tokens[:, prompt:], how.frequency_penalty)
    return logits


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits (B, V) with -inf outside the k highest of each row."""
    return logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits (B, V) with -inf outside the fewest tokens that hold the probability p (arXiv 1904.09751)."""
    ordered, order = logits.sort(descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # probability of all that is more likely
    return logits.scatter(1, order, ordered.masked_fill(before >= p, -torch.inf))


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Logits (B, V) with -inf below p times the probability of the most probable token (arXiv 2407.01082)."""
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def filter_logits(logits: Tensor, how: SamplingParams) -> Tensor:
    """Logits (B, V) at a temperature, with -inf for the tokens that top-k, then top-p, then min-p leave out."""
    logits = logits / how.temperature
    if 0 < how.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, how.top_k)
    if how.top_p < 1:
        logits = keep_top_p(logits, how.top_p)
    return keep_min_p(logits, how.min_p) if how.min_p else logits


def sample(logits: Tensor, how: SamplingParams, generators: Sequence[torch.Generator | None]) -> Tensor:
    """A token (B,) from logits (B, V), each row with a generator of its own; the most probable at temperature 0.

    Raises RunError where logits are not finite.
    """
    if how.temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits, how).softmax(-1)
    if not probabilities.isfinite().all():
        raise RunError(
            "the model gives no probabilities, since its weights or logits are not finite: they diverged in "
            "training"
        )
    rows = probabilities.unbind()
    return torch.cat(
        [torch.multinomial(row, 1, generator=own) for row, own in zip(rows, generators, strict=True)]
    )


def generate(
    model: Llama, ids: list[int], max_new_tokens: int, stop_id: int | None = None, **how: float
) -> Iterator[int]:
    """Yield the tokens that follow the prompt, until stop_id (not yielded), max_new_tokens or the end of the context.

    `how` are fields of SamplingParams; beams are searched to their end before the first token is yielded.
    Raises ValueError for a prompt that is empty or leaves no room in the context.
    """
    if how.get("num_beams", 1) > 1:
        yield from beam_search(model, ids, max_new_tokens, stop_id, SamplingParams(**how))
    else:
        yield from (token for (token,) in generate_batch(model, [ids], max_new_tokens, stop_id, **how))


@torch.inference_mode()
def generate_batch(
    model: Llama, prompts: Sequence[list[int]], max_new_tokens: int, stop_id: int | None = None, **how: float
) -> Iterator[list[int | None]]:
    """Yield the next token of every prompt together, None for one that has met stop_id; as generate does for one.

    Row n draws with seed + n, so its text does not depend on its neighbours; the longest prompt ends all of them at
    the end of the context.
    """
    how, prompt = SamplingParams(**how), max(map(len, prompts))
    count = _room(model, prompts, max_new_tokens)
    device = model.lm_head.weight.device
    # Shorter prompts are padded on the left, with their own first token, which then counts for no penalty, and as
    # documents of their own, which are never attended to. Positions are relative: they need no correction.
    tokens = torch.tensor([[*ids[:1] * (prompt - len(ids)), *ids] for ids in prompts], device=device)
    doc_ids = torch.tensor(
        [[*[0] * (prompt - len(ids)), *[1] * (len(ids) + count)] for ids in prompts], device=device
    )
    padded = any(len(ids) < prompt for ids in prompts)
    generators = [
        None if how.seed is None else torch.Generator(device).manual_seed(how.seed + row)
        for row in range(len(prompts))
    ]
    cache = KVCache(model.args, len(prompts), prompt + count, like=model.lm_head.weight)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    fast = decoder(model, len(prompts))
    for _ in range(count):
        logits = _next_logits(model, tokens, cache, doc_ids[:, : tokens.shape[1]] if padded else None, fast)
        chosen = sample(penalize(logits, tokens, prompt, how), how, generators)
        ended |= chosen == stop_id if stop_id is not None else False
        if ended.all():
            return
        yield [None if end else token for token, end in zip(chosen.tolist(), ended.tolist(), strict=True)]
        tokens = torch.cat((tokens, chosen[:, None]), dim=1)


@torch.inference_mode()
def beam_search(
    model: Llama, ids: list[int], max_new_tokens: int, stop_id: int | None, how: SamplingParams
) -> list[int]:
    """The continuation with the highest mean log-probability of a token (stop_id's included) that so many beams find.

    The scores and the end are those of transformers at length_penalty 1 and early_stopping False; temperature and
    filters have no part in it.
    """
    count, beams = _room(model, [ids], max_new_tokens), how.num_beams
    tokens = torch.tensor([ids], device=model.lm_head.weight.device)
    scores = torch.zeros(1, device=tokens.device)
    cache = KVCache(model.args, 1, len(ids) + count, like=model.lm_head.weight)
    finished: list[tuple[float, list[int]]] = []  # the best so far, best first
    for length in range(1, count + 1):
        logps = penalize(_next_logits(model, tokens, cache).log_softmax(-1), tokens, len(ids), how)
        totals = (scores[:, None] + logps).flatten()
        scores, places = totals.topk(min(2 * beams, len(totals)))  # as many as go on if all the others stop
        rows, chosen = places // logps.shape[-1], places % logps.shape[-1]
        tokens = torch.cat((tokens[rows], chosen[:, None]), dim=1)
        stops = chosen == stop_id if stop_id is not None else torch.zeros_like(chosen, dtype=torch.bool)
        ends = torch.ones_like(stops) if length == count else stops
        for place in ends[:beams].nonzero().flatten().tolist():
            whole = tokens[place, len(ids) :].tolist()
            finished.append((scores[place].item() / length, whole[:-1] if stops[place] else whole))
        finished = sorted(finished, key=lambda beam: -beam[0])[:beams]
        going = (~ends).nonzero().flatten()[:beams]
        tokens, scores = tokens[going], scores[going]
        if not len(going) or len(finished) == beams and scores[0].item() / length <= finished[-1][0]:
            break
        cache.select(rows[going])
    return finished[0][1]


def _room(model: Llama, prompts: Sequence[list[int]], max_new_tokens: int) -> int:
    """How many tokens may follow. Raises ValueError where a prompt is empty or none can follow."""
    longest, context = max(map(len, prompts)), model.args.block_size
    if not all(prompts):
        raise ValueError("the prompt is empty")
    if longest >= context:
        raise ValueError(f"a prompt of {longest} tokens does not fit a context of {context} tokens")
    return min(max_new_tokens, context - longest)


def _next_logits(
    model: Llama, tokens: Tensor, cache: KVCache, doc_ids: Tensor | None = None, fast: Decoder | None = None
) -> Tensor:
    """Logits (B, V) in float32 of what follows tokens (B, T), of which the cache holds the first ones already."""
    if fast and cache.length == tokens.shape[1] - 1:
        cache.length += 1
        return fast(int(tokens[0, -1]), cache.length - 1, cache.keys, cache.values)
    states = model(tokens[:, cache.length :], doc_ids, cache, return_hidden=True)
    return model.lm_head(states[:, -1]).float()


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Pieces of a text up to the first stop string; what may begin one is held back until it is known."""
    held = ""
    for piece in pieces:
        held += piece
        if found := [held.index(stop) for stop in stops if stop in held]:
            held = held[: min(found)]
            break
        safe = len(held) - max(
            (size for stop in stops for size in range(1, len(stop)) if held.endswith(stop[:size])), default=0
        )
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held
