"""Compare: the order is random and hidden, votes count only where replies ended, and the tally names the pairs."""

import json
import math
import re

import pytest
from compare_tab import CompareTab
from page_browser import HOSTILE, build, choose, needs_browser
from replies import CUT_BY_LENGTH, ENDED_WITH_EOS, Reply, StageModels
from stand_ins import ARGS
from votes import Comparison, ballots_path

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")

ALL = ["pretrained", "sft", "dpo"]
SETTINGS = {"max_length": 2, "seed": 1}


@pytest.fixture
def tab(models, tmp_path):
    """The tab with a stand-in model for each stage."""
    return build(CompareTab, models, tmp_path / "votes.jsonl")


def ended(*texts, reason=ENDED_WITH_EOS):
    """Return a comparison of replies that ended."""
    replies = [Reply(text, [], [], 0, 0, end_reason=reason) for text in texts]
    return Comparison("hi", ALL[: len(texts)], replies, tuple("PSD"[: len(texts)]))


def test_without_models_the_tab_shows_how_to_make_them(tmp_path, env):
    models = StageModels(ARGS.replace(save_checkpoint_dir=str(tmp_path)), env)
    tab = build(CompareTab, models, None)
    assert "trainer.py --train P" in next(tab.stream("hi", ALL, SETTINGS))[tab.status]
    assert "trainer.py --train P" in next(tab.stream("hi", [], SETTINGS))[tab.status]
    assert tab.open_page()[tab.choice]["value"] == []


def test_two_to_four_models_are_compared(tab, models, tmp_path, env):
    assert "two to four models" in next(tab.stream("hi", ["sft"], SETTINGS))[tab.status]
    *_, last = tab.stream("hi", ["sft", "dpo"], SETTINGS)
    assert sorted(last[tab.comparison].order) == ["dpo", "sft"]
    assert "The text is empty" in next(tab.stream(" ", ALL, SETTINGS))[tab.status]

    named = StageModels(models.args, env, ["sft"])
    alone = build(CompareTab, named, None)
    assert "two folders or more" in next(alone.stream("hi", ["sft"], SETTINGS))[alone.status]


def test_a_model_that_has_diverged_is_reported(tab):
    tab.models.load("dpo").model.model["norm"].weight.data[0] = math.nan
    *_, last = tab.stream("hi", ALL, SETTINGS)
    assert "not finite" in last[tab.status]


def test_one_model_is_no_comparison(tab, monkeypatch):
    monkeypatch.setattr(tab.models, "choices", {"sft": "SFT"})
    assert "There is one model only" in next(tab.stream("hi", ["sft"], SETTINGS))[tab.status]


def test_each_comparison_has_a_random_order(tab):
    orders = set()
    for _ in range(12):
        *_, last = tab.stream("hi", ALL, SETTINGS)
        orders.add(tuple(last[tab.comparison].order))
    assert len(orders) > 1 and {frozenset(order) for order in orders} == {frozenset(ALL)}


def test_a_start_during_a_comparison_does_nothing(tab):
    begun = tab.begin_example(text="hi", running=False)
    assert begun[tab.box] == "hi" and begun[tab.job] and begun[tab.running]
    assert tab.begin_example(text="hi", running=True).keys() == {tab.status}
    assert not tab.finish(comparison=None)[tab.running]


def test_cards_say_why_a_reply_ended_and_hide_the_models(tab):
    *_, last = tab.stream("hi", ALL, SETTINGS)
    assert last[tab.html].count(CUT_BY_LENGTH) == 3
    assert not re.search("toy|Pretrained|SFT|DPO", last[tab.html])
    assert "fewer than two replies finished" in last[tab.status]
    assert not last[tab.letters[0]]["visible"] and not last[tab.tie]["visible"]


def test_buttons_are_there_for_replies_that_ended(tab):
    comparison = ended("a", "b", "c")
    shown = tab._open_ballot(comparison)
    assert [shown[button]["visible"] for button in tab.letters] == [True, True, True, False]
    assert shown[tab.tie]["visible"] and shown[tab.bad]["value"] == "All bad"

    cut = Reply("c", [], [], 0, 0, end_reason=CUT_BY_LENGTH)
    shown = tab._open_ballot(Comparison("hi", ALL, [*comparison.replies[:2], cut], comparison.labels))
    assert [shown[button]["visible"] for button in tab.letters] == [True, True, False, False]
    assert tab._open_ballot(ended("a", "b"))[tab.bad]["value"] == "Both bad"


def test_a_vote_is_saved_and_counted(tab):
    voted = tab.vote(comparison=ended("a", "b", "c"), choice=1)
    assert "Rows added to votes.jsonl: 2" in voted[tab.status] and "B: SFT" in voted[tab.html]
    assert voted[tab.comparison] is None
    tied = tab.vote(comparison=ended("a", "b", "c"), choice="tie")
    assert "counted below" in tied[tab.status]
    assert tied[tab.tally].count("<tr>") == 4 and "0 : 1" in tied[tab.tally]
    assert len(tab.votes_path.read_text().splitlines()) == 2
    assert len(ballots_path(tab.votes_path).read_text().splitlines()) == 2
    assert tab.open_page()[tab.tally] == tied[tab.tally]


def test_a_vote_without_a_comparison_is_answered_in_words(tab):
    for comparison, choice in ((None, 0), (None, "tie"), (ended("a", "b"), 3)):
        assert "nothing to vote on" in tab.vote(comparison=comparison, choice=choice)[tab.status]
    assert not tab.votes_path.exists()


def test_a_vote_that_cannot_be_saved_is_reported(tab, tmp_path):
    tab.votes_path = tmp_path  # a folder
    voted = tab.vote(comparison=ended("a", "b"), choice=0)
    assert "cannot write" in voted[tab.status] and "--votes" in voted[tab.status]
    assert "A: Pretrained" in voted[tab.html]


def test_without_a_file_a_vote_reveals_the_models_and_is_not_kept(models, tmp_path):
    tab = build(CompareTab, models, None)
    voted = tab.vote(comparison=ended("a", "b"), choice=0)
    assert "Votes are not kept here" in voted[tab.status] and "B: SFT" in voted[tab.html]
    assert not list(tmp_path.glob("votes*")) and voted[tab.tally] == ""


@needs_browser
def test_a_vote_reveals_the_models_and_appends_rows(visit, votes, monkeypatch):
    monkeypatch.setattr(Reply, "ended", True)  # those of the stand-ins are cut
    page = visit()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill("which is best?")
    page.get_by_role("button", name="Compare", exact=True).click()
    button = page.get_by_role("button", name="B is better")
    button.wait_for()
    page.get_by_role("button", name="Compare", exact=True).wait_for()
    texts = page.locator(".card .text").all_text_contents()
    assert len(set(texts)) == 3 and all(texts)
    anonymous = page.locator("#replies").inner_html()
    assert not any(title in anonymous for title in ("Pretrained", "SFT", "DPO", "toy"))

    button.click()
    page.get_by_text("Rows added to votes.jsonl: 2").wait_for()
    titles = page.locator(".card h2").all_inner_texts()
    assert sorted(title.split()[1] for title in titles) == ["DPO", "Pretrained", "SFT"]
    assert "your choice" in titles[1]
    assert page.locator(".tally tbody tr").count() == 2

    rows = [json.loads(line) for line in votes.read_text(encoding="utf-8").splitlines()]
    assert [row["chosen"][1]["content"] for row in rows] == [texts[1].strip()] * 2
    assert {row["rejected"][1]["content"] for row in rows} == {texts[0].strip(), texts[2].strip()}
    for row in rows:
        for side in ("chosen", "rejected"):
            assert row[side][0] == {"role": "user", "content": "which is best?"}
    assert not button.is_visible()  # one vote for one comparison

    # Two models, an example, a tie.
    choose(page, "checkbox", "Pretrained", checked=False)
    page.get_by_role("button", name="Name three").last.click()
    page.get_by_role("button", name="Tie").click()
    page.get_by_text("counted below").wait_for()
    assert page.locator(".card").count() == 2


@needs_browser
def test_markup_in_prompts_and_replies_is_shown_as_text(visit):
    page = visit()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill(f"attack {HOSTILE}")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("button", name="Show the models").click()
    page.get_by_text("A: ").wait_for()
    assert page.locator(".card .text").all_inner_texts() == [HOSTILE] * 3
    assert page.evaluate("window.hit") is None and page.locator("img[src=x]").count() == 0
