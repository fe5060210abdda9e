"""Rows of instruction and preference data: every form becomes the same turns, every bad row is named."""

import pytest
from examples import INSTRUCTIONS, MULTI, PREFERENCES, talk

from dataprep import conversations
from dataprep.conversations import NothingToLearn
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
    (["Hi"], "row 7 is a list, not an object with a column 'instruction'"),
    (None, "row 7 is a NoneType, not an object"),
    ({"prompt": "Hi", "output": "x"}, "row 7 has no column 'instruction'; it has 'prompt', 'output'"),
    (
        {"instruction": "Hi", "response": "x"},
        "row 7 has no column 'output'; it has 'instruction', 'response'",
    ),
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
        "row 7: turn 2 of 'messages' has the unknown role 'tool'; known are system, user, assistant",
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
    ({"prompt": "Hi", "rejected": "bad"}, "row 7 has no column 'chosen'; it has 'prompt', 'rejected'"),
    ({"prompt": "Hi", "chosen": "good"}, "row 7 has no column 'rejected'; it has 'prompt', 'chosen'"),
    ({"prompt": 5, "chosen": "good", "rejected": "bad"}, "row 7: column 'prompt' holds 5, not text"),
    (
        {"prompt": [], "chosen": "good", "rejected": "bad"},
        "row 7: column 'prompt' holds [], not a list of messages",
    ),
    ({"prompt": "Hi", "chosen": 5, "rejected": "bad"}, "row 7: column 'chosen' holds 5, not text"),
    (
        {"prompt": "Hi", "chosen": "good", "rejected": {"a": 1}},
        "row 7: column 'rejected' holds {'a': 1}, not text",
    ),
    ({"prompt": "Hi", "chosen": "good", "rejected": "  "}, "row 7: the response in 'rejected' is empty"),
    (
        {"chosen": talk("Hi", "good"), "rejected": talk("Hi")},
        "row 7: the last turn of 'rejected' is the user's, not the assistant's",
    ),
    (
        {"chosen": [{"role": "human", "content": "Hi"}, *talk("Hi", "good")], "rejected": talk("Hi", "bad")},
        "row 7: turn 1 of 'chosen' has the unknown role 'human'",
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
