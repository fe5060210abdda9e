"""Handlers of the page without a browser: missing models, the random order, the message that returns to its box."""

import math

import pytest
from handlers import PageHandlers
from page_browser import SAMPLING
from replies import StageModels
from stand_ins import ARGS, three_runs
from votes import Comparison

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def page(tmp_path, env):
    """Handlers with a stand-in model for each stage."""
    args = ARGS.replace(save_checkpoint_dir=str(three_runs(tmp_path)))
    return PageHandlers(StageModels(args, env), tmp_path / "votes.jsonl")


def test_without_a_model_every_tab_shows_how_to_make_one(tmp_path, env):
    args = ARGS.replace(save_checkpoint_dir=str(tmp_path))
    page = PageHandlers(StageModels(args, env), tmp_path / "votes.jsonl")
    values = (5, *SAMPLING, 1)
    assert "trainer.py --train S" in next(page.stream_chat(MESSAGES, "sft", "", *values))[-1]
    assert page.finish_chat(MESSAGES, "sft")[:2] == ("hi", [])
    assert "trainer.py --train P" in next(page.stream_comparison("hi", *values))[-1]
    assert "trainer.py --train D" in next(page.stream_look("hi", "dpo", *values))[-1]
    assert "trainer.py --train P" in page.open_page()[1]


def test_one_model_cannot_be_compared(tmp_path, env):
    args = ARGS.replace(save_checkpoint_dir=str(three_runs(tmp_path)))
    page = PageHandlers(StageModels(args, env, [str(tmp_path / "S-toy")]), tmp_path / "votes.jsonl")
    assert (
        "There is one model only: start the page with --model"
        in next(page.stream_comparison("hi", 5, *SAMPLING, 1))[-1]
    )


def test_the_page_opens_with_the_last_stage(page):
    stage, line, *_, curves = page.open_page()
    assert stage == "dpo" and "D-toy/" in line
    assert curves.count("<svg") == 3


def test_a_message_during_a_reply_changes_nothing(page):
    updates = page.add_message("second", MESSAGES, "sft", writing=True)
    assert all(update == {"__type__": "update"} for update in updates)
    assert list(page.stream_chat([*MESSAGES, {"role": "assistant", "content": "yes"}], "sft", "")) == []


def test_the_system_prompt_is_the_first_turn_of_models_that_answer(page, monkeypatch):
    seen = []

    def stream_reply(stage, messages, args):
        seen.append([message["role"] for message in messages])
        return iter(())

    monkeypatch.setattr(page.models, "stream_reply", stream_reply)
    values = (5, *SAMPLING, 1)
    for stage, system in (("sft", "Be brief."), ("sft", " "), ("pretrained", "Be brief.")):
        list(page.stream_chat(MESSAGES, stage, system, *values))
    assert seen == [["system", "user"], ["user"], ["user"]]

    *_, status = next(page.stream_chat(MESSAGES, "sft", "x" * 1_000_000, *values))
    assert "shorten it" in status
    assert page.show_system("dpo")["visible"] and not page.show_system("pretrained")["visible"]


def test_a_model_that_has_diverged_is_reported_in_every_tab(page):
    values = (5, *SAMPLING, 1)
    for stage in ("pretrained", "sft", "dpo"):
        page.models.load(stage).model.model["norm"].weight.data[0] = math.nan
    assert "not finite" in list(page.stream_chat(MESSAGES, "sft", "", *values))[-1][-1]
    assert "not finite" in list(page.stream_comparison("hi", *values))[-1][-1]
    assert "not finite" in list(page.stream_look("hi", "dpo", *values))[-1][-1]


def test_each_comparison_has_a_random_order(page):
    orders = set()
    for _ in range(12):
        *_, last = page.stream_comparison("hi", 2, *SAMPLING, 1)
        orders.add(tuple(last[1].order))
    assert len(orders) > 1
    assert {frozenset(order) for order in orders} == {frozenset(["pretrained", "sft", "dpo"])}


def test_a_vote_that_cannot_be_saved_is_reported(page, tmp_path):
    page.votes_path = tmp_path  # a folder
    comparison = Comparison("hi", ["sft", "dpo"], [None, None])
    cards, _, _, status = page.vote(comparison, 0)
    assert "cannot write" in status and "--votes" in status
    assert "A: SFT" in cards and "B: DPO" in cards


def test_without_a_file_a_vote_reveals_the_models_and_is_not_kept(page, tmp_path):
    page.votes_path = None
    cards, _, _, status = page.vote(Comparison("hi", ["sft", "dpo"], [None, None]), 0)
    assert "Votes are not kept here" in status and "A: SFT" in cards
    assert not (tmp_path / "votes.jsonl").exists()
