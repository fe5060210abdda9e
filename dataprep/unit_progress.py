"""Progress of preparing: the share of the input that is done, tokens, and the time that is left."""

import functools
from collections.abc import Iterable
from concurrent.futures import Future
from multiprocessing.sharedctypes import Synchronized

from dataprep.registry import PrepConfig
from runtime.progress import Progress


class UnitProgress:
    """Progress by the bytes of finished units, or by tokens where --max_tokens says how many there will be.

    `counter` holds the tokens that the workers have written. `stored` are the entries of units that an earlier run
    finished: they are done from the start, so that the time left is that of the others.
    """

    def __init__(
        self, config: PrepConfig, numbers: Iterable[int], stored: dict[int, dict], counter: Synchronized
    ):
        self._counter = counter
        self._max_tokens = config.max_tokens
        self._stored = stored
        self._bytes = {number: sum(part.bytes for part in config.units[number]) for number in numbers}
        self._done = sum(self._bytes[number] for number in stored)
        self._stored_tokens = sum(map(num_tokens, stored.values()))

        if self._max_tokens:
            self.bar = Progress("preparing", "tokens", self._max_tokens, self._stored_tokens)
        else:
            self.bar = Progress("preparing", "B", sum(self._bytes.values()), self._done)

    def watch(self, number: int, future: Future) -> None:
        """Count a unit when its future is done."""
        if number not in self._stored:
            future.add_done_callback(functools.partial(self._add, number))

    def _add(self, number: int, future: Future) -> None:
        if not future.cancelled() and future.exception() is None:
            self._done += self._bytes[number]

    def show(self) -> None:
        """Show what is done now."""
        tokens = self._stored_tokens + self._counter.value
        if self._max_tokens:
            self.bar.update(min(tokens, self._max_tokens) - self.bar.position)
            return
        self.bar.note = f"{self._done / max(1, self.bar.total):.0%}, {tokens:,} tokens"
        self.bar.update(self._done - self.bar.position)


def num_tokens(entry: dict) -> int:
    """Return the tokens of a unit by its entry."""
    return sum(shard["tokens"] for shard in entry["shards"].values())
