"""Helpers of the page's tests: Chromium, a slow and countable decoding, messages sent like a visitor sends them."""

import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from settings_form import settings_form
from stand_ins import letters

import gradio as gr

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

CLICKS = 10
SETTLE_MS = 300  # in which a page that was just loaded may set a field back

# Text that would run as script or markup wherever the page forgets to escape it.
HOSTILE = "<script>window.hit=1</script><img src=x onerror='window.hit=2'>${window.hit=3}{{hit}}**b**$$x$$"

# Records the time of a key press, then the time and text of each update of the reply.
RECORD_UPDATES = """() => {
    const conversation = document.querySelector("#conversation");
    document.addEventListener("keydown", () => { window.updates = [performance.now()]; });
    new MutationObserver(() => {
        const text = conversation.querySelector(".assistant .text")?.textContent;
        if (text && text !== window.updates.at(-1)[1]) window.updates.push([performance.now(), text]);
    }).observe(conversation, {childList: true, subtree: true, characterData: true});
}"""

needs_browser = pytest.mark.skipif(
    not CHROMIUM and os.environ.get("CI") != "true",  # in CI nothing may be skipped
    reason="no Chromium here: apt-get install chromium",
)


class Decoding:
    """Stand-in for `generate`: counts tokens and running replies, waits `pace` seconds a token.

    It replies HOSTILE to a prompt that contains the word attack.
    """

    def __init__(self, generate: Callable[..., Iterator[int]]):
        self.generate = generate
        self.num_tokens = 0
        self.pace = 0.0
        self.running = 0
        self.max_running = 0

    def __call__(self, model: Any, prompt: list[int], *args: Any, **options: Any) -> Iterator[int]:
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            if "attack" in letters().decode(prompt):
                tokens = letters().encode(HOSTILE)
            else:
                tokens = self.generate(model, prompt, *args, **options)

            for token in tokens:
                time.sleep(self.pace)
                self.num_tokens += 1
                yield token
        finally:
            self.running -= 1

    def has_stopped(self) -> bool:
        """Return True if no more tokens are decoded."""
        time.sleep(0.3)  # the step that was running may end
        before = self.num_tokens
        time.sleep(0.4)
        return self.num_tokens == before and self.running == 0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def send_message(page: Any, text: str) -> None:
    """Send a message in the chat with the Enter key."""
    box = page.get_by_role("textbox", name="Message")
    box.fill(text)
    box.press("Enter")


def wait_for_reply(page: Any) -> str:
    """Wait until the chat's reply is complete; return its status line."""
    status = page.locator("#chat-status")
    line = status.get_by_text("cut: ").or_(status.get_by_text("finished"))
    line.wait_for()
    page.get_by_role("button", name="Send").wait_for()
    return line.inner_text()


def choose(page: Any, role: str, name: str, checked: bool = True) -> None:
    """Set a radio button or a box; again where the page, just loaded, has set it back."""
    from playwright.sync_api import expect

    field = page.get_by_role(role, name=name).first
    for _ in range(CLICKS):
        if field.is_checked() != checked:
            field.click()
        try:
            page.wait_for_timeout(SETTLE_MS)
            expect(field).to_be_checked(checked=checked, timeout=SETTLE_MS)
            return
        except AssertionError:
            continue
    raise AssertionError(f"{name} cannot be set")


def open_settings(page: Any) -> None:
    """Unfold the settings that are folded."""
    page.get_by_text("More settings").click()


def event(**data: str) -> gr.EventData:
    """Return an event of page.js."""
    return gr.EventData(None, data)


def build(tab: type, models: Any, *args: Any) -> Any:
    """Build a tab without a browser: its handlers can be called, and return {component: value}."""
    with gr.Blocks():
        settings = settings_form(models.args)
        built = tab(models, settings, *args)
        settings.render()
    return built


def page_text(url: str) -> str:
    """Return the text of a page as soon as its server answers."""
    for _ in range(100):
        try:
            return urllib.request.urlopen(url, timeout=5).read().decode()
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(url)
