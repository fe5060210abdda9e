"""Forms of rows: each example is read, docs/DATA.md lists them, and a refusal names the nearest one."""

import json
from pathlib import Path

import pytest

from dataprep import conversations
from dataprep.forms import FORMS, Form, find_form
from dataprep.turns import BadRow

ROOT = Path(__file__).parent.parent.parent
READ = {
    "text": conversations.text,
    "instruct": conversations.instruction,
    "preference": conversations.preference,
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.kind} {' '.join(form.columns)}")
def test_each_form_reads_its_example_and_stands_in_the_docs(form: Form) -> None:
    assert find_form(form.example, form.kind, "row 1") is form
    assert READ[form.kind](form.example, "row 1")
    row = f"| `{form.kind}` | `{json.dumps(form.example)}` |"
    assert row in (ROOT / "docs" / "DATA.md").read_text(encoding="utf-8")


REFUSALS = [
    ("text", {"messages": []}, "messages is read with --kind instruct"),
    ("text", {"body": "x"}, "the nearest form of kind text needs --rename COLUMN=text"),
    ("text", {"full_text": "x", "id": 1}, "the nearest form of kind text needs --rename full_text=text"),
    ("instruct", {"text": "x"}, "text is read with --kind text"),
    ("instruct", {"chosen": "x", "rejected": "y", "prompt": "z"}, "--kind preference"),
    (
        "instruct",
        {"prompt": "a", "completions": "b"},
        "no column 'completion'; it has 'prompt', 'completions': the nearest form of kind instruct needs "
        "--rename completions=completion",
    ),
    ("instruct", {"Question": "a", "Answer": "b"}, "--rename Question=question Answer=answer"),
    (
        "preference",
        {"chosen_messages": [], "rejected_messages": []},
        "the nearest form of kind preference needs --rename chosen_messages=chosen rejected_messages=rejected",
    ),
    ("preference", {"messages": []}, "--kind instruct"),
    ("instruct", {}, "it has none: "),
    ("text", {f"c{n}": n for n in range(30)}, "'c11' and 18 more"),
]


@pytest.mark.parametrize("kind, row, advice", REFUSALS)
def test_a_refusal_names_the_nearest_form_and_the_flag(kind: str, row: dict, advice: str) -> None:
    with pytest.raises(BadRow) as error:
        find_form(row, kind, "row 7")
    assert advice in str(error.value) and "\n" not in str(error.value)


def test_a_form_with_values_goes_before_one_with_nulls() -> None:
    row = {"messages": None, "question": "a", "answer": "b"}
    assert find_form(row, "instruct", "row 1").columns == ("question", "answer")
    assert find_form({"messages": None}, "instruct", "row 1").columns == ("messages",)
