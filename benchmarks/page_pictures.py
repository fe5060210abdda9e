"""Pictures of the page's three tabs, from the newest runs: images/page_chat.png, page_compare.png, page_look.png.

python benchmarks/page_pictures.py [--save_checkpoint_dir checkpoints] [--prompt "..."]      needs Chromium
"""

import argparse
import shutil

from page import ROOT, served
from playwright.sync_api import Browser, Page, sync_playwright

CHAT = ("What is the opposite of big?", "Write a story about Tom and a bell.")

# Opens the token whose probability is nearest to two fifths: there the model had a choice.
UNDECIDED = """() => {
    const far = token => Math.abs(token.style.getPropertyValue("--p") - 0.4);
    [...document.querySelectorAll("button.token")].sort((a, b) => far(a) - far(b))[0].focus({preventScroll: true});
}"""


def open_page(browser: Browser, address: str, scheme: str) -> Page:
    """The page in a window of its own, with its settings for a small model."""
    page = browser.new_page(
        viewport={"width": 1180, "height": 760}, device_scale_factor=1.5, color_scheme=scheme
    )
    page.goto(address)
    page.get_by_text("model.").first.wait_for()
    for name, value in (("max_length", 220), ("temperature", 0.3)):
        page.get_by_role("spinbutton", name=name).fill(str(value))
    return page


def ask(page: Page, box: str, text: str, button: str) -> None:
    """Write into a box, press its button, wait for the whole reply."""
    page.get_by_role("textbox", name=box).fill(text)
    page.get_by_role("button", name=button, exact=True).click()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="hidden")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save_checkpoint_dir", default=ROOT / "checkpoints")
    parser.add_argument("--prompt", default=CHAT[1], help="for the tabs that compare and look inside")
    parser.add_argument("--choice", default="A", help="the reply that is voted for")
    args = parser.parse_args()
    with served(args.save_checkpoint_dir) as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = open_page(browser, address, "light")
        for message in CHAT:
            ask(page, "Message", message, "Send")
        page.screenshot(path=ROOT / "images" / "page_chat.png")
        page.get_by_role("tab", name="Compare").click()
        ask(page, "Prompt", args.prompt, "Compare")
        page.get_by_role("button", name=f"{args.choice} is better").click()
        page.get_by_text("Rows added").wait_for()
        page.screenshot(path=ROOT / "images" / "page_compare.png", full_page=True)
        page = open_page(browser, address, "dark")
        page.get_by_role("tab", name="Look inside").click()
        ask(page, "Text", args.prompt, "Look")
        page.evaluate(UNDECIDED)
        page.screenshot(path=ROOT / "images" / "page_look.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
