"""HTML of the demo page: conversations, reply cards, tokens with probabilities, notes.

The page inserts these strings as they are, so every text from a person or a model passes `escape` here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Card:
    """Reply beside others: title, a line of detail, text, the prompt that it continues, and if it was chosen."""

    title: str
    detail: str
    text: str
    prompt: str = ""
    chosen: bool = False


def conversation(messages: Sequence[dict[str, str]], instruct: bool, writing: bool = False) -> str:
    """Return a conversation: separate turns for an instruct model, one running text for a base model."""
    if not messages:
        return '<div class="conversation empty"><p>Write something below, or choose an example.</p></div>'

    turns = []
    for message in messages:
        role = message["role"]
        text = message["content"]
        speaker = "You" if role == "user" else "Model"
        if instruct:
            text = text.strip()
        turns.append(
            f'<div class="turn {role}"><span class="speaker">{speaker}: </span>'
            f'<span class="text">{escape(text)}</span></div>'
        )

    classes = "conversation answers" if instruct else "conversation continues"
    if writing:
        classes += " writing"
    return (
        f'<div class="{classes}" role="log" aria-label="Conversation" tabindex="0">'
        f'<div class="turns">{"".join(turns)}</div></div>'
    )


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

    return (
        f'<section class="{classes}" aria-label="{escape(card.title)}">'
        f"<h2>{escape(card.title)}{badge}</h2>"
        f'<p class="detail">{escape(card.detail)}</p>'
        f'<span class="prompt">{escape(card.prompt)}</span><span class="text">{escape(text)}</span></section>'
    )


def growing_text(prompt: str, text: str) -> str:
    """Return a prompt with its unfinished reply, before the probabilities are known."""
    return (
        f'<div class="token-view writing"><span class="prompt">{escape(prompt)}</span>'
        f'<span class="text">{escape(text)}</span></div>'
    )


def colored_tokens(prompt: str, tokens: Iterable[tuple[str, float, Sequence[tuple[str, float]]]]) -> str:
    """Return a prompt with its reply, tokens colored by probability; hover and focus show the alternatives.

    A token is (text, probability, alternatives), an alternative is (text, probability).
    """
    content = "".join(_colored_token(*token) for token in tokens)
    return (
        f'<div class="token-view"><span class="prompt">{escape(prompt)}</span>{content}'
        '<div class="hint">Point at a token, or tap it, to see its probability and the alternatives.</div></div>'
        '<p class="scale">less likely <span class="ramp"></span> more likely</p>'
    )


def _colored_token(text: str, probability: float, alternatives: Sequence[tuple[str, float]]) -> str:
    label = escape(visible(text))
    rows = "".join(
        _alternative(other, other_probability, sampled=other == text)
        for other, other_probability in alternatives
    )
    line_breaks = "<br>" * text.count("\n")

    return (
        # The style sheet computes the color from --p.
        f'<button type="button" class="token" style="--p:{probability:.3f}" '
        f'aria-label="{label}, {probability:.1%}">{label}</button>'
        f'<span class="alternatives" role="note"><strong>{label} &nbsp;{probability:.1%}</strong>'
        f"{rows}</span>{line_breaks}"
    )


def _alternative(text: str, probability: float, sampled: bool) -> str:
    classes = "alternative sampled" if sampled else "alternative"
    return (
        f'<span class="{classes}"><code>{escape(visible(text))}</code>'
        f'<span class="bar"><span style="width:{probability:.1%}"></span></span>'
        f"<span>{probability:.1%}</span></span>"
    )


def visible(text: str) -> str:
    """Return a token's text with line breaks shown as ⏎."""
    return text.replace("\n", "⏎")


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
