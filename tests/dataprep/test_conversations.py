"""Rows of instruction and preference data: every form becomes the same turns, every bad row is named."""

import pytest
from examples import INSTRUCTIONS, MULTI, PREFERENCES, talk

from dataprep import conversations
from dataprep.turns import UNREAD_KEYS, BadRow, MarkedBad, NothingToLearn, RowOptions, UnreadKey
from runtime.errors import UserError


@pytest.mark.parametrize("form", INSTRUCTIONS)
def test_every_form_of_instructions_is_a_conversation(form: str) -> None:
    row, messages = INSTRUCTIONS[form]
    assert conversations.instruction(row, "row 1") == messages


@pytest.mark.parametrize("form", PREFERENCES)
def test_every_form_of_preferences_is_two_conversations(form: str) -> None:
    row, *pair_and_common = PREFERENCES[form]
    assert conversations.preference(row, "row 1") == tuple(pair_and_common)


def last(**turn: object) -> dict:
    """Return a row of messages whose last turn is given."""
    return {"messages": [*talk("Hi"), turn]}


BAD_INSTRUCTIONS = [
    (["Hi"], "row 7: turn 1 of 'messages' is 'Hi', not a role and a content"),
    (None, "row 7 is a NoneType, not an object"),
    ({"prompt": "Hi", "output": "x"}, "row 7 has no column "),
    ({"instruction": "Hi", "input": 0, "output": "x"}, "row 7: column 'input' holds 0, not text"),
    ({"instruction": "Hi", "input": False, "output": "x"}, "row 7: column 'input' holds False, not text"),
    (
        {"instruction": "Hi", "input": "a", "context": "b", "output": "x"},
        "row 7 has both 'input' and 'context': --ignore one of them",
    ),
    (
        {"messages": talk("Hi", "x"), "instruction": "Be rude."},
        "row 7 is read by messages, and 'instruction' says something else: --ignore instruction",
    ),
    (
        {"system": "Be kind.", "messages": MULTI},
        "row 7 has a system turn and another 'system': --ignore system",
    ),
    (
        {"messages": MULTI, "tools": [{"name": "w"}]},
        "row 7 has 'tools', which the prompt template has no room",
    ),
    (
        {"messages": MULTI, "label": "good"},
        "row 7 has 'good' as 'label', neither true nor false: --ignore label",
    ),
    (
        {"messages": MULTI, "weight": 0.5},
        "row 7 has 0.5 as 'weight', neither true nor false: --ignore weight",
    ),
    (
        {"instruction": "Hi", "output": "x", "history": [["a"]]},
        "row 7: column 'history' holds ['a'], not a question",
    ),
    ({"messages": talk("Hi", "", "And?", "x")}, "row 7: a response in 'messages' is empty"),
    ({"instruction": 5, "output": "x"}, "row 7: column 'instruction' holds 5, not text"),
    ({"instruction": "Hi", "input": ["a"], "output": "x"}, "row 7: column 'input' holds ['a'], not text"),
    ({"instruction": "Hi", "output": None}, "row 7: column 'output' holds None, not text"),
    ({"instruction": "Hi", "output": "\ud800"}, "row 7: column 'output' holds half a surrogate pair"),
    ({"instruction": "Hi", "output": ""}, "row 7: the response in 'output' is empty"),
    ({"instruction": "Hi", "output": " \n"}, "row 7: the response in 'output' is empty"),
    ({"messages": "Hi"}, "row 7: column 'messages' holds 'Hi', not a list of messages"),
    ({"messages": []}, "row 7: column 'messages' holds [], not a list of messages"),
    ({"messages": None}, "row 7: column 'messages' holds None, not a list of messages"),
    (
        last(role="assistant"),
        "row 7: turn 2 of 'messages' is {'role': 'assistant'}, not a role and a content",
    ),
    (last(content="x"), "row 7: turn 2 of 'messages' is {'content': 'x'}, not a role and a content"),
    ({"messages": ["Hi"]}, "row 7: turn 1 of 'messages' is 'Hi', not a role and a content"),
    (
        last(role="tool", content="x"),
        "row 7: turn 2 of 'messages' has the role 'tool', which the prompt template has no room for: --ignore tool",
    ),
    (last(role="assistant", content=None), "row 7: turn 2 of 'messages' holds None, not text"),
    (last(role="assistant", content="\udfff"), "row 7: turn 2 of 'messages' holds half a surrogate pair"),
    (last(role="assistant", content=" "), "row 7: the response in 'messages' is empty"),
    (
        {"messages": talk("Hi", "x", "And?")},
        "row 7: the last turn of 'messages' is the user's, not the assistant's: there is no response to learn",
    ),
]
BAD_PREFERENCES = [
    ("Hi", "row 7 is a str, not an object with a column 'chosen'"),
    (
        talk("Hi", "x"),
        "row 7 is a list, not an object with a column 'chosen': lists of turns are read with --kind",
    ),
    (
        {"prompt": "Hi", "rejected": "bad"},
        "row 7 has no column 'chosen'; it has 'prompt', 'rejected': ",
    ),
    (
        {"prompt": "Hi", "chosen": "good"},
        "row 7 has no column 'rejected'; it has 'prompt', 'chosen': ",
    ),
    (
        {"prompt": "And?", "chosen": talk("Hi", "good"), "rejected": talk("Hi", "bad")},
        "row 7: column 'chosen' is a conversation in which 'prompt' does not stand: --ignore prompt",
    ),
    (
        {"chosen": talk("Hi", "", "And?", "x"), "rejected": talk("Hi", "y")},
        "row 7: a response in 'chosen' is empty",
    ),
    ({"prompt": 5, "chosen": "good", "rejected": "bad"}, "row 7: column 'prompt' holds 5, not text"),
    (
        {"prompt": [], "chosen": "good", "rejected": "bad"},
        "row 7: column 'prompt' holds [], not a list of messages",
    ),
    ({"prompt": "Hi", "chosen": 5, "rejected": "bad"}, "row 7: column 'chosen' holds 5, not text"),
    (
        {"prompt": "Hi", "chosen": "good", "rejected": {"a": 1}},
        "row 7: turn 1 of 'rejected' is {'a': 1}, not a role and a content",
    ),
    ({"prompt": "Hi", "chosen": "good", "rejected": "  "}, "row 7: the response in 'rejected' is empty"),
    (
        {"chosen": talk("Hi", "good"), "rejected": talk("Hi")},
        "row 7: the last turn of 'rejected' is the user's, not the assistant's",
    ),
    (
        {"chosen": [{"role": "bot", "content": "Hi"}, *talk("Hi", "good")], "rejected": talk("Hi", "bad")},
        "row 7: turn 1 of 'chosen' has the unknown role 'bot'",
    ),
    ({"prompt": "Hi", "chosen": "same", "rejected": "same"}, "row 7: chosen and rejected are the same"),
    ({"prompt": "Hi", "chosen": "same", "rejected": "same "}, "row 7: chosen and rejected are the same"),
    ({"chosen": MULTI, "rejected": MULTI}, "row 7: chosen and rejected are the same"),
    (
        {"chosen": "good", "rejected": "bad"},
        "row 7: chosen and rejected have no turn in common: both must begin with the same prompt",
    ),
    (
        {"chosen": talk("Hi", "good"), "rejected": talk("Hello", "bad")},
        "row 7: chosen and rejected have no turn in common",
    ),
]


@pytest.mark.parametrize("row, complaint", BAD_INSTRUCTIONS)
def test_a_bad_row_of_instructions_is_named(row: object, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        conversations.instruction(row, "row 7")
    assert str(error.value).startswith(complaint) and "\n" not in str(error.value)
    assert isinstance(error.value, NothingToLearn) == ("is empty" in complaint)


@pytest.mark.parametrize("row, complaint", BAD_PREFERENCES)
def test_a_bad_row_of_preferences_is_named(row: object, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        conversations.preference(row, "row 7")
    assert str(error.value).startswith(complaint) and "\n" not in str(error.value)
    assert isinstance(error.value, NothingToLearn) == ("is empty" in complaint or "are the same" in complaint)


MARKS = ({"label": False}, {"kto_tag": False}, {"label": 0}, {"label": "false"}, {"weight": 0})


@pytest.mark.parametrize("mark", MARKS)
def test_a_row_that_is_marked_bad_is_no_example(mark: dict) -> None:
    rows = (INSTRUCTIONS["Alpaca"][0], INSTRUCTIONS["messages"][0], INSTRUCTIONS["prompt and completion"][0])
    for row in rows:
        with pytest.raises(MarkedBad):
            conversations.instruction({**row, **mark}, "row 7")
        conversations.instruction({**row, **dict.fromkeys(mark, True)}, "row 7")
    with pytest.raises(MarkedBad):
        conversations.preference({**PREFERENCES["strings"][0], **mark}, "row 7")


@pytest.mark.parametrize("key", UNREAD_KEYS)
def test_a_key_without_a_place_in_the_template_is_named_unless_it_is_empty_or_ignored(key: str) -> None:
    for row in (INSTRUCTIONS["Alpaca"][0], INSTRUCTIONS["messages"][0], INSTRUCTIONS["Dolly"][0]):
        messages = conversations.instruction(row, "row 7")
        for empty in (None, "", [], {}, "[]"):
            assert conversations.instruction({**row, key: empty}, "row 7") == messages
        with pytest.raises(UnreadKey, match=f"row 7 has {key!r}.*--ignore {key} "):
            conversations.instruction({**row, key: ["x"]}, "row 7")
        assert conversations.instruction({**row, key: ["x"]}, "row 7", RowOptions(ignore=(key,))) == messages
    with pytest.raises(UnreadKey, match=key):
        conversations.preference({**PREFERENCES["strings"][0], key: "x"}, "row 7")


def test_the_answers_of_a_prompt_are_context_and_those_of_the_history_are_learned() -> None:
    row = {"prompt": talk("Hi", "Ho", "And?"), "completion": "Bye."}
    assert [turn.get("train", True) for turn in conversations.instruction(row, "row 7")] == [
        True,
        False,
        True,
        True,
    ]
    row = {"history": [["Hi", "Ho"]], "instruction": "And?", "output": "Bye."}
    assert conversations.instruction(row, "row 7") == talk("Hi", "Ho", "And?", "Bye.")


def test_a_row_of_context_alone_teaches_nothing() -> None:
    turns = [*talk("Hi"), {"role": "assistant", "content": "x", "weight": 0}]
    with pytest.raises(NothingToLearn, match="row 7: no turn of 'messages' is learned"):
        conversations.instruction({"messages": turns}, "row 7")


def test_a_text_is_in_the_column_text_or_content() -> None:
    assert conversations.text({"text": " a\n", "content": "b"}, "row 7") == " a\n"
    assert conversations.text({"content": "b", "id": 1}, "row 7") == "b"
    assert conversations.text({"body": "b"}, "row 7", RowOptions(rename=(("body", "text"),))) == "b"
    with pytest.raises(BadRow, match="row 7: column 'text' holds None, not text"):
        conversations.text({"text": None}, "row 7")
