"""Tally: pairs of models, ties, and the Wilson interval."""

import json

import pytest
from replies import CUT_BY_LENGTH, ENDED_WITH_EOS, Reply
from tally import read_tally, tally_table, wilson_interval
from votes import Comparison, append_ballot


@pytest.mark.parametrize(
    "successes, trials, low, high",
    [
        (0, 10, 0.0, 0.2775),  # published values of the interval without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_equals_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_votes_are_counted_for_each_pair(tmp_path):
    path = tmp_path / "votes.ballots.jsonl"
    ended = Reply("x", [], [], 0, 0, end_reason=ENDED_WITH_EOS)
    cut = Reply("x", [], [], 0, 0, end_reason=CUT_BY_LENGTH)

    def comparison(*replies):
        return Comparison("Hi", ["p", "s", "d"], list(replies), ("P", "S", "D"))

    assert append_ballot(path, comparison(ended, ended, ended), 2)
    assert append_ballot(path, comparison(ended, ended, ended), "tie")
    assert append_ballot(path, comparison(cut, ended, ended), 1)
    assert append_ballot(path, comparison(cut, ended, ended), "bad")
    assert not append_ballot(path, comparison(cut, ended, ended), 0)
    assert not append_ballot(path, comparison(cut, cut, ended), 2)
    with path.open("a") as lines:
        lines.write('{"models": 5}\nbroken\n[]\n')

    pairs = read_tally(path)
    assert sorted(pairs) == [("D", "P"), ("D", "S"), ("P", "S")]
    assert dict(pairs["D", "S"].votes) == {"first": 1, "tie": 1, "second": 1, "bad": 1}
    assert dict(pairs["D", "P"].votes) == {"first": 1, "tie": 1}
    assert dict(pairs["P", "S"].votes) == {"tie": 1} and pairs["P", "S"].decided == 0

    table = tally_table(pairs)
    assert "50% (9% to 91%)" in table and "no vote for one of them" in table
    assert json.loads(path.read_text().splitlines()[0])["prompt"] == "Hi"


def test_without_votes_there_is_no_table(tmp_path):
    assert tally_table(read_tally(None)) == tally_table(read_tally(tmp_path / "none")) == ""
