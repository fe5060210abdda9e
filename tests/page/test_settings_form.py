"""The settings: defaults of the command line, rules in words, values checked on the server and in Chromium."""

from urllib.parse import parse_qs, urlsplit

import pytest
from html_reader import Reader
from page_browser import needs_browser, open_settings, send_message, wait_for_reply
from playwright.sync_api import expect
from settings_form import FIELDS, args_from_form, rule, settings_form
from stand_ins import ARGS

from runtime.errors import UserError

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")


def test_the_form_has_the_defaults_of_the_command_line():
    form = settings_form(ARGS)
    assert form.value == {
        "temperature": "0.8",
        "max_length": "100",
        "top_k": "50",
        "top_p": "1",
        "min_p": "0",
        "repetition_penalty": "1",
        "frequency_penalty": "0",
        "seed": "",
    }
    assert settings_form(ARGS, seed=5).value["seed"] == "5"
    assert args_from_form(ARGS, form.value) == ARGS.replace(seed=None)

    # Each has words and its flag; two are open, the rest is folded.
    text = Reader(form.html_template).text
    assert all(field.words in text and f"--{field.name}" in text for field in FIELDS)
    before_fold = form.html_template.split("<details>")[0]
    assert "--temperature" in before_fold and "--max_length" in before_fold and "--top_k" not in before_fold


def test_numbers_may_come_as_text_or_as_numbers():
    args = args_from_form(ARGS, {"max_length": 20, "temperature": "0.5", "seed": "7"})
    assert (args.max_length, args.temperature, args.seed) == (20, 0.5, 7)
    assert args.top_k == ARGS.top_k  # what is missing stays as it is
    assert args_from_form(ARGS, None) == args_from_form(ARGS, [1]) == ARGS.replace(seed=None)


@pytest.mark.parametrize(
    "name, value, message",
    [
        (
            "max_length",
            "",
            "Length of a reply.*--max_length.*the field is empty.*an integer of 1 or more",
        ),
        ("max_length", "2.5", "2.5' is no such number.*an integer"),
        ("max_length", "0", "Length of a reply.*0 is below 1"),
        ("seed", "-3", "Seed: --seed -3 is below 0.*or leave it empty"),
        ("seed", "x", "no such number"),
        ("temperature", "nan", "not a finite number"),
        ("temperature", {"a": 1}, "no such number"),
        ("top_p", "1.5", "above 1.*from 0 to 1"),
        ("top_k", None, "no such number"),
    ],
)
def test_a_wrong_number_is_refused_in_words(name, value, message):
    with pytest.raises(UserError, match=message):
        args_from_form(ARGS, {name: value})


def test_every_setting_has_a_rule():
    assert all(rule(field).startswith(("Write a number", "Write an integer")) for field in FIELDS)


@needs_browser
def test_a_wrong_number_gets_its_rule_where_it_stands(visit):
    page = visit()
    length = page.get_by_role("spinbutton", name="Length")
    message = page.locator("#setting-max_length-rule")
    assert not message.is_visible()
    for wrong in ("", "2.5", "0"):
        length.fill(wrong)
        assert message.is_visible() and "an integer of 1 or more" in message.inner_text()
    send_message(page, "hello")
    page.locator("#chat-status .problem").get_by_text("--max_length").wait_for()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("hello")

    length.fill("12")
    assert not message.is_visible()
    open_settings(page)
    page.get_by_role("spinbutton", name="Seed").fill("-3")
    assert page.locator("#setting-seed-rule").is_visible()
    page.get_by_role("spinbutton", name="Seed").fill("")
    assert not page.locator("#setting-seed-rule").is_visible()
    page.get_by_role("textbox", name="Message").press("Enter")
    assert "12 tokens" in wait_for_reply(page)


@needs_browser
def test_presets_sliders_and_the_address_agree(visit, address):
    page = visit()
    temperature = page.get_by_role("spinbutton", name="Temperature")
    slider = page.get_by_role("slider", name="Temperature")
    balanced = page.get_by_role("button", name="Balanced")
    assert balanced.get_attribute("aria-pressed") == "true" and urlsplit(page.url).query == ""

    page.get_by_role("button", name="Precise").click()
    assert temperature.input_value() == slider.input_value() == "0.2"
    assert balanced.get_attribute("aria-pressed") == "false"
    slider.press("ArrowRight")
    assert temperature.input_value() == "0.25"
    query = parse_qs(urlsplit(page.url).query)
    assert query["temperature"] == ["0.25"] and query["top_p"] == ["0.9"] and "max_length" not in query

    page.reload()
    page.get_by_text("Instruct model.").first.wait_for()
    assert temperature.input_value() == slider.input_value() == "0.25"
    balanced.click()
    assert urlsplit(page.url).query == "" and temperature.input_value() == "0.8"

    page = visit("/?max_length=7&seed=3&other=x")
    send_message(page, "hello")
    assert "7 tokens" in wait_for_reply(page)
    assert "seed 3" in page.locator("#conversation .facts").inner_text()
    assert parse_qs(urlsplit(page.url).query)["other"] == ["x"]
