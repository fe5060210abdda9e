"""HTML of the demo page: reply cards, the context meter, notes.

The page inserts these strings as they are, so every text from a person or a model passes `escape` here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Card:
    """Reply beside others: title, a line of detail, text, why it ended, the prompt that it continues, if chosen."""

    title: str
    detail: str
    text: str
    end: str = ""
    prompt: str = ""
    chosen: bool = False


def reply_cards(cards: Iterable[Card], writing: bool = False) -> str:
    """Return replies beside each other."""
    classes = "cards writing" if writing else "cards"
    content = "".join(_reply_card(card) for card in cards)
    return f'<div class="{classes}">{content}</div>'


def _reply_card(card: Card) -> str:
    classes = "card"
    badge = ""
    if card.chosen:
        classes += " chosen"
        badge = " <span class=badge>your choice</span>"

    text = card.text
    if not card.prompt:
        text = text.lstrip()

    end = f'<p class="end">{escape(card.end)}</p>' if card.end else ""
    return (
        f'<section class="{classes}" aria-label="{escape(card.title)}">'
        f"<h2>{escape(card.title)}{badge}</h2>"
        f'<p class="detail">{escape(card.detail)}</p>'
        f'<span class="prompt">{escape(card.prompt)}</span><span class="text">{escape(text)}</span>{end}</section>'
    )


def meter(used: int, size: int, warning: str = "") -> str:
    """Return how many tokens of the context are used, as a bar and in words."""
    share = min(used / size, 1)
    classes = "meter warns" if warning else "meter"
    text = f"{used:,} of {size:,} tokens of the context"
    return (
        f'<div class="{classes}"><div class="bar" role="meter" aria-label="Context" aria-valuemin="0" '
        f'aria-valuemax="{size}" aria-valuenow="{used}" aria-valuetext="{text}">'
        f'<span style="width:{share:.1%}"></span></div>'
        f'<p class="note" role="status">{text}. {escape(warning)}</p></div>'
    )


def note(text: str) -> str:
    """Return a line of quiet text; nothing for an empty text."""
    if not text:
        return ""
    return f'<p class="note quiet">{escape(text)}</p>'


def problem(text: str) -> str:
    """Return a line that reports an error; screen readers announce it at once."""
    return f'<p class="note problem" role=alert>{escape(text)}</p>'


def reply_style(instruct: bool) -> str:
    """Return how a model replies: it answers or it continues."""
    if instruct:
        return "answers in its prompt template"
    return "continues the text"


def model_line(instruct: bool, folder: str, own_template: bool = False) -> str:
    """Return a line on how the chosen model replies, with the folder that it was loaded from."""
    if instruct and own_template:
        text = "<strong>Instruct model.</strong> Your message goes into the chat template of its folder."
    elif instruct:
        text = (
            "<strong>Instruct model.</strong> Your message goes into the template: "
            "<code>### Instruction:</code> … <code>### Response:</code>"
        )
    else:
        text = "<strong>Base model.</strong> It continues your text; nothing is added."
    return f'<p class="note">{text} <span class="folder">{escape(folder)}</span></p>'
