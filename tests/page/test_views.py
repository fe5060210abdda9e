"""HTML of the page: every text is escaped, and the classes that the style sheet needs are present."""

import pytest
import views
from chat_history import Conversation, Turn
from conversation_view import conversation, conversation_list
from curves import RunCurves, curves_page
from html_reader import HOSTILE, Reader
from tally import PairTally, tally_table
from token_probs import Alternative, TokenProbs
from token_view import colored_tokens, growing_text

TURNS = (Turn("user", HOSTILE), Turn("assistant", HOSTILE, HOSTILE, HOSTILE, HOSTILE))
TALK = Conversation(HOSTILE, turns=TURNS)
TOKEN = TokenProbs(HOSTILE, 0.5, 1.0, [Alternative(3, HOSTILE, 0.5)])
ROWS = [{"split": "val", "loss": 1.0, "tokens": 10}]


@pytest.mark.parametrize(
    "html",
    [
        conversation(TALK),
        conversation_list([TALK], TALK),
        colored_tokens(HOSTILE, [TOKEN], 5.0),
        growing_text(HOSTILE, HOSTILE),
        curves_page([RunCurves(HOSTILE, "P", ROWS)]),
        tally_table({(HOSTILE, HOSTILE): PairTally()}),
        views.reply_cards([views.Card(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)]),
        views.meter(1, 2, HOSTILE),
        views.note(HOSTILE),
        views.problem(HOSTILE),
        views.model_line(True, HOSTILE),
    ],
)
def test_text_never_becomes_a_tag(html):
    parsed = Reader(html)
    assert HOSTILE in parsed.text or HOSTILE[:59] in parsed.text  # the title of a conversation is shortened
    assert not {"script", "img", "b"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]


def test_a_card_keeps_leading_space_only_after_its_prompt():
    continued = views.reply_cards([views.Card("A", "", " upon", prompt="once", chosen=True)])
    answered = views.reply_cards([views.Card("A", "", " upon", end="finished")])
    assert Reader(continued).text == "A your choiceonce upon" and "card chosen" in continued
    assert Reader(answered).text == "Auponfinished" and "chosen" not in answered


def test_the_meter_says_what_it_shows():
    html = views.meter(80, 320, "Nearly full.")
    assert "width:25.0%" in html and 'aria-valuenow="80"' in html and "meter warns" in html
    assert "80 of 320 tokens of the context. Nearly full." in Reader(html).text
    assert "warns" not in views.meter(400, 320) and "width:100.0%" in views.meter(400, 320)


def test_an_empty_note_is_nothing():
    assert views.note("") == ""
