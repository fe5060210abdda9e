"""Streams of replies for a browser: several replies advance together, and updates are limited in rate."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_UPDATES = 0.05  # 20 updates a second look smooth


def step_together(streams: Sequence[Iterator[Item]]) -> Iterator[list[Item | None]]:
    """Yield the latest item of each stream, after one step of each stream, until all have ended.

    A stream that has not brought anything yet counts as None; a stream that has ended keeps its last item.
    """
    latest: list[Item | None] = [None] * len(streams)
    active = set(range(len(streams)))

    while active:
        for index in sorted(active):
            item = next(streams[index], None)
            if item is None:
                active.remove(index)
            else:
                latest[index] = item

        if active:
            yield list(latest)


def throttle(items: Iterable[Item], seconds: float = SECONDS_BETWEEN_UPDATES) -> Iterator[Item]:
    """Yield the first item at once, then at most one item per `seconds`, and always the last item."""
    next_update = 0.0
    pending = []

    for item in items:
        pending = [item]
        if time.perf_counter() >= next_update:
            yield pending.pop()
            next_update = time.perf_counter() + seconds

    yield from pending
