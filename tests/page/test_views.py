"""What the page shows: every text is escaped, whatever it says, and what is drawn is what was measured."""

from html.parser import HTMLParser

import pytest
import views

HOSTILE = "<script>hit()</script><img src=x onerror=hit()>\"'`${hit()}{{hit}}&lt;b&gt;"


class Reader(HTMLParser):
    """Collects the tags, the attributes and the text of a piece of HTML."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        """A tag with its attributes."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        """Text between tags."""
        self.text += data


@pytest.mark.parametrize(
    "html",
    [
        views.talk([{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}], True),
        views.cards([views.Card(HOSTILE, HOSTILE, HOSTILE, HOSTILE)]),
        views.tokens(HOSTILE, [(HOSTILE, 0.5, [(HOSTILE, 0.5)])]),
        views.growing(HOSTILE, HOSTILE),
        views.note(HOSTILE, "problem"),
        views.mode(True, HOSTILE),
        views.loss_curves([(HOSTILE, [{"split": "val", "loss": 1.0, "tokens": 10}]), (HOSTILE, [])]),
    ],
)
def test_a_text_never_becomes_a_tag(html):
    read = Reader(html)
    assert HOSTILE in read.text
    assert not {"script", "img", "b"} & set(read.tags) and not [
        name for name, _ in read.attributes if "on" == name[:2]
    ]


def test_a_conversation_looks_like_what_the_model_does():
    messages = [{"role": "user", "content": "once"}, {"role": "assistant", "content": " upon"}]
    assert 'class="talk continues"' in views.talk(messages, instruct=False)
    assert 'class="talk answers writing"' in views.talk(messages, instruct=True, writing=True)
    assert Reader(views.talk(messages, False)).text == "You: onceModel:  upon"


def test_tokens_say_their_probability_and_the_others():
    html = views.tokens("a", [("\nb", 0.25, [("c", 0.5), ("\nb", 0.25)])])
    assert "--p:0.250" in html and 'aria-label="⏎b, 25.0%"' in html and html.count('class="guess') == 2
    assert html.count('class="guess taken"') == 1 and "width:50.0%" in html and "<br>" in html


def test_the_curve_goes_through_the_measured_points():
    rows = [
        {"split": "train", "loss": 3.0, "tokens": 50},
        {"split": "train", "loss": 1.0, "tokens": 100},
        {"split": "val", "loss": 2.0, "tokens": 100},
    ]
    html = views.loss_curve("run", rows)
    wide, high = views.WIDTH, views.HEIGHT
    assert f'class="train" points="{wide / 2:.1f},0.0 {wide:.1f},{high:.1f}"' in html
    assert f'class="val" points="{wide:.1f},{high / 2:.1f}"' in html
    assert 'aria-label="Loss of run: training 1.000, validation 2.000 after 100 tokens"' in html
