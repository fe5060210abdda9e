"""Every message of a user's mistake in the product is made by a row of the tables, or listed with another test."""

import ast
from collections import Counter

import pytest
from messages import Matcher, all_messages, messages_of
from tables import ROWS
from toy import ROOT
from without_rows import WITHOUT_ROWS


def test_every_message_has_a_row_or_is_listed() -> None:
    matcher = Matcher(all_messages())
    assert len(matcher.messages) > 250
    made = set()
    for row in ROWS:
        made |= matcher.messages_of_row(row.words, row.at)

    missing = [message for message in matcher.messages if message not in made]
    listed = Counter(place for place, _, _ in WITHOUT_ROWS)
    assert [str(message) for message in missing if not listed[message.place]] == []
    assert Counter(message.place for message in missing) == listed, "a message is listed that has a row"


@pytest.mark.parametrize("place, words, test", WITHOUT_ROWS)
def test_what_is_listed_has_a_test(place: str, words: str, test: str) -> None:
    assert words in (ROOT / test).read_text(encoding="utf-8")


def test_a_message_is_found_by_its_words() -> None:
    code = """
def f():
    raise UserError(f"{path} is empty: give another file")
def g():
    parser.error("--to DIR is required")
def my_errors():
    yield f"--{name} is below {minimum}"
def nothing():
    yield "not a message"
"""
    matcher = Matcher(messages_of(ast.parse(code), "a.py"))
    assert [message.place for message in matcher.messages] == ["a.py f", "a.py g", "a.py my_errors"]
    (found,) = matcher.messages_of_row("book.txt is empty: give", "")
    assert found.function == "f"
    assert matcher.messages_of_row("book.txt is empty: give", "b.py") == set()
    assert matcher.messages_of_row("something else", "") == set()
