"""Votes: a choice becomes preference rows that data.py reads."""

import json

from replies import CUT_BY_LENGTH, ENDED_WITH_EOS, Reply
from votes import Comparison, append_vote, ballots_path

from dataprep import conversations


def comparison(prompt: str, *texts: str | None) -> Comparison:
    """Return a comparison of replies with these texts; None stands for a reply without any token."""
    replies = [text and Reply(text, [], [], 0, 0, end_reason=ENDED_WITH_EOS) for text in texts]
    return Comparison(prompt, ["pretrained", "sft", "dpo"], replies)


def test_a_vote_becomes_preference_rows(tmp_path):
    path = tmp_path / "votes.jsonl"
    assert append_vote(path, comparison("Hi ✓", "bad", " good\n", "worse"), 1) == 2
    assert append_vote(path, comparison("Hi", "same", "same ", "other"), 0) == 1
    assert append_vote(path, comparison("Hi", "one", None, "one"), 0) == 0
    assert append_vote(path, comparison("Hi", " ", "other", "another"), 0) == 0

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["rejected"][1]["content"] for row in rows] == ["bad", "worse", "other"]
    assert rows[0]["chosen"] == [
        {"role": "user", "content": "Hi ✓"},
        {"role": "assistant", "content": "good"},
    ]

    # data.py reads the row without changes.
    read = conversations.preference(rows[0], "row 1")
    assert read == (rows[0]["chosen"], rows[0]["rejected"], 1)


def test_a_reply_that_was_cut_makes_no_row(tmp_path):
    path = tmp_path / "votes.jsonl"
    cut = Reply("cut", [], [], 0, 0, end_reason=CUT_BY_LENGTH)
    whole, other, _ = comparison("Hi", "whole", "other", None).replies
    assert append_vote(path, Comparison("Hi", ["sft", "dpo"], [whole, cut]), 0) == 0
    assert append_vote(path, Comparison("Hi", ["sft", "dpo"], [whole, cut]), 1) == 0
    assert append_vote(path, Comparison("Hi", ["a", "b", "c"], [whole, cut, other]), 2) == 1
    assert "cut" not in path.read_text()


def test_ballots_lie_beside_the_votes(tmp_path):
    assert ballots_path(tmp_path / "votes.jsonl") == tmp_path / "votes.ballots.jsonl"
