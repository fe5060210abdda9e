"""All pictures of the README, of one quickstart: its loss curves, and the page's tabs with its models.

python benchmarks/page_pictures.py [--save_checkpoint_dir checkpoints] [--prompt "..."]      needs Chromium
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from page import ROOT, serve_page
from playwright.sync_api import Browser, Page, sync_playwright

from runtime.command_line import Parser
from training.plots import draw

IMAGES = ROOT / "images"
RUNS = ("P-stories", "S-stories_instruct", "D-stories_preference")
MESSAGES = ("What is the opposite of big?", "Write a story about Tom and a bell.")

# Opens the token whose probability is nearest to 40 %: there the model had a choice.
FOCUS_UNSURE_TOKEN = """() => {
    const distance = token => Math.abs(token.style.getPropertyValue("--p") - 0.4);
    const tokens = [...document.querySelectorAll("button.token")];
    tokens.sort((a, b) => distance(a) - distance(b))[0].focus({preventScroll: true});
}"""


def open_page(browser: Browser, address: str, color_scheme: str, width: int = 1180) -> Page:
    """Open the page in a new window, with sampling settings for a small model."""
    page = browser.new_page(
        viewport={"width": width, "height": 760}, device_scale_factor=1.5, color_scheme=color_scheme
    )
    page.goto(f"{address}?max_length=220&temperature=0.3&seed=1")
    page.get_by_text("model.").first.wait_for()
    return page


def send(page: Page, box: str, text: str, button: str) -> None:
    """Write into a box, press its button and wait for the complete reply."""
    page.get_by_role("textbox", name=box).fill(text)
    page.get_by_role("button", name=button, exact=True).click()
    page.get_by_role("button", name="Stop").wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="hidden")


def take_pictures(browser: Browser, address: str, prompt: str, choice: str) -> None:
    """Use each tab like a visitor and save a picture of it."""
    page = open_page(browser, address, "light")
    for message in MESSAGES:
        send(page, "Message", message, "Send")
    page.screenshot(path=IMAGES / "page_chat.png")

    page.get_by_role("tab", name="Compare").click()
    send(page, "Prompt", prompt, "Compare")
    page.get_by_role("button", name=f"{choice} is better").click()
    page.get_by_text("Rows added").wait_for()
    page.screenshot(path=IMAGES / "page_compare.png", full_page=True)

    page.get_by_role("tab", name="Curves").click()
    page.locator(".curve svg").first.wait_for()
    page.screenshot(path=IMAGES / "page_curves.png", full_page=True)

    page = open_page(browser, address, "dark")
    page.get_by_role("tab", name="Look inside").click()
    send(page, "Question", prompt, "Look")
    page.locator("button.token").first.wait_for()
    page.evaluate(FOCUS_UNSURE_TOKEN)
    page.screenshot(path=IMAGES / "page_look.png", full_page=True)

    page = open_page(browser, address, "dark", width=390)
    for message in MESSAGES:
        send(page, "Message", message, "Send")
    page.screenshot(path=IMAGES / "page_phone.png")

    page.get_by_role("radio", name="Pretrained").first.check()
    page.get_by_role("button", name="Once upon").click()
    page.get_by_role("button", name="Continue").click()
    page.locator("#text-status").get_by_text("tokens/s").wait_for()
    page.screenshot(path=IMAGES / "page_text.png")


def main() -> None:
    """Take the pictures."""
    parser = Parser(__doc__)
    parser.add_argument("--save_checkpoint_dir", default=ROOT / "checkpoints")
    parser.add_argument("--prompt", default=MESSAGES[1], help="for the tabs Compare and Look inside")
    parser.add_argument("--choice", default="A", help="the reply that gets the vote")
    args = parser.parse_args()

    runs = [Path(args.save_checkpoint_dir) / name for name in RUNS]
    if missing := [run for run in runs if not (run / "metrics.jsonl").is_file()]:
        parser.error(f"no run in {missing[0]}: bash install.sh quickstart trains it")
    draw(runs, IMAGES / "quickstart_loss.png")
    with serve_page(args.save_checkpoint_dir) as (address, _), sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take_pictures(browser, address, args.prompt, args.choice)
        browser.close()


if __name__ == "__main__":
    main()
