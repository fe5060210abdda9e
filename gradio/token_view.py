"""HTML of Look inside: the prompt as the model reads it, and tokens coloured by how unsure the model was."""

import math
from collections.abc import Iterable
from html import escape

from token_probs import Alternative, TokenProbs


def growing_text(prompt: str, text: str) -> str:
    """Return a prompt with its unfinished reply, before the probabilities are known."""
    return f'<div class="token-view writing">{_prompt(prompt)}<span class="text">{escape(text)}</span></div>'


def colored_tokens(prompt: str, tokens: Iterable[TokenProbs], max_entropy: float) -> str:
    """Return a prompt with its reply, tokens coloured by entropy up to max_entropy bits.

    A token that is chosen shows its alternatives; one of them, chosen, continues from there.
    """
    content = "".join(_colored_token(position, token, max_entropy) for position, token in enumerate(tokens))
    return (
        f'<div class="token-view">{_prompt(prompt)}{content}'
        '<div class="hint">Point at a token, or choose it, to see what else might have stood there. Choose an '
        "alternative to continue the text from there.</div></div>"
        '<p class="scale">sure (0 bits) <span class="ramp"></span> '
        f"unsure ({max_entropy:.1f} bits: all tokens alike)</p>"
    )


def _prompt(prompt: str) -> str:
    """Return a prompt with its line ends marked, where the style sheet shows a sign: the template can be seen."""
    shown = escape(prompt).replace("\n", '<span class="line-end"></span>\n')
    return f'<span class="prompt" title="the prompt, as the model reads it">{shown}</span>'


def _colored_token(position: int, token: TokenProbs, max_entropy: float) -> str:
    label = escape(visible(token.text))
    facts = f"{token.probability:.1%}, {token.entropy:.1f} bits"
    rows = "".join(_alternative(position, other, other.text == token.text) for other in token.alternatives)
    line_breaks = "<br>" * token.text.count("\n")
    # Small entropies differ most: the square root spreads them.
    share = math.sqrt(min(token.entropy / max_entropy, 1)) if max_entropy else 0

    return (
        # The style sheet computes the colour from --unsure. Safari gives focus to a button with a tabindex only.
        f'<button type="button" tabindex="0" class="token" style="--unsure:{share:.3f};--p:{token.probability:.3f}" '
        f'aria-label="{label}, {facts}">{label}</button>'
        f'<span class="alternatives" role="group" aria-label="Alternatives to {label}">'
        f"<strong>{label} &nbsp;{facts}</strong>{rows}</span>{line_breaks}"
    )


def _alternative(position: int, other: Alternative, sampled: bool) -> str:
    classes = "alternative sampled" if sampled else "alternative"
    label = escape(visible(other.text))
    return (
        f'<button type="button" tabindex="0" class="{classes}" data-action="branch" data-position="{position}" '
        f'data-token="{other.token}"><code>{label}</code>'
        f'<span class="bar"><span style="width:{other.probability:.1%}"></span></span>'
        f"<span>{other.probability:.1%}</span></button>"
    )


def visible(text: str) -> str:
    """Return a token's text with line breaks shown as ⏎."""
    return text.replace("\n", "⏎")
