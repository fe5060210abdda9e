"""What the demo page shows, as HTML: a conversation, cards, tokens, loss curves. Every text in it is escaped here.

The page puts these strings into the document as they are, so whatever comes from a person or a model passes `escape`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 320, 150  # of a loss curve, in the SVG's own units


@dataclass(frozen=True)
class Card:
    """One reply beside others: its title, what is known of it, its text, the text that it continues, the choice."""

    title: str
    detail: str
    text: str
    given: str = ""
    chosen: bool = False


def talk(messages: Sequence[dict[str, str]], instruct: bool, writing: bool = False) -> str:
    """A conversation: turns for a model that answers, one running text for a model that continues."""
    if not messages:
        return '<div class="talk empty"><p>Write something below, or take an example.</p></div>'
    turns = "".join(
        f'<div class="turn {message["role"]}"><span class="who">{"You" if message["role"] == "user" else "Model"}: '
        f'</span><span class="said">{escape(message["content"].strip() if instruct else message["content"])}</span>'
        "</div>"
        for message in messages
    )
    kind = "answers" if instruct else "continues"
    return (
        f'<div class="talk {kind}{" writing" * writing}" role="log" aria-label="Conversation" tabindex="0">'
        f'<div class="turns">{turns}</div></div>'
    )


def cards(shown: Iterable[Card], writing: bool = False) -> str:
    """Replies beside each other."""
    return (
        f'<div class="cards{" writing" * writing}">'
        + "".join(
            f'<section class="card{" chosen" * card.chosen}" aria-label="{escape(card.title)}">'
            f"<h2>{escape(card.title)}{' <span class=badge>your choice</span>' * card.chosen}</h2>"
            f'<p class="detail">{escape(card.detail)}</p><span class="given">{escape(card.explicit)}</span>'
            f'<span class="said">{escape(card.text if card.explicit else card.text.lstrip())}</span></section>'
            for card in shown
        )
        + "</div>"
    )


def growing(prompt: str, text: str) -> str:
    """A text that is being written, before its tokens are looked at."""
    return (
        f'<div class="look writing"><span class="given">{escape(prompt)}</span><span class="said">{escape(text)}'
        "</span></div>"
    )


def tokens(prompt: str, seen: Iterable[tuple[str, float, Sequence[tuple[str, float]]]]) -> str:
    """A text whose tokens (text, probability, alternatives) are coloured, with the alternatives on hover and focus."""
    pieces = []
    for text, probability, alternatives in seen:
        rows = "".join(
            f'<span class="guess{" taken" * (other == text)}"><code>{escape(visible(other))}</code>'
            f'<span class="bar"><span style="width:{value:.1%}"></span></span><span>{value:.1%}</span></span>'
            for other, value in alternatives
        )
        pieces.append(
            f'<button type="button" class="token" style="--p:{probability:.3f}" '
            f'aria-label="{escape(visible(text))}, {probability:.1%}">{escape(visible(text))}</button>'
            f'<span class="others" role="note"><strong>{escape(visible(text))} &nbsp;{probability:.1%}</strong>'
            f"{rows}</span>{'<br>' * text.count(chr(10))}"
        )
    return (
        f'<div class="look"><span class="given">{escape(prompt)}</span>{"".join(pieces)}'
        '<div class="hint">Point at a token, or tap it, to see what else the model considered.</div></div>'
        '<p class="scale">less likely <span class="ramp"></span> more likely</p>'
    )


def visible(text: str) -> str:
    """A token's text with line breaks that can be seen."""
    return text.replace("\n", "⏎")


def note(text: str, kind: str = "quiet") -> str:
    """A line of its own: quiet, or a problem."""
    return f'<p class="note {kind}"{" role=alert" * (kind == "problem")}>{escape(text)}</p>' if text else ""


def way(instruct: bool) -> str:
    """What a model does with a text."""
    return "answers, in the template" if instruct else "continues the text as it stands"


def mode(instruct: bool, folder: str) -> str:
    """Which way of writing a model has, and where it comes from."""
    what = (
        "<strong>Instruct model.</strong> Your message goes into the template: <code>### Instruction:</code> … "
        "<code>### Response:</code>"
        if instruct
        else "<strong>Base model.</strong> It continues your text as it stands; nothing is added."
    )
    return f'<p class="note">{what} <span class="from">{escape(folder)}</span></p>'


def loss_curves(runs: Iterable[tuple[str, Sequence[dict]]]) -> str:
    """Training and validation loss of runs (name, rows of metrics.jsonl) beside each other."""
    return (
        '<h2>How the runs learned</h2><div class="curves">'
        + "".join(loss_curve(name, rows) for name, rows in runs)
        + "</div>"
    )


def loss_curve(name: str, rows: Sequence[dict]) -> str:
    """Training and validation loss of a run over its tokens, as a figure."""
    lines = {
        split: [(row["tokens"], row["loss"]) for row in rows if row["split"] == split]
        for split in ("train", "val")
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        return f'<figure class="curve"><figcaption>{escape(name)}: no measurements</figcaption></figure>'
    right, low, high = max(x for x, _ in points), min(y for _, y in points), max(y for _, y in points)

    def drawn(line: list[tuple[float, float]]) -> str:
        return " ".join(
            f"{x / right * WIDTH:.1f},{(high - y) / max(high - low, 1e-9) * HEIGHT:.1f}" for x, y in line
        )

    last = {split: f"{line[-1][1]:.3f}" for split, line in lines.items() if line}
    said = ", ".join(
        f"{'training' if split == 'train' else 'validation'} {value}" for split, value in last.items()
    )
    return (
        f'<figure class="curve"><figcaption><strong>{escape(name)}</strong> {said}</figcaption>'
        f'<svg viewBox="-2 -4 {WIDTH + 4} {HEIGHT + 8}" role="img" preserveAspectRatio="none" '
        f'aria-label="Loss of {escape(name)}: {said} after {right:,} tokens">'
        + "".join(
            f'<polyline class="{split}" points="{drawn(line)}" />' for split, line in lines.items() if line
        )
        + f'</svg><div class="axis"><span>{high:.2f} to {low:.2f}</span><span>{right / 1e6:.2f}M tokens</span></div>'
        "</figure>"
    )
