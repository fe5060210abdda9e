"""From logits to token ids, one at a time: filters, sampling, and the cached decoding loop. Knows ids, not text."""

from collections.abc import Iterator

import torch
from torch import Tensor

from model import KVCache, Llama


def filter_logits(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits (B, V) at a temperature, with -inf where top-k or top-p (arXiv 1904.09751) leaves a token out."""
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # probability of all that is more likely
        logits = logits.scatter(1, order, ordered.masked_fill(before >= top_p, -torch.inf))
    return logits


def sample(logits: Tensor, generator: torch.Generator | None, temperature: float, top_k: int = 0,
           top_p: float = 1.0) -> Tensor:
    """A token (B,) from logits (B, V); the most probable one at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = filter_logits(logits.float(), temperature, top_k, top_p).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


@torch.inference_mode()
def generate(model: Llama, ids: list[int], max_new_tokens: int, stop_id: int | None = None, *, temperature: float = 0.8,
             top_k: int = 50, top_p: float = 1.0, seed: int | None = None) -> Iterator[int]:
    """Yield the tokens that follow the prompt, until stop_id (not yielded), max_new_tokens or the end of the context.

    Raises ValueError for a prompt that is empty or leaves no room in the context.
    """
    room = model.args.block_size - len(ids)
    if not ids or room < 1:
        raise ValueError(f"a prompt of {len(ids)} tokens does not fit a context of {model.args.block_size} tokens"
                         if ids else "the prompt is empty")
    device = next(model.parameters()).device
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    count = min(max_new_tokens, room)
    cache = KVCache(model.args, 1, len(ids) + count, like=model.lm_head.weight)
    tokens = torch.tensor([ids], device=device)
    for _ in range(count):
        states = model(tokens, cache=cache, head=False)
        logits = model.lm_head(states[:, -1])
        tokens = sample(logits, generator, temperature, top_k, top_p)[:, None]
        token = int(tokens)
        if token == stop_id:
            return
        yield token
