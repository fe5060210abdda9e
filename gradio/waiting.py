"""Line of visitors who wait for a reply: one is served at a time, the others see their place."""

import threading
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from runtime.errors import UserError

Item = TypeVar("Item")
MAX_WAITING = 32
SECONDS_BETWEEN_LOOKS = 0.25


class Place(NamedTuple):
    """Place in the line: how many replies are written before this one."""

    ahead: int

    @property
    def text(self) -> str:
        """Return the place in words."""
        replies = "1 reply is" if self.ahead == 1 else f"{self.ahead} replies are"
        return f"Waiting: {replies} before yours."


class WaitingLine:
    """Line with one reply at its head: in parallel each would be slower, and memory would grow."""

    def __init__(self, max_waiting: int = MAX_WAITING):
        self.max_waiting = max_waiting
        self.changed = threading.Condition()
        self.line: list[object] = []

    def wait_then(self, items: Iterator[Item]) -> Iterator[Item | Place]:
        """Yield the place while others are ahead, several times a second, then the items.

        Closing the generator leaves the line. Raises UserError where the line is full.
        """
        ticket = object()
        with self.changed:
            if len(self.line) > self.max_waiting:
                raise UserError(f"{self.max_waiting} others are waiting for a reply: try again in a minute.")
            self.line.append(ticket)

        try:
            # A caller that is gone is noticed between two steps, so no step takes long.
            while others := self._place(ticket):
                yield others
            yield from items
        finally:
            with self.changed:
                self.line.remove(ticket)
                self.changed.notify_all()

    def _place(self, ticket: object) -> Place | None:
        """Return the place of a ticket after a moment; None at the head of the line."""
        with self.changed:
            if self.line[0] is not ticket:
                self.changed.wait(SECONDS_BETWEEN_LOOKS)
            ahead = self.line.index(ticket)
        return Place(ahead) if ahead else None
