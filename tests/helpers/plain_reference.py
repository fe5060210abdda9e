"""Plain reference of the property tests: every sequence alone and unpadded, rules written out token by token.

Sequences run through transformers' LlamaForCausalLM with eager attention. Nothing here is part of the project.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

# Relative to the size of the value, and to the largest of all gradients.
VALUE_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 2e-4

Document = tuple[list[int], list[bool]]  # token ids, and for each whether it has loss as a label


@dataclass
class Sums:
    """Loss, count and further sums over some batches, and the gradients of the loss by parameter."""

    loss: float
    count: float
    extra: dict[str, float]
    gradients: dict[str, Tensor]


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the gradients of a model by name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class Reference:
    """LlamaForCausalLM of transformers with these settings of its config.json and these weights."""

    def __init__(self, config: dict, weights: dict[str, Tensor]):
        config = transformers.LlamaConfig(**config, attn_implementation="eager")
        self.model = transformers.LlamaForCausalLM(config).eval()
        self.model.load_state_dict(weights)

    def logps(self, ids: list[int], loss_mask: list[bool]) -> Tensor:
        """Return the summed log-prob of the tokens of one sequence that have loss; the first token has none."""
        logits = self.model(torch.tensor([ids[:-1]])).logits[0]
        picked = F.log_softmax(logits.double(), dim=-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return picked[torch.tensor(loss_mask[1:])].sum()

    def sums(self, losses: Iterable[Tensor], count: float, extra: dict[str, float] | None = None) -> Sums:
        """Return the sum of losses and its gradients."""
        loss = sum(losses)
        self.model.zero_grad()
        loss.backward()
        return Sums(loss.item(), count, extra or {}, gradients_of(self.model))


def prompt_length(loss_mask: list[bool]) -> int:
    """Return the number of tokens before the last response."""
    return len(loss_mask) - loss_mask[::-1].index(False)


def truncate(answers: Iterable[Document], room: int) -> list[Document]:
    """Truncate answers as the documentation says: token by token, the oldest of the prompt first, then the end."""
    answers = list(answers)
    prompts = {prompt_length(loss_mask) for _, loss_mask in answers}
    if len(prompts) > 1:
        return [truncate([answer], room)[0] for answer in answers]

    (prompt,) = prompts
    while max(len(ids) for ids, _ in answers) > room and prompt > max(1, room // 2):
        answers = [(ids[1:], loss_mask[1:]) for ids, loss_mask in answers]
        prompt -= 1
    return [(ids[:room], loss_mask[:room]) for ids, loss_mask in answers]


def differs(pair: list[Document]) -> bool:
    """Check whether the two answers of a pair have different tokens."""
    return pair[0][0] != pair[1][0]


def pieces(documents: list[list[int]], start: int, count: int) -> Iterator[list[int]]:
    """Yield the pieces of a row of `count` labels of the stream of documents, each with the label of its last token.

    A label is the next token of the stream, the first of the next document behind an EOS. The stream's end is followed
    by its start.
    """
    stream = [token for document in documents for token in document]
    number_of = [number for number, document in enumerate(documents) for _ in document]

    piece = []
    number = None
    for position in range(start, start + count):
        index = position % len(stream)
        if piece and (number_of[index] != number or index == 0):
            yield [*piece, stream[index]]
            piece = []
        number = number_of[index]
        piece.append(stream[index])
    yield [*piece, stream[(start + count) % len(stream)]]


def used_pairs(pairs: list[tuple[Document, Document]], context: int) -> list[tuple[int, list[Document]]]:
    """Return number and truncated answers of each pair that differs."""
    truncated = [truncate(pair, context + 1) for pair in pairs]
    return [(number, pair) for number, pair in enumerate(truncated) if differs(pair)]


def reference_table(reference: Reference, pairs: list[tuple[Document, Document]], context: int) -> Tensor:
    """Return the reference log-probs (pairs, 2) under a model."""
    table = torch.zeros(len(pairs), 2)
    with torch.no_grad():
        for number, pair in used_pairs(pairs, context):
            table[number] = torch.stack([reference.logps(*answer) for answer in pair])
    return table


def assert_close(value: float, expected: float) -> None:
    """Compare two values relative to their size."""
    assert abs(value - expected) <= VALUE_TOLERANCE * max(1.0, abs(expected)), (value, expected)


def assert_gradients_close(
    gradients: dict[str, Tensor], expected: dict[str, Tensor], size: float = 0.0
) -> None:
    """Compare gradients relative to the largest of all, or to `size`: that of terms that cancel in them."""
    assert gradients.keys() == expected.keys()
    largest = max(size, largest_of(expected))
    assert largest > 0
    for name, gradient in gradients.items():
        difference = (gradient - expected[name]).abs().max()
        assert difference <= GRADIENT_TOLERANCE * largest, (name, difference / largest)


def largest_of(gradients: dict[str, Tensor]) -> float:
    """Return the largest gradient of any parameter."""
    return max(gradient.abs().max().item() for gradient in gradients.values())


def assert_same(sums: Sums, expected: Sums) -> None:
    """Compare loss, count, further sums and gradients."""
    assert sums.count == expected.count
    assert_close(sums.loss, expected.loss)
    assert sums.extra.keys() == expected.extra.keys()
    for name, value in expected.extra.items():
        assert_close(sums.extra[name], value)
    if expected.gradients:
        assert_gradients_close(sums.gradients, expected.gradients)
