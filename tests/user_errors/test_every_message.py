"""Every message of a user's mistake in the product is made by a row of the tables, or listed here with its test."""


from messages import Matcher, all_messages
from tables import ROWS


def test_every_message_has_a_row() -> None:
    matcher = Matcher(all_messages())
    made = set()
    for row in ROWS:
        made |= matcher.messages_of_row(row.words, row.at)
    missing = [str(message) for message in matcher.messages if message not in made]
    assert missing == []
