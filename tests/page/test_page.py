"""The demo page as a person meets it: Chromium clicks and reads; the models behind it are stand-ins of real shape."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from replies import Models
from stand_ins import ARGS, letters, load_app, three_runs
from toy import QUIET, ROOT

from generation import chat
from runtime.errors import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SAMPLING = (0.8, 50, 1.0, 0.0, 1.0, 0.0)  # from temperature to the penalties, in the page's order
HOSTILE = "<script>window.hit=1</script><img src=x onerror='window.hit=2'>${window.hit=3}{{hit}}**b**$$x$$"
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:gradio"
)  # of the library's own use of pandas
# Writes down when Enter is pressed, and each text that the reply then has.
WATCH = """() => {
    const talk = document.querySelector("#talk");
    document.addEventListener("keydown", () => { window.seen = [performance.now()]; });
    new MutationObserver(() => {
        const text = talk.querySelector(".assistant .said")?.textContent;
        if (text && text !== window.seen.at(-1)[1]) window.seen.push([performance.now(), text]);
    }).observe(talk, {childList: true, subtree: true, characterData: true});
}"""
needs_browser = pytest.mark.skipif(
    not CHROMIUM and os.environ.get("CI") != "true",  # there nothing may be skipped
    reason="no Chromium here: apt-get install chromium",
)


class Decoding:
    """In the place of generate: counts tokens and replies under way, takes its time, says HOSTILE if told to attack."""

    def __init__(self, real):
        self.real, self.count, self.pace = real, 0, 0.0
        self.under_way, self.most = 0, 0

    def __call__(self, model, prompt, *args, **options):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            attack = "attack" in letters().decode(prompt)
            for token in letters().encode(HOSTILE) if attack else self.real(model, prompt, *args, **options):
                time.sleep(self.pace)
                self.count += 1
                yield token
        finally:
            self.under_way -= 1

    def is_over(self) -> bool:
        """Whether no more tokens are made."""
        time.sleep(0.3)  # the step that was under way
        before = self.count
        time.sleep(0.4)
        return self.count == before and self.under_way == 0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def decoding():
    """How the models of the page decode."""
    with pytest.MonkeyPatch.context() as patch:
        watched = Decoding(chat.generate)
        patch.setattr(chat, "generate", watched)
        yield watched


@pytest.fixture(scope="module")
def votes(tmp_path_factory):
    """The file of the votes."""
    return tmp_path_factory.mktemp("votes") / "votes.jsonl"


@pytest.fixture(scope="module")
def address(tmp_path_factory, decoding, votes, env):
    """The page in this process, with a stand-in for each stage."""
    app = load_app()
    runs = three_runs(tmp_path_factory.mktemp("runs"))
    args = ARGS.replace(save_checkpoint_dir=str(runs), max_length=40)
    port = free_port()
    blocks = app.build(Models(args, env), votes)
    app.launch(blocks, server_name="127.0.0.1", server_port=port, share=False, prevent_thread_lock=True)
    yield f"http://127.0.0.1:{port}"
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address, decoding):
    """Opens the page; at the end, nothing has gone wrong in the console and no other machine was asked for anything."""
    faults, contexts = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on(
            "console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith((address, "data:")) else faults.append(asked.url),
        )
        page.goto(address)
        page.get_by_text("Instruct model.").first.wait_for()
        return page

    decoding.pace = 0.0
    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def say(page, text: str) -> None:
    """Send a message in the chat."""
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("textbox", name="Message").press("Enter")


def ended(page, place: str = "#chat-status"):
    """Wait until a reply is whole; returns the line about it."""
    line = (
        page.locator(place)
        .get_by_text("--max_length")
        .or_(page.locator(place).get_by_text("ended by itself"))
    )
    line.wait_for()
    return line.inner_text()


@needs_browser
def test_tokens_arrive_one_after_another(visit, decoding):
    page, decoding.pace = visit(), 0.03
    page.evaluate(WATCH)
    say(page, "hello there")
    assert "40 tokens" in ended(page) and "tokens/s" in ended(page)
    sent, *seen = page.evaluate("window.seen")
    texts = [text for _, text in seen]
    assert len(texts) >= 8 and all(b.startswith(a) for a, b in zip(texts, texts[1:], strict=False))
    assert seen[0][0] - sent < 3000  # milliseconds; on idle cores it is a tenth of that
    assert seen[-1][0] - seen[0][0] > 600  # 40 tokens take 1200
    assert page.locator("#talk .user .said").inner_text() == "hello there"
    page.get_by_role("button", name="Send").wait_for()
    assert page.locator(".writing").count() == 0


@needs_browser
def test_stop_ends_the_work_and_keeps_the_text(visit, decoding):
    page, decoding.pace = visit(), 0.03
    page.get_by_role("spinbutton", name="max_length").fill("400")
    say(page, "go on for long")
    page.wait_for_function("document.querySelector('#talk .assistant .said')?.innerText.length > 4")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send").wait_for()
    assert decoding.is_over() and decoding.count < 200
    stopped = page.locator("#talk .assistant .said").inner_text()
    assert 4 < len(stopped) < 200 and page.locator(".writing").count() == 0
    decoding.pace = 0.0
    page.get_by_role("spinbutton", name="max_length").fill("10")
    say(page, "and now")
    ended(page)
    assert page.locator("#talk .turn").count() == 4
    page.get_by_role("button", name="Clear").click()
    page.locator(".talk.empty").wait_for()


@needs_browser
def test_a_message_sent_while_a_reply_is_written_waits_in_its_box(visit, decoding):
    page, decoding.pace = visit(), 0.03
    say(page, "first")
    page.locator("#talk .assistant .said").wait_for()
    say(page, "second")
    assert "40 tokens" in ended(page)
    page.get_by_role("button", name="Send").wait_for()
    decoding.pace = 0.0
    assert page.locator("#talk .user .said").all_inner_texts() == ["first"]
    assert page.get_by_role("textbox", name="Message").input_value() == "second"
    page.get_by_role("textbox", name="Message").press("Enter")
    page.locator("#talk .assistant .said").nth(1).wait_for()
    ended(page)
    assert page.locator("#talk .user .said").all_inner_texts() == ["first", "second"]
    decoding.pace = 0.03
    say(page, "third")
    page.locator("#talk .assistant .said").nth(2).wait_for()
    page.get_by_role("button", name="Clear").click()
    page.locator(".talk.empty").wait_for()
    assert decoding.is_over() and page.locator(".talk.empty").count() == 1


@needs_browser
def test_a_page_that_is_closed_stops_computing(visit, decoding):
    page, decoding.pace = visit(), 0.03
    page.get_by_role("spinbutton", name="max_length").fill("400")
    before = decoding.count
    say(page, "go on for long")
    page.locator("#talk .assistant .said").wait_for()
    page.close()
    time.sleep(1)  # for the server to miss its client
    assert decoding.is_over() and 0 < decoding.count - before < 200


@needs_browser
def test_another_model_takes_the_conversation_its_own_way(visit):
    page = visit()
    say(page, "hello")
    ended(page)
    assert page.locator(".talk.answers").count() == 1
    answer = page.locator("#talk .assistant .said").inner_text()
    page.get_by_role("radio", name="Pretrained").first.check()
    page.get_by_text("Base model.").first.wait_for()
    page.locator(".talk.continues").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.locator(".talk.empty").wait_for()
    page.get_by_role("button", name="Once upon a time").click()
    ended(page)
    assert page.locator("#talk .user .said").inner_text() == "Once upon a time"
    assert page.locator("#talk .assistant .said").inner_text() != answer


@needs_browser
def test_compare_vote_and_find_the_row(visit, votes):
    page = visit()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill("which is best?")
    page.get_by_role("button", name="Compare", exact=True).click()
    button = page.get_by_role("button", name="B is better")
    button.wait_for()
    cards = page.locator(".card .said").all_text_contents()
    assert len(set(cards)) == 3 and all(cards)
    assert not any(word in page.locator("#replies").inner_html() for word in ("Pretrained", "SFT", "DPO"))
    button.click()
    page.get_by_text("Rows added to votes.jsonl: 2").wait_for()
    titles = page.locator(".card h2").all_inner_texts()
    assert (
        sorted(title.split()[1] for title in titles) == ["DPO", "Pretrained", "SFT"]
        and "your choice" in titles[1]
    )
    rows = [json.loads(line) for line in votes.read_text(encoding="utf-8").splitlines()]
    assert [row["chosen"][1]["content"] for row in rows] == [cards[1].strip()] * 2
    assert {row["rejected"][1]["content"] for row in rows} == {cards[0].strip(), cards[2].strip()}
    assert all(
        row[side][0] == {"role": "user", "content": "which is best?"}
        for row in rows
        for side in ("chosen", "rejected")
    )
    assert not button.is_visible()  # one vote for one comparison


@needs_browser
def test_look_inside_shows_what_else_was_likely(visit):
    page = visit()
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("textbox", name="Text").fill("hello")
    page.get_by_role("button", name="Look", exact=True).click()
    token = page.locator("button.token").nth(7)
    token.wait_for()
    assert page.locator("button.token").count() == 40
    others = page.locator(".others").nth(7)
    assert not others.is_visible()
    token.hover()
    others.wait_for()
    shares = [float(text.rstrip("%")) for text in others.locator(".guess > :last-child").all_inner_texts()]
    assert len(shares) == 6 and shares == sorted(shares, reverse=True) and 5 < sum(shares) <= 100.5
    page.mouse.move(0, 0)
    token.focus()
    assert others.is_visible()  # by keyboard or touch as well
    assert page.locator(".curve svg").count() == 3
    assert "validation 1.250" in page.locator(".curve").first.inner_text()


@needs_browser
def test_tags_in_prompts_and_replies_stay_text(visit):
    page = visit()
    say(page, f"attack {HOSTILE}")
    page.locator("#talk .assistant .said", has_text="$$x$$").wait_for()
    assert page.locator("#talk .user .said").inner_text() == f"attack {HOSTILE}"
    assert page.locator("#talk .assistant .said").inner_text() == HOSTILE
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("textbox", name="Prompt").fill(f"attack {HOSTILE}")
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("button", name="Just show").click()
    page.get_by_text("A: ").wait_for()
    assert page.locator(".card .said").all_inner_texts() == [HOSTILE] * 3
    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("textbox", name="Text").fill(f"attack {HOSTILE}")
    page.get_by_role("button", name="Look", exact=True).click()
    page.locator("button.token").nth(len(HOSTILE) - 1).wait_for()
    assert page.locator(".look .explicit").inner_text() == f"attack {HOSTILE}"
    assert "".join(page.locator("button.token").all_text_contents()) == HOSTILE
    assert page.evaluate("window.hit") is None and page.locator("img[src=x]").count() == 0


@needs_browser
@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "dark"},
        {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    ],
    ids=["dark", "phone"],
)
def test_everybody_can_use_it(visit, options):
    """axe-core finds no serious fault on any tab, filled; nothing is wider than the window."""
    from axe_playwright_python.sync_playwright import Axe

    page = visit(**options)
    for tab, box, go, there in (
        ("Chat", "Message", "Send", "#talk .assistant"),
        ("Compare", "Prompt", "Compare", "#ballot button"),
        ("Look inside", "Text", "Look", "button.token"),
    ):
        page.get_by_role("tab", name=tab).click()
        page.get_by_role("textbox", name=box).fill("hello")
        page.get_by_role("button", name=go, exact=True).click()
        page.locator(there).first.wait_for()
        page.locator(".writing").wait_for(state="detached")
        checked = Axe().run(page).response
        assert len(checked["passes"]) > 10
        assert [
            (fault["id"], fault["nodes"][0]["html"])
            for fault in checked["violations"]
            if fault["impact"] in ("serious", "critical")
        ] == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@needs_browser
def test_what_cannot_be_done_is_said(visit):
    page = visit()
    say(page, " ")
    page.get_by_text("Write something first.").wait_for()
    page.locator(".talk.empty").wait_for()
    page.get_by_role("spinbutton", name="max_length").fill("10")
    say(page, "x" * 600)  # within the page's limit, over the model's context
    page.get_by_text("the context holds 512").wait_for()
    page.get_by_role("button", name="Send").wait_for()
    assert page.get_by_role("textbox", name="Message").input_value() == "x" * 600  # to be shortened


def test_with_no_model_every_tab_says_how_to_make_one(tmp_path, env):
    page = load_app().Page(
        Models(ARGS.replace(save_checkpoint_dir=str(tmp_path)), env), tmp_path / "votes.jsonl"
    )
    settings = (5, *SAMPLING, 1)
    asked = [{"role": "user", "content": "hi"}]
    assert "trainer.py --train S" in next(page.chat(asked, "sft", *settings))[-1]
    assert page.end_chat(asked, "sft")[:2] == ("hi", [])
    assert "trainer.py --train P" in next(page.compare("hi", *settings))[-1]
    assert "trainer.py --train D" in next(page.look("hi", "dpo", *settings))[-1]
    assert "trainer.py --train P" in page.opened()[1]


def test_settings_are_whole_where_they_count_and_the_seed_may_be_empty(tmp_path, env):
    page = load_app().Page(
        Models(ARGS.replace(save_checkpoint_dir=str(three_runs(tmp_path))), env), tmp_path / "votes"
    )
    chosen = {name: getattr(ARGS, name) for name in load_app().RANGES} | {"max_length": 20.5, "seed": None}
    args = page.settings(tuple(chosen.values()))
    assert args.max_length == 20 and type(args.top_k) is int and args.seed is None


def test_the_order_of_a_comparison_is_drawn_anew(tmp_path, env):
    page = load_app().Page(Models(ARGS.replace(save_checkpoint_dir=str(three_runs(tmp_path))), env), tmp_path)
    orders = {tuple(list(page.compare("hi", 2, *SAMPLING, 1))[-1][1].order) for _ in range(12)}
    assert len(orders) > 1 and {frozenset(order) for order in orders} == {
        frozenset(["pretrained", "sft", "dpo"])
    }


def test_twenty_people_at_once_are_served_in_turn(address, decoding, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import page
    from gradio_client import Client

    decoding.pace = decoding.most = 0
    clients = [Client(address, verbose=False) for _ in range(20)]
    done = page.figures(page.one_round(clients, max_length=20))
    assert done["failures"] == 0 and done["errors"] == []
    assert decoding.most == 1 and decoding.under_way == 0


def test_it_starts_as_the_readme_says(tmp_path):
    """From the root and from its own folder; with no model, it is there all the same."""
    ports, processes = (free_port(), free_port()), []
    try:
        for port, folder, script in zip(ports, (".", "gradio"), ("gradio/app.py", "app.py"), strict=True):
            words = [
                sys.executable,
                script,
                "--server_port",
                str(port),
                "--save_checkpoint_dir",
                str(tmp_path),
            ]
            processes.append(
                subprocess.Popen(words, cwd=ROOT / folder, env=QUIET, stdout=subprocess.PIPE, text=True)
            )
        for port, process in zip(ports, processes, strict=True):
            assert process.stdout.readline().startswith(f"http://127.0.0.1:{port} ")
            assert "SmolLlama" in page_text(f"http://127.0.0.1:{port}")
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)


def page_text(url: str) -> str:
    """What a server answers, as soon as it does."""
    for _ in range(100):
        try:
            return urllib.request.urlopen(url, timeout=5).read().decode()
        except urllib.error.URLError:
            time.sleep(0.1)
    raise TimeoutError(url)


def test_a_port_that_is_taken_is_said_in_one_line(address, monkeypatch):
    monkeypatch.setattr("sys.argv", ["app.py", "--server_port", address.rpartition(":")[2]])
    with pytest.raises(UserError, match="cannot listen on 127.0.0.1:.* choose another --server_port"):
        load_app().main()
