"""Comparison of replies to one prompt, and the vote: preference rows for DPO, and a ballot for the tally."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from replies import Reply


@dataclass(frozen=True)
class Comparison:
    """Replies of several stages to one prompt, in the order in which they are shown; `labels` name their models."""

    prompt: str
    order: list[str]
    replies: list[Reply | None]
    labels: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """Return the replies' texts; empty where no token has arrived yet."""
        return [reply.text if reply else "" for reply in self.replies]

    @property
    def ended(self) -> list[bool]:
        """Return which replies the model ended, rather than a limit."""
        return [bool(reply and reply.ended) for reply in self.replies]


def append_vote(path: Path, comparison: Comparison, choice: int) -> int:
    """Append a preference row for each text that differs from the chosen one; return the number of rows.

    A text equal to the chosen one and an empty text carry no preference and make no row; nor does a reply that was cut,
    since a model would learn to end there.
    """
    texts = [
        text.strip() if ended else "" for text, ended in zip(comparison.texts, comparison.ended, strict=True)
    ]
    chosen = texts[choice]
    rejected = [text for text in dict.fromkeys(texts) if text and text != chosen]
    if not chosen:
        rejected = []

    lines = []
    for text in rejected:
        row = {
            "chosen": _conversation(comparison.prompt, chosen),
            "rejected": _conversation(comparison.prompt, text),
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")

    _append(path, "".join(lines))
    return len(rejected)


def ballots_path(votes: Path) -> Path:
    """Return the file of the ballots, beside the file of preference rows."""
    return votes.with_name(f"{votes.stem}.ballots.jsonl")


def append_ballot(path: Path, comparison: Comparison, choice: int | str) -> bool:
    """Append who was compared and which was chosen, or "tie" or "bad"; return False where nothing may count.

    Replies that were cut are not compared: their ends were not the model's.
    """
    ended = [label for label, ended in zip(comparison.labels, comparison.ended, strict=True) if ended]
    chosen = choice if isinstance(choice, str) else comparison.labels[choice]
    if len(ended) < 2 or (isinstance(choice, int) and chosen not in ended):
        return False
    row = {"models": ended, "choice": chosen, "prompt": comparison.prompt}
    _append(path, json.dumps(row, ensure_ascii=False) + "\n")
    return True


def _append(path: Path, text: str) -> None:
    """Append text in a single unbuffered write, so that the rows of two votes at the same time never mix."""
    with path.open("ab", buffering=0) as output:
        output.write(text.encode())
        os.fsync(output.fileno())


def _conversation(prompt: str, text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
