"""Rows that data.py refuses, each with the words of its line; rows/NAME.jsonl holds a good row and then this one."""

ASKED = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Hello!"}
GOOD = {
    "text": {"text": "Once upon a time, there was a fox."},
    "instruct": {"instruction": "Hi", "output": "Hello!"},
    "preference": {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."},
}


def turns(*changes: dict) -> dict:
    """Return a row of messages: a question, an answer, and the turns given."""
    return {"messages": [ASKED, SAID, *changes]}


# name of the file: kind, row (a string is written as it is), words of the line behind the file's name
BAD_ROWS: dict[str, tuple[str, object, str]] = {
    # no row at all, or one of another form
    "not-json": ("text", '{"text": ', " is not JSON: Expecting value"),
    "two-values": ("text", '{"text": "a"} {"text": "b"}', " is not JSON: Extra data"),
    "single-quotes": ("text", "{'text': 'a'}", " is not JSON: Expecting property name"),
    "a-string": ("text", "once upon a time", " is a str, not an object with a column 'text'"),
    "a-number": ("instruct", 7, " is a int, not an object with a column"),
    "a-list": (
        "text",
        [ASKED, SAID],
        "not an object with a column 'text': lists of turns are read with --kind instruct",
    ),
    "body": ("text", {"body": "Once"}, " has no column 'text'; it has 'body'"),
    "no-column": ("text", {}, " has no column 'text'; it has none"),
    "chats-as-text": (
        "text",
        turns(),
        " has no column 'text'; it has 'messages': messages is read with --kind",
    ),
    "no-output": ("instruct", {"instruction": "Hi"}, " has no column 'output'; it has 'instruction'"),
    "near-names": (
        "instruct",
        {"questions": "Hi", "answers": "Ho"},
        "needs --rename questions=question answers=answer",
    ),
    "one-answer": ("preference", {"prompt": "Hi", "chosen": "x"}, " has no column 'rejected'"),
    # values of a wrong kind
    "text-is-number": ("text", {"text": 5}, ": column 'text' holds 5, not text"),
    "half-a-character": ("text", '{"text": "\\ud83d"}', ": column 'text' holds half a surrogate pair"),
    "messages-are-text": (
        "instruct",
        {"messages": "Hi"},
        "column 'messages' holds 'Hi', not a list of messages",
    ),
    "messages-are-empty": (
        "instruct",
        {"messages": []},
        "column 'messages' holds [], not a list of messages",
    ),
    "messages-cut": (
        "instruct",
        {"messages": '[{"role": "user"'},
        "column 'messages' is not JSON: Expecting ','",
    ),
    "output-is-number": (
        "instruct",
        {"instruction": "2 + 2?", "output": 4},
        "column 'output' holds 4, not text",
    ),
    "turn-is-text": (
        "instruct",
        {"messages": ["Hi"]},
        "turn 1 of 'messages' is 'Hi', not a role and a content",
    ),
    "no-content": (
        "instruct",
        {"messages": [{"role": "user"}]},
        "turn 1 of 'messages' is {'role': 'user'}, not a role",
    ),
    "role-is-number": (
        "instruct",
        turns({"role": 3, "content": "x"}),
        "turn 3 of 'messages' holds the role 3, not text",
    ),
    "bot": (
        "instruct",
        turns({"role": "bot", "content": "x"}),
        "has the unknown role 'bot'; known are system, user",
    ),
    "part-is-number": (
        "instruct",
        turns({"role": "user", "content": [5]}),
        "turn 3 of 'messages' holds the part 5, not",
    ),
    "history-is-odd": (
        "instruct",
        {**GOOD["instruct"], "history": [["a"]]},
        "column 'history' holds ['a'], not a question",
    ),
    "weight-is-half": (
        "instruct",
        turns({**SAID, "weight": 0.5}),
        "has 0.5 as 'weight', neither true nor false",
    ),
    "label-is-word": (
        "instruct",
        {**GOOD["instruct"], "label": "ok"},
        " has 'ok' as 'label', neither true nor",
    ),
    # what the prompt template has no room for
    "images": (
        "instruct",
        {**GOOD["instruct"], "images": ["a.png"]},
        " has 'images', which the prompt template has",
    ),
    "tools": (
        "instruct",
        {**turns(), "tools": [{"name": "f"}]},
        "has 'tools', which the prompt template has no room for",
    ),
    "reasoning": (
        "instruct",
        turns({**SAID, "reasoning_content": "x"}),
        "turn 3 of 'messages' has 'reasoning_content'",
    ),
    "tool-turn": (
        "instruct",
        turns({"role": "tool", "content": "7"}),
        "has the role 'tool', which the prompt template",
    ),
    "picture-part": (
        "instruct",
        turns({"role": "user", "content": [{"type": "image"}]}),
        "has a part of type 'image'",
    ),
    "learned-question": (
        "instruct",
        turns({**ASKED, "train": True}, SAID),
        "is the user's and has 'train': loss falls on",
    ),
    # nothing to learn, or two things at once
    "no-answer": (
        "instruct",
        {"messages": [ASKED]},
        "the last turn of 'messages' is the user's, not the assistant's",
    ),
    "empty-answer": (
        "instruct",
        {"instruction": "Hi", "output": " "},
        ": the response in 'output' is empty",
    ),
    "empty-turn": (
        "instruct",
        turns(ASKED, {**SAID, "content": ""}),
        ": the response in 'messages' is empty",
    ),
    "all-context": (
        "instruct",
        {"messages": [ASKED, {**SAID, "train": False}]},
        ": no turn of 'messages' is learned",
    ),
    "two-inputs": (
        "instruct",
        {"instruction": "Add", "input": "1", "context": "2", "output": "3"},
        " has both 'input' and 'context': --ignore one of them",
    ),
    "two-systems": (
        "instruct",
        {"messages": [{"role": "system", "content": "A"}, ASKED, SAID], "system": "B"},
        " has a system turn and another 'system': --ignore system",
    ),
    "two-prompts": (
        "instruct",
        {"prompt": "Hi", "completion": "Ho", "question": "Why?"},
        " is read by prompt and completion, and 'question' says something else",
    ),
    "same-answers": (
        "preference",
        {**GOOD["preference"], "rejected": "Hello!"},
        "chosen and rejected are the same",
    ),
    "no-common-turn": (
        "preference",
        {"chosen": "x", "rejected": "y"},
        "chosen and rejected have no turn in common",
    ),
    "other-prompt": (
        "preference",
        {"prompt": "Why?", "chosen": [ASKED, SAID], "rejected": [ASKED, {**SAID, "content": "No."}]},
        "is a conversation in which 'prompt' does not stand: --ignore prompt",
    ),
}
