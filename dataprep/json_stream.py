"""Values of a JSON file that is read block by block: the elements of one array, or values one after the other."""

import json
import re
from collections.abc import Iterator
from typing import TextIO

from runtime.errors import UserError

BLOCK_CHARACTERS = 1 << 20
SPACE = re.compile(r"[ \t\n\r]*")


def iter_values(file: TextIO, path: str) -> Iterator[object]:
    """Yield the elements of an array, or the values of a file without one; only one of them is in memory.

    Raises UserError with the line of a mistake.
    """
    text = _Text(file, path)
    if text.peek() != "[":
        while text.peek():
            yield text.value()
        return

    text.skip()
    if text.peek() == "]":
        text.skip()
    else:
        yield text.value()
        while text.peek() == ",":
            text.skip()
            yield text.value()
        if text.peek() != "]":
            raise text.mistake("',' or ']' is missing", text.position)
        text.skip()
    if text.peek():
        raise text.mistake("more follows after the array", text.position)


class _Text:
    """Text of a file from `position` on; what was read is dropped."""

    def __init__(self, file: TextIO, path: str):
        self.file = file
        self.path = path
        self.text = ""
        self.position = 0
        self.lines = 1  # the line number where `text` begins
        self.is_at_end = False
        self.decoder = json.JSONDecoder()

    def peek(self) -> str:
        """Return the next character that is not white space; "" at the end."""
        while True:
            self.position = SPACE.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if self.is_at_end:
                return ""
            self._read(BLOCK_CHARACTERS)

    def skip(self) -> None:
        """Go past one character."""
        self.position += 1

    def value(self) -> object:
        """Return the next value, however long it is. Raises UserError if it is not JSON."""
        self.peek()
        while True:
            try:
                row, stop = self.decoder.raw_decode(self.text, self.position)
                if stop < len(self.text) or self.is_at_end:  # a number might go on
                    self.position = stop
                    return row
            except json.JSONDecodeError as error:
                if self.is_at_end:
                    raise self.mistake(error.msg, error.pos) from None
            except RecursionError:
                raise self.mistake("too many brackets inside each other", self.position) from None
            self._read(max(BLOCK_CHARACTERS, len(self.text) - self.position))

    def mistake(self, message: str, position: int) -> UserError:
        """Return the error for a mistake at a position."""
        line = self.lines + self.text.count("\n", 0, position)
        return UserError(f"{self.path} is not JSON: {message} (line {line})")

    def _read(self, count: int) -> None:
        """Append `count` characters, after dropping what lies before the position."""
        self.lines += self.text.count("\n", 0, self.position)
        block = self.file.read(count)
        self.text = self.text[self.position :] + block
        self.position = 0
        self.is_at_end = not block
