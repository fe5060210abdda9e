"""Fixtures of the page's tests: the page in this process with stand-in models, and Chromium to visit it."""

import pytest
from page_browser import CHROMIUM, Decoding, free_port
from replies import StageModels
from stand_ins import ARGS, load_app, three_runs

from generation import chat


@pytest.fixture(scope="module")
def decoding():
    """Decoding of the page's models."""
    with pytest.MonkeyPatch.context() as patch:
        stand_in = Decoding(chat.generate)
        patch.setattr(chat, "generate", stand_in)
        yield stand_in


@pytest.fixture
def models(tmp_path, env):
    """A stand-in model for each stage, none of them loaded."""
    args = ARGS.replace(save_checkpoint_dir=str(three_runs(tmp_path / "runs")), max_length=12)
    return StageModels(args, env)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of the runs whose models the page offers."""
    return three_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def votes(tmp_path_factory):
    """File of the votes."""
    return tmp_path_factory.mktemp("votes") / "votes.jsonl"


@pytest.fixture(scope="module")
def address(runs, decoding, votes, env):
    """Address of the page, served by this process with a stand-in for each stage."""
    app = load_app()
    args = ARGS.replace(save_checkpoint_dir=str(runs), max_length=40)
    port = free_port()

    blocks = app.build(StageModels(args, env), votes, seed=1337)  # with others a stand-in may end early
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
    """Opens the page; afterwards the console must be free of errors and no other machine may have been contacted."""
    faults = []
    contexts = []

    def on_console(message):
        if message.type in ("error", "warning"):
            faults.append(message.text)

    def on_request(request):
        if not request.url.startswith((address, "data:")):
            faults.append(request.url)

    def open_page(path="", **options):
        context = browser.new_context(**options)
        contexts.append(context)

        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", on_console)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", on_request)

        page.goto(address + path)
        page.get_by_text("Instruct model.").first.wait_for()
        return page

    decoding.pace = 0.0
    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
