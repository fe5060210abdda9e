"""Events of the page in Chromium: stop, new, a message during a reply, a closed page, many visitors."""

import time

import pytest
from page_browser import event, needs_browser, send_message, wait_for_reply
from playwright.sync_api import expect
from toy import ROOT
from wiring import event_value

import gradio as gr

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")


@needs_browser
def test_stop_ends_the_decoding_and_keeps_the_text(visit, decoding):
    page = visit()
    decoding.pace = 0.03
    page.get_by_role("spinbutton", name="Length").fill("400")
    before = decoding.num_tokens
    send_message(page, "a long reply")
    page.wait_for_function("document.querySelector('#conversation .assistant .text')?.innerText.length > 4")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send").wait_for()
    assert decoding.has_stopped() and decoding.num_tokens - before < 200
    stopped = page.locator("#conversation .assistant .text").inner_text()
    assert 4 < len(stopped) < 200
    assert page.locator(".writing").count() == 0

    decoding.pace = 0.0
    page.get_by_role("spinbutton", name="Length").fill("10")
    send_message(page, "and now")
    wait_for_reply(page)
    assert page.locator("#conversation .turn").count() == 4
    page.get_by_role("button", name="New conversation").click()
    page.locator(".conversation.empty").wait_for()


@needs_browser
def test_a_message_sent_during_a_reply_waits_in_its_box(visit, decoding):
    page = visit()
    decoding.pace = 0.03
    send_message(page, "first")
    page.locator("#conversation .assistant .text").wait_for()
    send_message(page, "second")
    page.wait_for_timeout(500)
    assert page.get_by_role("button", name="Stop").is_visible() and page.locator(".writing").count() == 1
    assert "40 tokens" in wait_for_reply(page)
    assert page.locator("#conversation .assistant").count() == 1
    page.get_by_role("button", name="Send").wait_for()
    decoding.pace = 0.0
    assert page.locator("#conversation .user .text").all_inner_texts() == ["first"]
    expect(page.get_by_role("textbox", name="Message")).to_have_value("second")

    page.get_by_role("textbox", name="Message").press("Enter")
    page.locator("#conversation .assistant .text").nth(1).wait_for()
    wait_for_reply(page)
    assert page.locator("#conversation .user .text").all_inner_texts() == ["first", "second"]


@needs_browser
def test_a_new_conversation_during_a_reply_ends_the_decoding(visit, decoding):
    page = visit()
    decoding.pace = 0.03
    send_message(page, "hello")
    page.locator("#conversation .assistant .text").wait_for()
    page.get_by_role("button", name="New conversation").click()
    page.locator(".conversation.empty").wait_for()
    assert decoding.has_stopped()
    assert page.locator(".conversation.empty").count() == 1


@needs_browser
def test_a_closed_page_ends_the_decoding(visit, decoding):
    page = visit()
    decoding.pace = 0.03
    page.get_by_role("spinbutton", name="Length").fill("400")
    before = decoding.num_tokens
    send_message(page, "a long reply")
    page.locator("#conversation .assistant .text").wait_for()
    page.close()
    time.sleep(1)  # the server notices that its client is gone
    assert decoding.has_stopped() and 0 < decoding.num_tokens - before < 200


@needs_browser
def test_who_waits_sees_the_place_in_the_line_and_the_text(visit, decoding):
    first, second = visit(), visit()
    send_message(second, "before")
    wait_for_reply(second)
    decoding.pace = 0.05
    send_message(first, "hello")
    first.locator("#conversation .assistant .text").wait_for()
    send_message(second, "me too")
    second.get_by_text("Waiting: 1 reply is before yours.").wait_for()
    opacities = second.evaluate(
        """() => {
            const found = [];
            for (let e = document.querySelector("#conversation .text"); e; e = e.parentElement)
                found.push(getComputedStyle(e).opacity);
            return found;
        }"""
    )
    assert set(opacities) == {"1"}
    decoding.pace = 0.0
    second.locator("#conversation .assistant .text").nth(1).wait_for()
    wait_for_reply(second)
    assert decoding.max_running == 1


def test_an_event_of_another_program_is_empty():
    assert event_value(event(action="edit"), "action") == "edit"
    for data in (None, 5, {}, {"action": 3}):
        assert event_value(gr.EventData(None, data), "action") == ""


def test_twenty_visitors_at_once_are_served_one_after_another(address, decoding, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import page
    from gradio_client import Client

    decoding.pace = 0.0
    decoding.max_running = 0
    clients = [Client(address, verbose=False) for _ in range(20)]
    figures = page.figures(page.run_round(clients, max_length=20))
    assert figures["failures"] == 0 and figures["errors"] == []
    assert decoding.max_running == 1 and decoding.running == 0
