"""Chat: what each button does, without a browser and in Chromium; the models are stand-ins."""

import base64
import json
import math

import pytest
from chat_history import Conversation, Turn, keep, new_conversation, read_kept
from chat_tab import ChatTab, Job, kept_in_browser
from page_browser import HOSTILE, RECORD_UPDATES, build, event, needs_browser, send_message, wait_for_reply
from playwright.sync_api import expect
from replies import CUT_BY_LENGTH, StageModels
from stand_ins import ARGS

# Gradio uses pandas in a deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")

ASKED = Conversation("k", turns=(Turn("user", "hi"),))
SETTINGS = {"max_length": 5, "seed": 1}


@pytest.fixture
def tab(models):
    """The tab with a stand-in model for each stage."""
    return build(ChatTab, models)


def reply_to(tab, shown, job=None, stage="sft", settings=SETTINGS, system=""):
    """Return the last update of a stream."""
    *_, last = tab.stream(shown=shown, job=job or Job("job"), stage=stage, system=system, settings=settings)
    return last


def test_without_a_model_the_chat_shows_how_to_make_one(tmp_path, env):
    tab = build(ChatTab, StageModels(ARGS.replace(save_checkpoint_dir=str(tmp_path)), env))
    assert "trainer.py --train S" in reply_to(tab, ASKED)[tab.status]
    finished = tab.finish(shown=ASKED, kept=None)
    assert finished[tab.box] == "hi" and finished[tab.shown].turns == ()
    assert "trainer.py --train P" in tab.open_page(kept=None, draft=None)[tab.choice.line]


def test_a_message_during_a_reply_changes_nothing(tab):
    assert list(tab.add_message(message="second", shown=ASKED, writing=True, kept=None)) == [tab.status]
    assert list(tab.add_example(message="second", shown=ASKED, writing=True, kept=None)) == [tab.status]
    assert list(tab.stream(shown=ASKED, job=None, stage="sft", system="", settings={})) == []


def test_a_reply_carries_its_model_and_keeps_it_when_the_model_is_switched(tab):
    answered = reply_to(tab, ASKED)[tab.shown]
    asked = answered.add(Turn("user", "and you?"))
    both = reply_to(tab, asked, stage="dpo")[tab.shown]
    labels = [turn.model for turn in both.turns]
    assert labels == ["", tab.models.label("sft"), "", tab.models.label("dpo")]
    assert both.turns[1].settings == "temperature 0.8 · seed 1"
    assert both.stage == "dpo" and both.used and both.size == ARGS.block_size


def test_without_a_seed_every_reply_has_one_of_its_own(tab):
    settings = {"max_length": 5, "seed": ""}
    seeds = {reply_to(tab, ASKED, settings=settings)[tab.shown].turns[-1].settings for _ in range(3)}
    assert len(seeds) == 3


def test_a_model_that_has_diverged_is_reported(tab):
    tab.models.load("sft").model.model["norm"].weight.data[0] = math.nan
    *_, last = tab.stream(shown=ASKED, job=Job("job"), stage="sft", system="", settings={})
    assert "not finite" in last[tab.status]


def test_every_job_is_a_new_one(tab):
    jobs = {
        tab.add_message(message="hi", shown=ASKED.without_last(1), writing=False, kept=None)[tab.job]
        for _ in range(3)
    }
    assert len(jobs) == 3


def test_regenerate_replaces_the_reply_with_a_new_seed(tab):
    answered = reply_to(tab, ASKED)[tab.shown]
    begun = tab.act(event(action="regenerate"), stage="sft", box="", shown=answered, writing=False)
    assert begun[tab.shown].messages == ASKED.messages and begun[tab.job].seed is not None
    again = reply_to(tab, begun[tab.shown], begun[tab.job])[tab.shown]
    assert len(again.turns) == 2
    assert again.turns[1].settings == f"temperature 0.8 · seed {begun[tab.job].seed}"
    assert again.turns[1].content != answered.turns[1].content


def test_edit_takes_the_message_back(tab):
    answered = reply_to(tab, ASKED)[tab.shown]
    edited = tab.act(event(action="edit"), stage="sft", box="draft", shown=answered, writing=False)
    assert edited[tab.box] == "hi\ndraft" and edited[tab.shown].turns == () and tab.job not in edited


def test_continue_writes_more_of_the_same_reply(tab):
    greedy = {"max_length": 5, "temperature": 0}
    answered = reply_to(tab, ASKED, settings=greedy)[tab.shown]
    assert answered.turns[-1].end == CUT_BY_LENGTH
    begun = tab.act(event(action="continue"), stage="sft", box="", shown=answered, writing=False)
    longer = reply_to(tab, begun[tab.shown], begun[tab.job], settings=greedy)[tab.shown]
    complete = reply_to(tab, ASKED, settings={"max_length": 10, "temperature": 0})[tab.shown]
    assert longer.turns[-1].content == complete.turns[-1].content
    assert longer.turns[-1].ids == complete.turns[-1].ids and len(longer.turns) == 2

    # Another model did not write it, and a reply that ended is complete.
    other = tab.act(event(action="continue"), stage="dpo", box="", shown=answered, writing=False)
    assert tab.job not in other and "wrote this" in other[tab.status]
    ended = Conversation("k", turns=(*ASKED.turns, Turn("assistant", "yes", end="finished")))
    assert tab.act(event(action="continue"), stage="sft", box="", shown=ended, writing=False).keys() == {
        tab.status
    }


@pytest.mark.parametrize("shown", [new_conversation(), ASKED])
def test_a_button_without_a_reply_does_nothing(tab, shown):
    for action in ("regenerate", "edit", "continue", "nonsense", ""):
        assert tab.act(event(action=action), stage="sft", box="", shown=shown, writing=False).keys() == {
            tab.status
        }


def test_the_system_prompt_is_the_first_turn(tab, monkeypatch):
    seen = []

    def stream_reply(stage, messages, args, begun):
        seen.append([message["role"] for message in messages])
        return iter(())

    monkeypatch.setattr(tab.models, "stream_reply", stream_reply)
    for system in ("Be brief.", " ", None):
        list(tab.stream(shown=ASKED, job=Job("job"), stage="sft", system=system, settings={}))
    assert seen == [["system", "user"], ["user"], ["user"]]
    status = reply_to(tab, ASKED, system="x" * 1_000_000)[tab.status]
    assert "shorten it" in status


def test_conversations_are_kept_opened_and_deleted(tab):
    answered = reply_to(tab, ASKED)[tab.shown]
    kept = tab.finish(shown=answered, kept=None)[tab.kept]
    assert [each.key for each in read_kept(kept)] == ["k"]

    begun = tab.begin_new(shown=answered, kept=kept)
    assert begun[tab.shown].turns == () and len(read_kept(begun[tab.kept])) == 1
    common = {"kept": begun[tab.kept], "stage": "dpo", "shown": begun[tab.shown], "writing": False}
    opened = tab.choose(event(action="open", key="k"), **common)
    assert opened[tab.shown] == answered and opened[tab.stage] == "sft" and opened[tab.kept]["open"] == "k"
    assert "no longer there" in tab.choose(event(action="open", key="none"), **common)[tab.status]
    assert (
        "stop it first"
        in tab.choose(event(action="open", key="k"), **{**common, "writing": True})[tab.status]
    )

    deleted = tab.choose(event(action="delete", key="k"), **{**common, "shown": answered})
    assert read_kept(deleted[tab.kept]) == [] and deleted[tab.shown].turns == ()


def test_the_page_opens_with_what_the_browser_kept(tab):
    answered = reply_to(tab, ASKED)[tab.shown].replace(system="Be brief.", stage="sft")
    opened = tab.open_page(kept=keep(None, answered), draft={"text": "unsent"})
    assert opened[tab.shown] == answered and opened[tab.box] == "unsent" and opened[tab.stage] == "sft"
    assert opened[tab.system] == "Be brief."
    # A message whose reply was being written, and one whose reply never came, are in the box.
    asked = tab.add_message(message="more", shown=answered, writing=False, kept=None)[tab.kept]
    interrupted = tab.open_page(kept=asked, draft={"text": ""})
    assert interrupted[tab.box] == "more" and interrupted[tab.shown].turns[-1].role == "assistant"
    failed = tab.finish(shown=ASKED, kept=keep(None, ASKED))
    assert failed[tab.box] == "hi" and failed[tab.kept]["conversations"] == []

    fresh = tab.open_page(kept="nonsense", draft={"text": 5})
    assert fresh[tab.shown].turns == () and fresh[tab.box] == "" and fresh[tab.stage] == "dpo"
    assert fresh[tab.talk]["visible"] and not fresh[tab.text_column]["visible"]
    base = tab.show_panel("pretrained")
    assert not base[tab.talk]["visible"] and base[tab.text_column]["visible"]


def test_a_server_that_restarts_reads_what_its_browsers_kept():
    first, second = (kept_in_browser("x", {}) for _ in range(2))
    assert (first.storage_key, first.secret) == (second.storage_key, second.secret)


@needs_browser
def test_tokens_arrive_one_after_another(visit, decoding):
    page = visit()
    decoding.pace = 0.03
    page.evaluate(RECORD_UPDATES)
    send_message(page, "hello there")
    status = wait_for_reply(page)
    assert "40 tokens" in status and "tokens/s" in status

    sent, *updates = page.evaluate("window.updates")
    texts = [text for _, text in updates]
    assert len(texts) >= 8
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert updates[0][0] - sent < 3000  # milliseconds; on idle cores it is a tenth of that
    assert updates[-1][0] - updates[0][0] > 600  # 40 tokens take 1200
    assert page.locator("#conversation .user .text").inner_text() == "hello there"
    assert page.locator(".writing").count() == 0


@needs_browser
def test_buttons_under_the_last_reply(visit):
    page = visit("/?temperature=0")  # greedy stand-ins do not end
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    texts = page.locator("#conversation .assistant .text")
    send_message(page, "hello")
    wait_for_reply(page)
    first = texts.inner_text()

    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").strip() == first.strip()

    page.get_by_role("button", name="Continue").click()
    page.wait_for_function(
        "n => document.querySelector('#conversation .assistant .text').innerText.length > n",
        arg=len(first) + 20,
    )
    wait_for_reply(page)
    page.get_by_role("button", name="Regenerate").wait_for()
    assert texts.inner_text().startswith(first)

    facts = page.locator("#conversation .facts")
    seed = facts.inner_text().split("seed ")[1].split()[0]
    page.get_by_role("button", name="Regenerate").click()
    page.wait_for_function(
        "seed => !document.querySelector('#conversation .facts')?.innerText.includes(seed)",
        arg=f"seed {seed}",
    )
    page.get_by_role("button", name="Regenerate").wait_for()
    assert texts.count() == 1

    page.get_by_role("button", name="Edit").click()
    page.locator(".conversation.empty").wait_for()
    box = page.get_by_role("textbox", name="Message")
    expect(box).to_have_value("hello")
    expect(box).to_be_focused()
    box.press("End")
    box.type(" again")
    box.press("Enter")
    wait_for_reply(page)
    assert page.locator("#conversation .user .text").all_inner_texts() == ["hello again"]


@needs_browser
def test_a_reload_brings_conversation_draft_and_list_back(visit):
    page = visit()
    send_message(page, "hello")
    wait_for_reply(page)
    reply = page.locator("#conversation .assistant .text").inner_text()
    label = page.locator("#conversation .facts").inner_text()
    page.get_by_role("textbox", name="Message").type("not sent yet")
    page.wait_for_timeout(1000)

    page.reload()
    page.locator("#conversation .assistant .text").wait_for()
    assert page.locator("#conversation .assistant .text").inner_text() == reply
    assert page.locator("#conversation .facts").inner_text() == label
    expect(page.get_by_role("textbox", name="Message")).to_have_value("not sent yet")

    page.get_by_role("button", name="New conversation").click()
    page.locator(".conversation.empty").wait_for()
    page.get_by_role("button", name="Name three").click()
    wait_for_reply(page)
    page.get_by_role("button", name="Conversations").click()
    titles = page.locator("#kept .open")
    expect(titles).to_have_text(["Name three animals.", "hello"])
    href = page.get_by_role("link", name="JSONL").last.get_attribute("href")
    rows = base64.b64decode(href.partition(",")[2]).decode().splitlines()
    assert [json.loads(row)["messages"][0]["content"] for row in rows] == ["Name three animals.", "hello"]

    titles.nth(1).click()
    page.locator("#conversation .user .text", has_text="hello").wait_for()
    page.get_by_role("button", name="Delete hello").click()
    page.locator(".conversation.empty").wait_for()
    expect(titles).to_have_text(["Name three animals."])


@needs_browser
def test_markup_in_messages_and_replies_is_shown_as_text(visit):
    page = visit()
    prompt = f"attack {HOSTILE}"
    send_message(page, prompt)
    page.locator("#conversation .assistant .text", has_text="$$x$$").wait_for()
    page.get_by_role("button", name="Regenerate").wait_for()
    assert page.locator("#conversation .user .text").inner_text() == prompt
    assert page.locator("#conversation .assistant .text").inner_text() == HOSTILE
    page.get_by_role("button", name="Conversations").click()
    page.locator("#kept .open").wait_for()
    assert page.evaluate("window.hit") is None and page.locator("img[src=x]").count() == 0


@needs_browser
def test_errors_are_shown_and_a_refused_message_returns_to_its_box(visit):
    page = visit()
    send_message(page, " ")
    page.get_by_text("The text is empty").wait_for()
    page.locator(".conversation.empty").wait_for()

    page.get_by_role("spinbutton", name="Length").fill("10")
    send_message(page, "x" * 600)  # within the page's limit, over the model's context
    page.locator("#chat-status .problem").get_by_text("512").wait_for()  # the size of the context
    page.get_by_role("button", name="Send").wait_for()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("x" * 600)  # ready to be shortened
