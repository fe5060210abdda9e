"""HTML of the chat: the conversation with its buttons, the context meter, the list of kept conversations.

As in views.py, every text from a person or a model passes `escape`. Buttons with data-action are handled by page.js.
"""

import base64
from collections.abc import Sequence
from html import escape

from chat_history import Conversation, Turn, to_jsonl, to_markdown
from replies import CUT_BY_LENGTH
from views import meter

from generation.chat import MIN_ROOM_SHARE

WARN_SHARE = 0.25  # of the context, that is left before the oldest turns are dropped


def conversation(shown: Conversation, writing: bool = False) -> str:
    """Return a conversation as separate turns, with buttons under the replies.

    Turns that the model no longer sees are marked.
    """
    if not shown.turns:
        return '<div class="conversation empty"><p>Write something below, or choose an example.</p></div>'

    turns = []
    for number, turn in enumerate(shown.turns):
        is_last = number == len(shown.turns) - 1
        if 0 < number == shown.dropped:
            turns.append(
                '<p class="forgotten">The model no longer sees what is above: the context is full.</p>'
            )
        turns.append(_turn(turn, is_last, writing and is_last, number < shown.dropped))

    classes = "conversation writing" if writing else "conversation"
    return (
        f'<div class="{classes}" role="log" aria-label="Conversation" tabindex="0">'
        f'<div class="turns">{"".join(turns)}</div></div>'
    )


def _turn(turn: Turn, is_last: bool, writing: bool, dropped: bool) -> str:
    speaker = "You" if turn.role == "user" else "Model"
    classes = f"turn {turn.role} dropped" if dropped else f"turn {turn.role}"
    footer = "" if turn.role == "user" else _footer(turn, is_last, writing)
    return (
        f'<div class="{classes}"><span class="speaker">{speaker}: </span>'
        f'<span class="text">{escape(turn.content.strip())}</span>{footer}</div>'
    )


def _footer(turn: Turn, is_last: bool, writing: bool) -> str:
    """Return the line under a reply: its model, its settings, why it ended, and what can be done with it."""
    facts = [escape(fact) for fact in (turn.settings, turn.end) if fact]
    line = " · ".join([f'<span class="model">{escape(turn.model)}</span>', *facts])

    actions = [] if writing else [("copy", "Copy")]
    if is_last and not writing:
        if turn.end == CUT_BY_LENGTH:
            actions.append(("continue", "Continue"))
        actions += [("regenerate", "Regenerate"), ("edit", "Edit")]
    buttons = "".join(
        f'<button type="button" data-action="{action}" title="{ACTION_HELP[action]}">{words}</button>'
        for action, words in actions
    )
    return (
        f'<div class="footer"><span class="facts">{line}</span><span class="actions">{buttons}</span></div>'
    )


ACTION_HELP = {
    "copy": "Copy this reply",
    "continue": "Write more of this reply",
    "regenerate": "Another reply, with a new seed",
    "edit": "Take your message back, change it and send it again",
}


def context_meter(shown: Conversation) -> str:
    """Return how full the context is, with a warning before turns are dropped; nothing before the first reply."""
    if not shown.size:
        return ""
    room_for_reply = int(shown.size * MIN_ROOM_SHARE)
    left = shown.size - room_for_reply - shown.used

    warning = ""
    if left <= 0:
        warning = "The next message drops the oldest turns."
    elif left < WARN_SHARE * shown.size:
        warning = f"Nearly full: after about {left} more tokens the oldest turns are dropped."
    if shown.dropped:
        warning = f"The oldest {shown.dropped} turns were dropped. {warning}".strip()
    return meter(shown.used, shown.size, warning)


def conversation_list(kept: Sequence[Conversation], shown: Conversation) -> str:
    """Return the kept conversations, each to open or to delete, and links that export them."""
    if not kept:
        return '<p class="note">Conversations stay in this browser; none yet.</p>'

    items = []
    for each in kept:
        current = ' aria-current="true"' if each.key == shown.key else ""
        title = escape(each.title)
        items.append(
            f'<li><button type="button" class="open" data-action="open" data-key="{escape(each.key)}"{current}>'
            f'{title}</button><button type="button" class="delete" data-action="delete" '
            f'data-key="{escape(each.key)}" aria-label="Delete {title}" title="Delete">×</button></li>'
        )

    exports = []
    if shown.turns:
        exports.append(f"This one: {_export_links([shown], 'conversation')}")
    exports.append(f"All: {_export_links(kept, 'conversations')}")
    return (
        f'<ul class="kept">{"".join(items)}</ul>'
        f'<p class="note exports">{" &nbsp; ".join(exports)}</p>'
        '<p class="note">They stay in this browser, on this computer.</p>'
    )


def _export_links(exported: Sequence[Conversation], name: str) -> str:
    """Return links that hold the files themselves, so that the server keeps none."""
    files = (
        ("JSONL", f"{name}.jsonl", "application/jsonl", to_jsonl(exported)),
        ("Markdown", f"{name}.md", "text/markdown", to_markdown(exported)),
    )
    return ", ".join(
        f'<a download="{file}" href="data:{kind};base64,{base64.b64encode(text.encode()).decode()}">{words}</a>'
        for words, file, kind, text in files
    )
