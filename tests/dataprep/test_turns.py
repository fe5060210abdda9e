"""Turns: keys, roles and contents of every maker; what changes the learning is heeded or named."""

import pytest
from examples import talk

from dataprep.turns import (
    UNREAD_KEYS,
    BadRow,
    Location,
    RowOptions,
    UnreadKey,
    clean,
    is_on,
    read_messages,
    read_turns,
)

LOCATION = Location("row 7", "column 'messages'")
PLAIN = RowOptions()


def last(**turn: object) -> list[dict]:
    """Return turns of which the last one is given."""
    return [*talk("Hi"), {"role": "assistant", "content": "x"} | turn]


@pytest.mark.parametrize(
    "text, cleaned",
    [
        ("\n \t\n    x = 1\n  y\n\n", "    x = 1\n  y"),
        ("\r\n  x\r\n", "  x"),
        ("  x  ", "  x"),
        (" \n ", ""),
        ("", ""),
        (" " * 100_000, ""),
    ],
)
def test_blank_lines_go_and_indentation_stays(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned == clean(cleaned)


@pytest.mark.parametrize("key", UNREAD_KEYS)
def test_a_key_of_a_turn_without_a_place_in_the_template_is_named(key: str) -> None:
    with pytest.raises(UnreadKey, match=f"row 7: turn 2 of 'messages' has {key!r}.*--ignore {key} "):
        read_messages(last(**{key: "y"}), LOCATION, PLAIN)
    assert read_messages(last(**{key: None}), LOCATION, PLAIN) == talk("Hi", "x")
    ignoring = RowOptions(ignore=(key,))
    assert read_messages(last(**{key: "y"}), LOCATION, ignoring) == talk("Hi", "x")
    # A turn of nothing else is left out, too.
    assert read_messages(last(**{key: "y"}, content=None), LOCATION, ignoring) == talk("Hi")


@pytest.mark.parametrize("role", ["tool", "function", "observation", "function_call"])
def test_turns_of_tools_are_named_or_left_out(role: str) -> None:
    turns = [*talk("Hi"), {"role": role, "content": "42"}, {"role": "assistant", "content": "x"}]
    with pytest.raises(UnreadKey, match=f"turn 2 of 'messages' has the role '{role}'.*--ignore {role}"):
        read_messages(turns, LOCATION, PLAIN)
    assert read_messages(turns, LOCATION, RowOptions(ignore=(role,))) == talk("Hi", "x")


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "video", "tool_use"])
def test_parts_other_than_text_are_named_or_left_out(kind: str) -> None:
    turns = last(content=[{"type": kind, kind: {"url": "cat.jpg"}}, {"type": "text", "text": "x"}])
    with pytest.raises(UnreadKey, match=f"has a part of type '{kind}'.*--ignore {kind}"):
        read_messages(turns, LOCATION, PLAIN)
    assert read_messages(turns, LOCATION, RowOptions(ignore=(kind,))) == talk("Hi", "x")


@pytest.mark.parametrize("key", ["weight", "loss_weight", "train", "training", "loss"])
def test_a_mark_makes_a_turn_context_or_is_named(key: str) -> None:
    for off in (0, 0.0, False, "false"):
        assert read_messages(last(**{key: off}), LOCATION, PLAIN)[-1] == talk("", "x")[1] | {"train": False}
    for on in (1, 1.0, True, None):
        assert read_messages(last(**{key: on}), LOCATION, PLAIN) == talk("Hi", "x")
    with pytest.raises(UnreadKey, match=f"has 0.5 as '{key}'"):
        read_messages(last(**{key: 0.5}), LOCATION, PLAIN)

    assert read_messages([talk("Hi")[0] | {key: 0}], LOCATION, PLAIN) == talk("Hi")
    with pytest.raises(UnreadKey, match=f"is the user's and has '{key}'"):
        read_messages([talk("Hi")[0] | {key: True}], LOCATION, PLAIN)


def test_keys_and_roles_are_renamed() -> None:
    options = RowOptions(rename=(("speaker", "role"), ("said", "content"), ("bot", "assistant")))
    turns = [{"speaker": "user", "said": "Hi"}, {"speaker": "bot", "said": "x"}]
    assert read_messages(turns, LOCATION, options) == talk("Hi", "x")
    with pytest.raises(BadRow, match="has the unknown role 'bot'.*--rename bot=user"):
        read_messages(last(role="bot"), LOCATION, PLAIN)


def test_a_value_is_turns_or_the_one_turn_of_a_role() -> None:
    assert read_turns("x\n", "assistant", LOCATION, PLAIN) == talk("", "x")[1:]
    assert read_turns({"from": "gpt", "value": "x"}, "user", LOCATION, PLAIN) == talk("", "x")[1:]
    dialogue = "\n\nHuman: Hi\n\nAssistant: x"
    assert read_turns(dialogue, "user", LOCATION, PLAIN)[0]["content"].startswith("Human:")
    assert read_turns(dialogue, "user", LOCATION, PLAIN, has_dialogues=True) == talk("Hi", "x")
    code = "\n\nHuman: Hi\n\nAssistant:\n    x\n\nHuman:\n\nAssistant: "
    assert read_turns(code, "user", LOCATION, PLAIN, has_dialogues=True) == talk("Hi", "    x", "", "")


@pytest.mark.parametrize("value", ["[1", "[]", 5, [], "Hi"])
def test_what_is_no_list_of_messages_is_named(value: object) -> None:
    with pytest.raises(BadRow, match="row 7: column 'messages' "):
        read_messages(value, LOCATION, PLAIN)


@pytest.mark.parametrize("value", ["yes", 2, -1, [], {}, 0.5])
def test_a_mark_is_true_or_false(value: object) -> None:
    with pytest.raises(BadRow, match="row 7 has .* as 'label', neither true nor false: --ignore label"):
        is_on(value, "label", "row 7")
