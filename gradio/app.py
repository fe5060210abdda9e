"""Demo page: chat with the newest models or with those named, compare them, see the probability of each token.

    python gradio/app.py [--model FOLDER ...] [--server_port 7860] [--save_checkpoint_dir DIR] [--votes FILE]
                         [--share] [--auth USER:PASSWORD]
    cd gradio && pip install gradio && python app.py

It listens on this machine only, unless --server_name names another address.
"""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

# The project's modules are one folder up. This folder has no __init__.py, so `import gradio` is the library.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors", "gradio", "starlette")

from api_guard import ApiGuard, Page
from chat_tab import ChatTab
from compare_tab import LETTERS, CompareTab
from curves_tab import CurvesTab
from guard import LOOPBACK, RequestGuard, page_hosts
from look_tab import LookTab
from replies import StageModels
from settings_form import settings_form
from starlette.middleware import Middleware
from waiting import MAX_WAITING
from wiring import NO_QUEUE

import gradio as gr
from checkpoint import load_sampling
from config import ModelArgs, Parser, resolve
from generation.chat import choose_model
from runtime import distributed
from runtime.errors import UserError, run_cli

ROOT = Path(__file__).resolve().parent.parent
MAX_THREADS = MAX_WAITING + 32  # a visitor who waits for a reply holds a thread
MAX_PORT = 65535

# Text and buttons with enough contrast to be readable (WCAG AA), in the light and in the dark scheme.
COLORS = {
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "input_placeholder_color": "*neutral_600",
    "input_placeholder_color_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "input_background_fill_dark": "*neutral_800",
    "input_border_color": "*neutral_400",
    "input_border_color_dark": "*neutral_500",
    "block_label_text_color": "*neutral_700",
    "block_title_text_color": "*neutral_700",
}


@dataclass(frozen=True)
class PageOptions:
    """Command line of the page apart from the model's settings."""

    server_name: str
    server_port: int
    share: bool
    votes: Path | None
    models: list[str]
    seed: int | None
    auth: tuple[str, str] | None


def build(models: StageModels, votes_path: Path | None, seed: int | None = None) -> gr.Blocks:
    """Build the page; no model is loaded before the first request. Without a seed each reply has one of its own."""
    settings = settings_form(models.args, seed)

    with Page(title="SmolLlama", analytics_enabled=False) as blocks:
        gr.HTML(
            "<header><h1>SmolLlama</h1>"
            "<p>A small Llama, trained from scratch. What does each stage change?</p></header>"
        )

        with gr.Row(elem_classes="page"):
            with gr.Column(scale=5, min_width=280), gr.Tabs() as tabs:
                with gr.Tab("Chat"):
                    chat = ChatTab(models, settings)
                with gr.Tab("Compare"):
                    compare = CompareTab(models, settings, votes_path)
                with gr.Tab("Look inside"):
                    look = LookTab(models, settings)
                with gr.Tab(CurvesTab.TITLE):
                    curves = CurvesTab(models)
                    curves.watch(tabs)

            with gr.Column(scale=2, min_width=260):
                settings.render()

        open_on_load(blocks, chat, compare, look, curves)

    return blocks.queue(max_size=2 * MAX_WAITING)


def open_on_load(
    blocks: gr.Blocks, chat: ChatTab, compare: CompareTab, look: LookTab, curves: CurvesTab
) -> None:
    """Fill the page as it opens: the newest models, what the browser kept, the votes and the runs so far."""
    text = chat.text_panel
    kept = {"kept": chat.kept, "draft": chat.draft}
    opened = [chat.stage, chat.choice.line, chat.talk, chat.text_column, chat.shown, chat.writing, chat.box]
    opened += [chat.system, chat.html, chat.meter, chat.list, chat.send, chat.stop]
    blocks.load(chat.open_page, inputs_kwargs=kept, outputs=opened, **NO_QUEUE)
    blocks.load(text.open_page, inputs_kwargs={"kept_text": text.kept}, outputs=[text.text], **NO_QUEUE)
    blocks.load(compare.open_page, None, [compare.choice, compare.tally], **NO_QUEUE)
    blocks.load(look.choice.open_page, None, [look.choice.stage, look.choice.line], **NO_QUEUE)
    blocks.load(curves.open_page, None, [curves.runs], **NO_QUEUE)


def launch(blocks: gr.Blocks, server_name: str, share: bool = False, **options: object) -> tuple:
    """Serve the page in its own theme; the browser loads nothing from any other machine.

    Requests of other sites, under other names than the page's, and uploads are refused.
    """
    guards = [
        Middleware(RequestGuard, hosts=page_hosts(server_name, share)),
        Middleware(ApiGuard, functions=blocks.fns),
    ]
    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="stone",
        radius_size="lg",
        font=["system-ui", "sans-serif"],  # fonts of the visitor's machine, so none is downloaded
        font_mono=["ui-monospace", "monospace"],
    )
    return blocks.launch(
        theme=theme.set(**COLORS),
        css_paths=Path(__file__).with_name("page.css"),
        footer_links=[],
        run_history=False,
        quiet=True,
        app_kwargs={"middleware": guards},
        max_threads=MAX_THREADS,
        server_name=server_name,
        share=share,
        **options,
    )


def parse_args() -> tuple[PageOptions, ModelArgs]:
    """Parse the command line into the page's options and the model's settings."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        nargs="+",
        action="extend",
        default=[],
        metavar="MODEL",
        help="one to four runs, steps, exported or foreign folders (default: the newest model of each stage)",
    )
    parser.add_argument(
        "--server_name", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--server_port", type=int, default=7860, help="port (default: 7860)")
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio's server")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="let in only those who know both")
    parser.add_argument(
        "--save_checkpoint_dir",
        default=str(ROOT / ModelArgs.save_checkpoint_dir),
        help="where runs are kept (default: checkpoints beside trainer.py)",
    )
    parser.add_argument(
        "--votes",
        type=Path,
        help="file that preference rows are appended to (default: votes.jsonl beside trainer.py; none where others "
        "than this machine may vote)",
    )
    parser.add_settings({"sampling", "device"})

    cli_args = parser.parse_args()
    if len(cli_args.model) > len(LETTERS) or len(set(cli_args.model)) < len(cli_args.model):
        parser.error(f"--model takes one to {len(LETTERS)} different models")
    if not 0 <= cli_args.server_port <= MAX_PORT:
        parser.error(f"--server_port {cli_args.server_port} must lie between 0 and {MAX_PORT}")
    is_private = cli_args.server_name in LOOPBACK and not cli_args.share
    votes = cli_args.votes or (ROOT / "votes.jsonl" if is_private else None)
    user, colon, password = (cli_args.auth or "").partition(":")
    if cli_args.auth is not None and not (user and colon and password):
        parser.error("--auth takes USER:PASSWORD, neither of them empty")

    options = PageOptions(
        cli_args.server_name,
        cli_args.server_port,
        cli_args.share,
        votes,
        cli_args.model,
        getattr(cli_args, "seed", None),
        (user, password) if cli_args.auth else None,
    )
    return options, with_models_own_sampling(vars(cli_args))


def with_models_own_sampling(typed: dict[str, object]) -> ModelArgs:
    """Return the settings, sampling as the newest model's own where it is not typed."""
    args = resolve(typed)
    with contextlib.suppress(UserError):  # no model yet
        name = next(iter(typed["model"]), None)
        args = resolve({**load_sampling(choose_model(name, args)), **typed})
    return args


def main() -> None:
    """Serve the page."""
    options, args = parse_args()
    env = distributed.init(args.device, args.dtype)
    blocks = build(StageModels(args, env, options.models), options.votes, options.seed)

    address = f"{options.server_name}:{options.server_port}"
    try:
        print(f"http://{address}  ({env.device_note or env.device})", flush=True)
        launch(
            blocks,
            server_name=options.server_name,
            server_port=options.server_port,
            share=options.share,
            auth=options.auth,
        )
    except OSError as error:
        raise UserError(f"cannot listen on {address} ({error}): choose another --server_port") from None


if __name__ == "__main__":
    run_cli(main)
