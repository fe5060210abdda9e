"""HTML of the page: every text is escaped, and the classes that the style sheet needs are present."""

from html.parser import HTMLParser

import pytest
import views
from loss_curves import loss_curves

HOSTILE = "<script>hit()</script><img src=x onerror=hit()>\"'`${hit()}{{hit}}&lt;b&gt;"


class Reader(HTMLParser):
    """Parser that collects the tags, the attributes and the text of a piece of HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.tags = []
        self.attributes = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Collect a tag with its attributes."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        """Collect text between tags."""
        self.text += data


@pytest.mark.parametrize(
    "html",
    [
        views.conversation(
            [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}], True
        ),
        views.reply_cards([views.Card(HOSTILE, HOSTILE, HOSTILE, HOSTILE)]),
        views.colored_tokens(HOSTILE, [(HOSTILE, 0.5, [(HOSTILE, 0.5)])]),
        views.growing_text(HOSTILE, HOSTILE),
        views.note(HOSTILE),
        views.problem(HOSTILE),
        views.model_line(True, HOSTILE),
        loss_curves([(HOSTILE, [{"split": "val", "loss": 1.0, "tokens": 10}]), (HOSTILE, [])]),
    ],
)
def test_text_never_becomes_a_tag(html):
    parsed = Reader(html)
    assert HOSTILE in parsed.text
    assert not {"script", "img", "b"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]


def test_an_instruct_model_shows_turns_and_a_base_model_running_text():
    messages = [{"role": "user", "content": "once"}, {"role": "assistant", "content": " upon"}]
    assert 'class="conversation continues"' in views.conversation(messages, instruct=False)
    assert 'class="conversation answers writing"' in views.conversation(messages, instruct=True, writing=True)
    assert Reader(views.conversation(messages, instruct=False)).text == "You: onceModel:  upon"
    assert Reader(views.conversation(messages, instruct=True)).text == "You: onceModel: upon"


def test_a_card_keeps_leading_space_only_after_its_prompt():
    continued = views.reply_cards([views.Card("A", "", " upon", prompt="once", chosen=True)])
    answered = views.reply_cards([views.Card("A", "", " upon")])
    assert Reader(continued).text == "A your choiceonce upon" and "card chosen" in continued
    assert Reader(answered).text == "Aupon" and "chosen" not in answered


def test_tokens_show_their_probability_and_the_alternatives():
    html = views.colored_tokens("a", [("\nb", 0.25, [("c", 0.5), ("\nb", 0.25)])])
    assert "--p:0.250" in html and 'aria-label="⏎b, 25.0%"' in html
    assert html.count('class="alternative') == 3  # the list and two rows
    assert html.count('class="alternative sampled"') == 1
    assert "width:50.0%" in html and "<br>" in html


def test_an_empty_note_is_nothing():
    assert views.note("") == ""
