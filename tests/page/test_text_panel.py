"""Text with a base model: display and prompt are one text, which grows, can be edited, and comes back."""

import pytest
from page_browser import build, choose, needs_browser
from replies import MAX_PROMPT_CHARS
from stand_ins import ARGS
from text_panel import Continuation, TextPanel

import gradio as gr

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")

SETTINGS = {"max_length": 5, "seed": 1}


@pytest.fixture
def panel(models):
    """The panel, beside a choice of the stage."""

    def with_stage(models, settings):
        return TextPanel(models, settings, gr.Radio(list(models.choices)), gr.BrowserState({"text": ""}))

    return build(with_stage, models)


def write(panel, text, last=None, settings=SETTINGS):
    """Return the last update of a stream."""
    *_, update = panel.stream(text=text, last=last or Continuation(), stage="pretrained", settings=settings)
    return update


def test_what_is_shown_is_what_the_model_reads(panel, monkeypatch):
    read = []
    stream_text = panel.models.stream_text
    monkeypatch.setattr(
        panel.models,
        "stream_text",
        lambda stage, text, args: read.append(text) or stream_text(stage, text, args),
    )
    first = write(panel, "Once upon a ti")
    assert first[panel.text].startswith("Once upon a ti") and len(first[panel.text]) == 19
    second = write(panel, first[panel.text])
    assert read == ["Once upon a ti", first[panel.text]]
    assert second[panel.text].startswith(first[panel.text])
    assert "seed 1" in second[panel.status] and panel.models.label("pretrained") in second[panel.status]
    assert "24 of 512 tokens" in second[panel.meter]


def test_try_again_replaces_what_the_model_wrote(panel):
    first = write(panel, "Once")
    again = panel.begin_again(text=first[panel.text], last=first[panel.last])
    assert again[panel.text]["value"] == "Once" and again[panel.last].seed is not None
    other = write(panel, "Once", again[panel.last])
    assert other[panel.text] != first[panel.text]

    # After an edit there is nothing to take back.
    edited = panel.begin_again(text=first[panel.text] + "!", last=first[panel.last])
    assert "value" not in edited[panel.text] and edited[panel.last].written == ""


def test_a_long_text_says_what_the_model_no_longer_reads(panel):
    long = write(panel, "x" * (MAX_PROMPT_CHARS + 1))
    assert "no longer reads the first" in long[panel.meter]
    full = write(panel, "x" * (ARGS.block_size - 70), settings={"max_length": 500, "seed": 1})
    assert "reads the end of the text only" in full[panel.meter]


def test_an_empty_text_is_refused(panel):
    assert "The text is empty" in write(panel, " ")[panel.status]
    assert panel.open_page(kept_text={"text": "kept"}) == {panel.text: "kept"}
    assert panel.open_page(kept_text=[3]) == {panel.text: ""}
    assert panel.begin_example("Once")[panel.text] == "Once"


@needs_browser
def test_a_text_grows_is_edited_and_comes_back(visit):
    page = visit()
    choose(page, "radio", "Pretrained")
    box = page.get_by_role("textbox", name="Text").first
    box.wait_for()
    page.get_by_role("button", name="Once upon").click()
    grown = "n => document.querySelector('#text textarea')?.value.length > n"
    page.wait_for_function(grown, arg=5)
    page.get_by_role("button", name="Continue").click()
    page.locator("#text-status").get_by_text("finished").or_(
        page.locator("#text-status").get_by_text("cut:")
    ).wait_for()
    first = box.input_value()
    assert first.startswith("Once upon a time") and len(first) > 16

    page.get_by_role("button", name="Try again").click()
    page.wait_for_function(
        "t => { const v = document.querySelector('#text textarea')?.value; return v !== t && v.length > 16; }",
        arg=first,
    )
    page.get_by_role("button", name="Continue").wait_for()
    page.wait_for_function("document.querySelector('#text textarea')?.disabled === false")
    box.fill("A text of mine")
    page.wait_for_timeout(1000)
    page.reload()
    choose(page, "radio", "Pretrained")
    page.wait_for_function("document.querySelector('#text textarea')?.value === 'A text of mine'")
