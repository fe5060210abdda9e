"""Messages of a user's mistake, collected from the syntax trees of the product, and the rows that make each of them."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from toy import ROOT

FOLDERS = (
    *(
        ".",
        "runtime",
        "tokenization",
        "modelfiles",
        "generation",
        "stories",
        "dataprep",
        "dataloader",
        "training",
    ),
    *("publishing", "gradio", "benchmarks"),
)
ERRORS = {
    *("UserError", "BadRow", "EmptyText", "NothingToLearn", "MarkedBad", "UnreadKey", "RefusedByTemplate"),
    "ArgumentTypeError",
}
PARSERS = {"parser", "self"}  # .error() of these is a parser's
LENGTH = 8  # characters of a stretch
LEAST = 5  # stretches that a message and the words of a row must share, where the message is that long


@dataclass(frozen=True)
class Message:
    """A message in the product: the file and function that make it, its line, and its constant parts."""

    path: str
    function: str
    line: int
    parts: tuple[str, ...]

    @property
    def place(self) -> str:
        """Return file and function, as a row's `at` names them."""
        return f"{self.path} {self.function}"

    def __str__(self) -> str:
        return f"{self.place} (line {self.line}): {' ... '.join(self.parts)}"


def all_messages() -> list[Message]:
    """Return every message of a user's mistake that a file of the product makes."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += messages_of(tree, path.relative_to(ROOT).as_posix())
    return found


def messages_of(tree: ast.AST, path: str, function: str = "") -> Iterator[Message]:
    """Yield the messages that a tree makes, with the function that each is in."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef) else function
        text = message_text(node, function)
        if text is not None:
            parts = [part.value for part in ast.walk(text) if isinstance(part, ast.Constant)]
            parts = [part for part in parts if isinstance(part, str) and len(part.strip()) > 3]
            if parts:  # without words of its own it is made of other messages
                yield Message(path, function, node.lineno, tuple(parts))
        yield from messages_of(node, path, inside)


def message_text(node: ast.AST, function: str) -> ast.AST | None:
    """Return the text of a message that a node makes: an error, a parser's error, or a fault that *_errors yields."""
    if isinstance(node, ast.Yield) and isinstance(node.value, ast.JoinedStr | ast.Constant):
        return node.value if function.endswith("_errors") else None
    if not isinstance(node, ast.Call) or not node.args:
        return None
    called = node.func
    if isinstance(called, ast.Name) and called.id in ERRORS:
        return node.args[0]
    if not isinstance(called, ast.Attribute):
        return None
    is_parser = isinstance(called.value, ast.Name) and called.value.id in PARSERS
    if called.attr in ERRORS or (called.attr == "error" and is_parser):
        return node.args[0]
    return None


class Matcher:
    """The messages by their stretches of LENGTH characters, to find the one that the words of a row are of."""

    def __init__(self, messages: Iterable[Message]):
        self.messages = list(messages)
        self.holders: dict[str, set[Message]] = defaultdict(set)
        for message in self.messages:
            for part in message.parts:
                for stretch in stretches(part):
                    self.holders[stretch].add(message)

    def messages_of_row(self, words: str, at: str) -> set[Message]:
        """Return the messages that a row makes: the one that shares most with its words, of those at `at`."""
        shared: Counter[Message] = Counter()
        for stretch in stretches(words):
            shared.update(self.holders.get(stretch, ()))
        if at:
            return best(shared, {message for message in self.messages if message.place.startswith(at)})
        return best(shared, set(self.messages))


def best(shared: Counter[Message], among: set[Message]) -> set[Message]:
    """Return the one message that shares most with a row; none where several share as much."""
    counts = {
        message: count
        for message, count in shared.items()
        if message in among and count >= min(LEAST, max(len(stretches(part)) for part in message.parts))
    }
    top = [message for message, count in counts.items() if count == max(counts.values())]
    return set(top) if len(top) == 1 else set()


def stretches(text: str) -> set[str]:
    """Return all stretches of LENGTH characters of a text; a shorter text is one."""
    return {text[start : start + LENGTH] for start in range(max(1, len(text) - LENGTH + 1))}
