"""Probability of each token of a reply, the tokens that might have stood there, and how unsure the model was."""

import math
from typing import NamedTuple

import torch
from replies import ENDED_WITH_EOS, Reply, StageModels

from tokenizer import Tokenizer


class Alternative(NamedTuple):
    """Token that might stand at a position: its id, its text and its probability."""

    token: int
    text: str
    probability: float


class TokenProbs(NamedTuple):
    """Token of a reply, its probability, the entropy of its position in bits, and the most probable tokens there."""

    text: str
    probability: float
    entropy: float
    alternatives: list[Alternative]


@torch.inference_mode()
def token_probs(models: StageModels, stage: str, reply: Reply, top: int = 6) -> list[TokenProbs]:
    """Return the probabilities of the reply's tokens: one pass without a cache, temperature 1, no filters."""
    chat_model = models.load(stage)
    tokenizer = chat_model.tokenizer

    output_ids = list(reply.output_ids)
    if reply.end_reason == ENDED_WITH_EOS:
        output_ids.append(chat_model.stop_ids[0])
    if not output_ids:
        return []

    tokens = torch.tensor([reply.prompt_ids + output_ids], device=models.env.device)  # 1 T
    with models.env.autocast():
        hidden = chat_model.model(tokens[:, :-1], return_hidden=True)  # 1 T-1 C
        # The hidden state of the last prompt token predicts the first token of the reply.
        hidden = hidden[0, len(reply.prompt_ids) - 1 :]  # N C, N tokens of the reply
        logps = chat_model.model.lm_head(hidden).float().log_softmax(-1)  # N V

    probs = logps.exp()
    entropies = torch.special.entr(probs).sum(-1) / math.log(2)  # N
    top_probs, top_ids = probs.topk(min(top, probs.shape[-1]))  # N top

    result = []
    for position, token in enumerate(output_ids):
        alternatives = [
            Alternative(other, token_text(tokenizer, other), probability)
            for other, probability in zip(
                top_ids[position].tolist(), top_probs[position].tolist(), strict=True
            )
        ]
        result.append(
            TokenProbs(
                token_text(tokenizer, token),
                probs[position, token].item(),
                entropies[position].item(),
                alternatives,
            )
        )
    return result


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of one token; one that ends a reply has no text of its own and is shown as ⟨end⟩."""
    if token in tokenizer.stop_ids:
        return "⟨end⟩"
    return tokenizer.decode([token]) or f"⟨{token}⟩"
