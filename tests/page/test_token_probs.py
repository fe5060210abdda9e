"""Probabilities of tokens: they equal the model's, computed one token after the other."""

import math

import pytest
import torch
from replies import ENDED_WITH_EOS, Reply
from token_probs import token_probs, token_text

QUESTION = [{"role": "user", "content": "tell me"}]


def test_probabilities_and_entropy_equal_the_models(models):
    *_, reply = models.stream_reply("sft", QUESTION, models.args)
    tokens = token_probs(models, "sft", reply, top=4)
    chat_model = models.load("sft")

    for position, (token, result) in enumerate(zip(reply.output_ids, tokens, strict=True)):
        prefix = torch.tensor([reply.prompt_ids + reply.output_ids[:position]])
        with torch.no_grad():
            expected = chat_model.model(prefix)[0, -1].softmax(-1)
        top = expected.topk(4)
        assert result.probability == pytest.approx(expected[token].item(), abs=1e-6)
        assert [other.token for other in result.alternatives] == top.indices.tolist()
        assert [other.probability for other in result.alternatives] == pytest.approx(
            top.values.tolist(), abs=1e-6
        )
        entropy = -sum(p * math.log2(p) for p in expected.tolist() if p)
        assert result.entropy == pytest.approx(entropy, abs=1e-4)
        assert result.text == chat_model.tokenizer.decode([token])

    assert len({round(result.probability, 3) for result in tokens}) > 3


def test_eos_has_a_probability_too(models):
    tokenizer = models.load("sft").tokenizer
    ids = tokenizer.encode("ab")
    reply = Reply("ab", tokenizer.encode("hello"), ids, 0.1, 0.2, end_reason=ENDED_WITH_EOS)
    assert [token.text for token in token_probs(models, "sft", reply)] == ["a", "b", "⟨end⟩"]
    assert token_probs(models, "sft", Reply("", [1], [], 0.1, 0.2)) == []
    assert token_text(tokenizer, ids[0]) == "a"
