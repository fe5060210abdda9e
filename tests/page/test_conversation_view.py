"""View of a conversation: its buttons, labels, what was dropped, the meter, the list with its exports."""

import base64
import dataclasses
import re

from chat_history import Conversation, Turn
from conversation_view import context_meter, conversation, conversation_list
from html_reader import Reader
from replies import CUT_BY_LENGTH

REPLY = Turn("assistant", " Hello! ", "S-toy/step_1", "temperature 0.8 · seed 1", "finished")
TALK = Conversation("k", turns=(Turn("user", "Hi"), REPLY, Turn("user", "More"), REPLY))


def actions(html):
    """Return the actions of the buttons, in their order."""
    return re.findall(r'data-action="(\w+)"', html)


def test_buttons_stand_under_the_replies():
    assert actions(conversation(TALK)) == ["copy", "copy", "regenerate", "edit"]
    cut = TALK.without_last(1).add(dataclasses.replace(REPLY, end=CUT_BY_LENGTH))
    assert actions(conversation(cut)) == ["copy", "copy", "continue", "regenerate", "edit"]
    assert actions(conversation(TALK, writing=True)) == ["copy"]
    assert actions(conversation(TALK.without_last(1), writing=True)) == ["copy"]


def test_a_reply_carries_its_model_and_settings():
    text = Reader(conversation(TALK)).text
    assert text.count("S-toy/step_1 · temperature 0.8 · seed 1 · finished") == 2
    assert "Model: Hello!" in text  # without the blanks around it
    assert "Write something below" in conversation(Conversation("k"))


def test_dropped_turns_are_marked():
    html = conversation(TALK.replace(dropped=2))
    assert html.count(" dropped") == 2
    assert html.index("no longer sees") < html.index("More") and html.index("Hi<") < html.index(
        "no longer sees"
    )
    assert "dropped" not in conversation(TALK)


def test_the_meter_warns_before_turns_are_dropped():
    assert context_meter(TALK) == ""
    assert "warns" not in context_meter(TALK.replace(used=100, size=320))
    nearly = context_meter(TALK.replace(used=240, size=320))
    assert "after about 40 more tokens the oldest turns are dropped" in nearly and "warns" in nearly
    assert "The next message drops the oldest turns" in context_meter(TALK.replace(used=290, size=320))
    assert "The oldest 2 turns were dropped" in context_meter(TALK.replace(used=90, size=320, dropped=2))


def test_the_list_opens_deletes_and_exports():
    other = TALK.replace(key="other")
    html = conversation_list([TALK, other], TALK)
    assert actions(html) == ["open", "delete", "open", "delete"]
    assert html.count('aria-current="true"') == 1 and 'aria-label="Delete Hi"' in html

    links = re.findall(r'download="([\w.]+)" href="data:[\w/]+;base64,([^"]*)"', html)
    assert [name for name, _ in links] == [
        "conversation.jsonl",
        "conversation.md",
        "conversations.jsonl",
        "conversations.md",
    ]
    files = [base64.b64decode(content).decode() for _, content in links]
    assert files[0].count("\n") == 1 and files[2].count("\n") == 2 and files[1].startswith("# Hi")
    assert "none yet" in conversation_list([], TALK)
