"""The page's looks, in Chromium: axe finds nothing, no width scrolls sideways, and the keyboard's focus is seen."""

from pathlib import Path

import pytest
from page_browser import choose, needs_browser, send_message, wait_for_reply

# Gradio uses pandas in a deprecated way.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"), needs_browser]

# One width of a scheme in the default run, all of them with -m slow.
LOOKS = [("light", 1440), ("dark", 320)]
ALL_LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (320, 768, 1440)]
IS_WIDER = "document.documentElement.scrollWidth > window.innerWidth"
# Parts whose contents stick out of them.
OVERFULL = """[...document.querySelectorAll(".settings, .card, .conversation, .curve, .kept, .token-view")]
    .filter((part) => part.scrollWidth > part.clientWidth + 1).map((part) => part.className)"""
RUN_AXE = """async () => {
    const report = await axe.run({resultTypes: ["violations"]});
    return [report.passes.length, report.violations.map((v) => [v.id, v.nodes[0].html.slice(0, 200)])];
}"""


def fill_chat(page):
    """Chat, with settings and conversations unfolded."""
    page.get_by_text("More settings").click()
    send_message(page, "hello")
    wait_for_reply(page)
    page.get_by_role("button", name="Conversations").click()
    page.locator("#kept .open").wait_for()


def fill_compare(page):
    """Compare three models and reveal them."""
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill("hello")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator("#ballot button").first.wait_for()
    page.get_by_role("button", name="Compare", exact=True).wait_for()


def fill_look(page):
    """Look inside a reply, with the alternatives of a token open."""
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("textbox", name="Question").fill("hello")
    page.get_by_role("button", name="Look", exact=True).click()
    page.locator("button.token").first.wait_for()
    page.get_by_role("button", name="Look", exact=True).wait_for()
    page.locator("button.token").first.focus()


def fill_curves(page):
    """Curves of the runs."""
    page.get_by_role("tab", name="Curves").click()
    page.locator(".curve svg").first.wait_for()


def fill_text(page):
    """The text of the base model."""
    page.get_by_role("tab", name="Chat").click()
    choose(page, "radio", "Pretrained")
    page.get_by_role("button", name="Once upon").click()
    page.get_by_role("button", name="Continue").click()
    page.locator("#text-status").get_by_text("tokens/s").wait_for()
    page.get_by_role("button", name="Try again").wait_for()


@pytest.mark.parametrize("looks", [LOOKS, pytest.param(ALL_LOOKS, marks=pytest.mark.slow)])
def test_axe_finds_nothing(visit, looks):
    from axe_playwright_python import sync_playwright

    page = visit(color_scheme="light")
    page.evaluate(Path(sync_playwright.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    faults = []
    for fill in (fill_chat, fill_compare, fill_look, fill_curves, fill_text):
        page.set_viewport_size({"width": 1180, "height": 900})
        fill(page)
        for scheme, width in looks:
            # Gradio reads the scheme when the page opens; its class is what every colour follows.
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(250)  # colours change over a moment
            num_passes, violations = page.evaluate(RUN_AXE)
            assert num_passes > 10
            faults += [(fill.__name__, scheme, width, *violation) for violation in violations]
            if page.evaluate(IS_WIDER):
                faults.append((fill.__name__, scheme, width, "wider than the window"))
            faults += [(fill.__name__, scheme, width, "overfull", part) for part in page.evaluate(OVERFULL)]
    assert faults == [], "\n".join(map(str, faults))

    for width in (320, 375, 768, 1024, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        assert not page.evaluate(IS_WIDER) and page.evaluate(OVERFULL) == []


def test_the_message_box_is_seen_without_scrolling(visit):
    page = visit(viewport={"width": 1180, "height": 760})
    send_message(page, "hello")
    wait_for_reply(page)
    box = page.get_by_role("textbox", name="Message").bounding_box()
    assert box["y"] + box["height"] <= 760 and page.evaluate("window.scrollY") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_keyboard_reaches_everything_and_shows_where_it_is(visit, scheme):
    page = visit(color_scheme=scheme)
    send_message(page, "hello")
    wait_for_reply(page)
    page.mouse.click(2, 2)  # from the top of the page
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, shown = page.evaluate(
            """() => {
                const element = document.activeElement;
                const shows = (e) => {
                    const style = getComputedStyle(e);
                    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
                };
                const name = element.innerText || element.ariaLabel || element.name || element.placeholder;
                return [name, shows(element) || shows(element.closest("label") || element)];
            }"""
        )
        reached.append((name or "").strip())
        assert shown or not name, f"{name} has the focus and does not show it"
        if "More settings" in reached[-1]:
            break
    for name in ("Chat", "Copy", "Regenerate", "Edit", "Write a message", "Send", "temperature", "Precise"):
        assert any(name in each for each in reached), (name, reached)
