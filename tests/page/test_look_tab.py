"""Look inside: the prompt as the template renders it, alternatives, and a reply that branches off at one."""

import math

import pytest
from html_reader import Reader
from look_tab import Looked, LookTab
from page_browser import HOSTILE, build, event, needs_browser
from replies import StageModels
from stand_ins import ARGS

import gradio as gr

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")

SETTINGS = {"max_length": 6, "temperature": 0}
TEMPLATE = "### Instruction:\nhi\n\n### Response:\n"


@pytest.fixture
def tab(models):
    """The tab with a stand-in model for each stage."""
    return build(LookTab, models)


def look(tab, looked=None, stage="sft"):
    """Return the last update of a stream."""
    *_, last = tab.stream("hi", stage, SETTINGS, looked)
    return last


def test_the_prompt_is_shown_as_the_model_reads_it(tab):
    assert Reader(look(tab)[tab.html]).text.startswith(TEMPLATE)
    assert Reader(look(tab, stage="pretrained")[tab.html]).text.startswith("hi")
    assert tab.models.label("sft") in look(tab)[tab.status]


def test_a_model_that_has_diverged_is_reported(tab):
    tab.models.load("sft").model.model["norm"].weight.data[0] = math.nan
    assert "not finite" in look(tab)[tab.status]


def test_an_alternative_continues_from_its_place(tab):
    looked = look(tab)[tab.looked]
    ids = looked.reply.output_ids
    other = (ids[3] + 1) % 90
    branched = tab.branch(event(position="3", token=str(other)), looked=looked, running=False)[tab.looked]
    assert branched.begun == (*ids[:3], other)

    reply = look(tab, branched)[tab.looked].reply
    assert reply.output_ids[:4] == [*ids[:3], other] and len(reply.output_ids) == 10
    assert reply.prompt_ids == looked.reply.prompt_ids
    assert reply.text == tab.models.load("sft").tokenizer.decode(reply.output_ids)

    # Its own token again gives what would have come anyway.
    same = tab.branch(event(position="3", token=str(ids[3])), looked=looked, running=False)[tab.looked]
    assert look(tab, same)[tab.looked].reply.output_ids[:6] == ids


def test_the_end_may_be_chosen(tab):
    looked = look(tab)[tab.looked]
    end = tab.models.load("sft").stop_ids[0]
    branched = tab.branch(event(position="2", token=str(end)), looked=looked, running=False)[tab.looked]
    reply = look(tab, branched)[tab.looked].reply
    assert reply.output_ids == [*looked.reply.output_ids[:2], end] and reply.end_reason == "ended by you"


def test_wrong_branches_are_answered_in_words(tab):
    looked = look(tab)[tab.looked]
    for data, shown in (
        ({"position": "1", "token": "2"}, None),
        ({"position": "x", "token": "2"}, looked),
        ({"position": "-1", "token": "2"}, looked),
        ({}, looked),
        (None, looked),
    ):
        assert (
            "look at one first"
            in tab.branch(gr.EventData(None, data), looked=shown, running=False)[tab.status]
        )
    assert "no such token" in look(tab, looked._replace(begun=(97,)))[tab.status]
    assert isinstance(look(tab, looked)[tab.looked], Looked)  # nothing to branch: the prompt is looked at


def test_without_a_model_the_tab_shows_how_to_make_one(tmp_path, env):
    tab = build(LookTab, StageModels(ARGS.replace(save_checkpoint_dir=str(tmp_path)), env))
    assert "trainer.py --train D" in next(tab.stream("hi", "dpo", SETTINGS, None))[tab.status]


@needs_browser
def test_alternatives_are_reached_and_chosen(visit):
    page = visit()
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("textbox", name="Question").fill("hello")
    page.get_by_role("button", name="Look", exact=True).click()
    tokens = page.locator("button.token")
    tokens.nth(39).wait_for()
    page.get_by_role("button", name="Look", exact=True).wait_for()
    assert tokens.count() == 40
    assert page.locator(".token-view .prompt").inner_text().startswith("### Instruction:")

    alternatives = page.locator(".alternatives").nth(7)
    assert not alternatives.is_visible()
    tokens.nth(7).hover()
    alternatives.wait_for()
    percents = alternatives.locator(".alternative > :last-child").all_inner_texts()
    shares = [float(text.rstrip("%")) for text in percents]
    assert len(shares) == 6 and shares == sorted(shares, reverse=True) and 5 < sum(shares) <= 100.5

    # By keyboard: the token, then its alternatives.
    page.mouse.move(0, 0)
    tokens.nth(7).focus()
    assert alternatives.is_visible()
    before = tokens.all_text_contents()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert alternatives.is_visible()
    chosen = page.evaluate("document.activeElement.querySelector('code').textContent")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "text => document.querySelectorAll('button.token')[7]?.textContent === text", arg=chosen
    )
    page.get_by_role("button", name="Look", exact=True).wait_for()
    assert tokens.all_text_contents()[:7] == before[:7] and tokens.count() == 48


@needs_browser
def test_markup_in_prompts_and_replies_is_shown_as_text(visit):
    page = visit()
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("textbox", name="Question").fill(f"attack {HOSTILE}")
    page.get_by_role("button", name="Look", exact=True).click()
    page.locator("button.token").nth(len(HOSTILE) - 1).wait_for()
    assert f"attack {HOSTILE}" in page.locator(".token-view .prompt").inner_text()
    assert "".join(page.locator("button.token").all_text_contents()) == HOSTILE
    assert page.evaluate("window.hit") is None and page.locator("img[src=x]").count() == 0
