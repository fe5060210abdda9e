"""Rows of several datasets, mixed by their shares of the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from dataloader.batch import Row
from dataloader.loader import Rows, feistel_shuffle, keyed_hash


@dataclass(frozen=True)
class EpochSize:
    """Size of an epoch of a mixture, as TokenDataset has it of one dataset."""

    tokens: int
    documents: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.tokens


class MixedRows:
    """Rows of several datasets. An epoch has as many rows of each as its share of the tokens asks.

    An epoch ends when each of the `leading` datasets (default: all) was read at least once. Those that are small for
    their share are repeated, each time in a new order. For validation no row is read twice (repeat=False).
    """

    def __init__(
        self,
        names: Sequence[str],
        parts: Sequence[Rows],
        shares: Sequence[float] | None,
        repeat: bool = True,
        leading: Sequence[str] | None = None,
    ):
        self.names = names
        self.parts = parts
        self.seed = parts[0].seed

        weights = row_weights(parts, shares)
        one_pass = [len(part) / weight for part, weight in zip(parts, weights, strict=True)]
        leading_pass = [one_pass[names.index(name)] for name in leading or names]
        scale = max(leading_pass) if repeat else min(one_pass)
        self.counts = [max(1, round(scale * weight)) for weight in weights]  # rows of an epoch, by dataset
        self.ends = list(accumulate(self.counts))

        tokens = sum(map(self._tokens_of_epoch, range(len(parts))))
        self.dataset = EpochSize(round(tokens), sum(part.dataset.documents for part in parts))

    def __len__(self) -> int:
        """Return the number of rows in an epoch."""
        return self.ends[-1]

    def at(self, index: int, epoch: int = 0) -> Row:
        """Return row `index` of an epoch: first the rows of the first dataset, then those of the next."""
        number = next(number for number, end in enumerate(self.ends) if index < end)
        part = self.parts[number]
        first = self.ends[number] - self.counts[number]

        # The rows of a dataset are counted over all epochs, so those that one epoch lacks are in the next one.
        position = epoch * self.counts[number] + index - first
        own_epoch, unshuffled = divmod(position, len(part))
        key = keyed_hash(self.seed, self.names[number], own_epoch, "mixture")
        return part.at(feistel_shuffle(unshuffled, len(part), key), own_epoch)

    @property
    def notes(self) -> list[str]:
        """Return the notes of all parts."""
        return [note for part in self.parts for note in part.notes]

    def describe(self, epochs: float) -> str:
        """Return the line of the plan: shares of the tokens, and how often each dataset is seen in these epochs."""
        described = []
        for number, (name, part) in enumerate(zip(self.names, self.parts, strict=True)):
            share = self._tokens_of_epoch(number) / len(self.dataset)
            seen = epochs * self.counts[number] / len(part)
            described.append(f"{name} is {share:.0%} of the tokens and seen {seen:.1f} times")
        return f"mixture: {'; '.join(described)}"

    def _tokens_of_epoch(self, number: int) -> float:
        """Return the tokens of a dataset that an epoch has, by the mean of its rows."""
        part = self.parts[number]
        return len(part.dataset) * self.counts[number] / len(part)


def row_weights(parts: Sequence[Rows], shares: Sequence[float] | None) -> list[float]:
    """Return the rows of each dataset, up to a common factor, that make up its share of the tokens.

    Without shares, each is taken by its size.
    """
    if shares is None:
        return [float(len(part)) for part in parts]
    return [share * len(part) / len(part.dataset) for share, part in zip(shares, parts, strict=True)]
