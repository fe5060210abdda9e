"""Tabs of the page in Chromium: a visitor chats, compares, votes, sees probabilities; the models are stand-ins."""

import json

import pytest
from page_browser import HOSTILE, RECORD_UPDATES, needs_browser, send_message, wait_for_reply
from replies import Reply

# Gradio uses pandas in a deprecated way.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"), needs_browser]


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
    page.get_by_role("button", name="Send").wait_for()
    assert page.locator(".writing").count() == 0


def test_another_model_shows_the_conversation_in_its_style(visit):
    page = visit()
    send_message(page, "hello")
    wait_for_reply(page)
    assert page.locator(".conversation.answers").count() == 1
    answer = page.locator("#conversation .assistant .text").inner_text()

    page.get_by_role("radio", name="Pretrained").first.check()
    page.get_by_text("Base model.").first.wait_for()
    page.locator(".conversation.continues").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.locator(".conversation.empty").wait_for()
    page.get_by_role("button", name="Once upon a time").click()
    wait_for_reply(page)
    assert page.locator("#conversation .user .text").inner_text() == "Once upon a time"
    assert page.locator("#conversation .assistant .text").inner_text() != answer


def test_a_vote_reveals_the_models_and_appends_rows(visit, votes, monkeypatch):
    monkeypatch.setattr(Reply, "ended", True)  # those of the stand-ins are cut
    page = visit()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill("which is best?")
    page.get_by_role("button", name="Compare", exact=True).click()
    button = page.get_by_role("button", name="B is better")
    button.wait_for()
    texts = page.locator(".card .text").all_text_contents()
    assert len(set(texts)) == 3 and all(texts)
    anonymous = page.locator("#replies").inner_html()
    assert not any(title in anonymous for title in ("Pretrained", "SFT", "DPO"))

    button.click()
    page.get_by_text("Rows added to votes.jsonl: 2").wait_for()
    titles = page.locator(".card h2").all_inner_texts()
    assert sorted(title.split()[1] for title in titles) == ["DPO", "Pretrained", "SFT"]
    assert "your choice" in titles[1]

    rows = [json.loads(line) for line in votes.read_text(encoding="utf-8").splitlines()]
    assert [row["chosen"][1]["content"] for row in rows] == [texts[1].strip()] * 2
    assert {row["rejected"][1]["content"] for row in rows} == {texts[0].strip(), texts[2].strip()}
    for row in rows:
        for side in ("chosen", "rejected"):
            assert row[side][0] == {"role": "user", "content": "which is best?"}
    assert not button.is_visible()  # one vote for one comparison


def test_look_inside_shows_the_alternatives_of_a_token(visit):
    page = visit()
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("textbox", name="Text").fill("hello")
    page.get_by_role("button", name="Look", exact=True).click()
    token = page.locator("button.token").nth(7)
    token.wait_for()
    assert page.locator("button.token").count() == 40

    alternatives = page.locator(".alternatives").nth(7)
    assert not alternatives.is_visible()
    token.hover()
    alternatives.wait_for()
    percents = alternatives.locator(".alternative > :last-child").all_inner_texts()
    shares = [float(text.rstrip("%")) for text in percents]
    assert len(shares) == 6 and shares == sorted(shares, reverse=True) and 5 < sum(shares) <= 100.5

    page.mouse.move(0, 0)
    token.focus()
    assert alternatives.is_visible()  # by keyboard or touch as well
    assert page.locator(".curve svg").count() == 3
    assert "validation 1.250" in page.locator(".curve").first.inner_text()


def test_markup_in_prompts_and_replies_is_shown_as_text(visit):
    page = visit()
    prompt = f"attack {HOSTILE}"
    send_message(page, prompt)
    page.locator("#conversation .assistant .text", has_text="$$x$$").wait_for()
    assert page.locator("#conversation .user .text").inner_text() == prompt
    assert page.locator("#conversation .assistant .text").inner_text() == HOSTILE

    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("button", name="Show the models").click()
    page.get_by_text("A: ").wait_for()
    assert page.locator(".card .text").all_inner_texts() == [HOSTILE] * 3

    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("textbox", name="Text").fill(prompt)
    page.get_by_role("button", name="Look", exact=True).click()
    page.locator("button.token").nth(len(HOSTILE) - 1).wait_for()
    assert page.locator(".token-view .prompt").inner_text() == prompt
    assert "".join(page.locator("button.token").all_text_contents()) == HOSTILE
    assert page.evaluate("window.hit") is None and page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "dark"},
        {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    ],
    ids=["dark", "phone"],
)
def test_every_tab_is_accessible(visit, options):
    """Check with axe-core that no tab has a serious fault when filled, and that nothing is wider than the window."""
    from axe_playwright_python.sync_playwright import Axe

    page = visit(**options)
    for tab, box, start, filled in (
        ("Chat", "Message", "Send", "#conversation .assistant"),
        ("Compare", "Prompt", "Compare", "#ballot button"),
        ("Look inside", "Text", "Look", "button.token"),
    ):
        page.get_by_role("tab", name=tab).click()
        page.get_by_role("textbox", name=box).fill("hello")
        page.get_by_role("button", name=start, exact=True).click()
        page.locator(filled).first.wait_for()
        page.locator(".writing").wait_for(state="detached")

        report = Axe().run(page).response
        assert len(report["passes"]) > 10
        faults = [
            (violation["id"], violation["nodes"][0]["html"])
            for violation in report["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        assert faults == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_errors_are_shown_and_a_refused_message_returns_to_its_box(visit):
    page = visit()
    send_message(page, " ")
    page.get_by_text("The text is empty").wait_for()
    page.locator(".conversation.empty").wait_for()

    page.get_by_role("spinbutton", name="max_length").fill("10")
    send_message(page, "x" * 600)  # within the page's limit, over the model's context
    page.locator("#chat-status .problem").get_by_text("512").wait_for()  # the size of the context
    page.get_by_role("button", name="Send").wait_for()
    assert page.get_by_role("textbox", name="Message").input_value() == "x" * 600  # ready to be shortened
