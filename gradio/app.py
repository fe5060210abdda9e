"""The demo page: chat with the newest models, see the stages beside each other, look inside.

    python gradio/app.py [--server_port 7860] [--save_checkpoint_dir DIR] [--votes FILE] [--share]
    cd gradio && pip install gradio && python app.py

It listens on this machine alone unless --server_name says otherwise.
"""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

# The modules of the project stand one folder up. This folder has no __init__.py, so `import gradio` is the library.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import views
from replies import PROMPT_LIMIT, STAGES, Duel, Models, check, keep_vote, paced, side_by_side

import gradio as gr
from config import ModelArgs, Parser, resolve
from runtime import distributed
from runtime.errors import UserError, run_cli
from training.metrics import read_metrics

ROOT = Path(__file__).resolve().parent.parent
RANGES = {
    "max_length": (1, 1000, 1),
    "temperature": (0, 2, 0.05),
    "top_k": (0, 200, 1),
    "top_p": (0.01, 1, 0.01),
    "min_p": (0, 1, 0.01),
    "repetition_penalty": (0.5, 2, 0.05),
    "frequency_penalty": (0, 2, 0.05),
}
# Contrast of text and buttons that is enough to read (WCAG AA), in the light scheme and in the dark one.
COLORS = {
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "input_placeholder_color": "*neutral_600",
    "input_placeholder_color_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "slider_color": "*primary_700",
    "block_label_text_color": "*neutral_700",
    "block_title_text_color": "*neutral_700",
}
EXAMPLES = ("Once upon a time", "Write a story about Tom and a bell.", "What is the opposite of big?")
LETTERS = "ABC"
# Every reply takes its turn at one model's worth of work: in parallel all would be slower, and memory would grow.
TURN = {"concurrency_id": "model", "concurrency_limit": 1}
AT_ONCE = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


class Page:
    """What the page's events do; the tabs say which event does what."""

    def __init__(self, models: Models, votes: Path):
        self.models, self.votes = models, votes

    def settings(self, values: tuple[float, ...]) -> ModelArgs:
        """The sampling settings that were chosen, checked as the command line's are."""
        chosen = dict(zip([*RANGES, "seed"], values, strict=True))
        whole = {
            name: int(value)
            for name, value in chosen.items()
            if isinstance(getattr(ModelArgs, name), int) and value is not None
        }
        return self.models.args.replace(**chosen | whole)

    def opened(self) -> tuple:
        """The stage that is shown first, for both tabs that choose one, and the loss curves of all."""
        stage = self.newest()
        runs = [
            folder.parent if (folder.parent / "latest").is_file() else folder  # a run's step, or downloaded
            for folder in self.models.found().values()
        ]
        curves = views.loss_curves((run.name, read_metrics(run / "metrics.jsonl")) for run in runs)
        return stage, self.mode(stage), stage, self.mode(stage), curves

    def newest(self) -> str:
        """The last stage that has a model."""
        found = self.models.found()
        return next((stage for stage in reversed(STAGES) if stage in found), "pretrained")

    def mode(self, stage: str) -> str:
        """What the model of a stage does with a text, or how to make one."""
        try:
            folder = self.models.find(stage)
        except UserError as error:
            return views.note(str(error), "problem")
        return views.mode(STAGES[stage].instruct, f"{folder.parent.name}/{folder.name}")

    def talk(self, conversation: list[dict], stage: str, writing: bool = False) -> str:
        """A conversation as the model of a stage takes it."""
        return views.talk(conversation, STAGES[stage].instruct, writing)

    def begin_chat(self, message: str, conversation: list[dict], stage: str, writing: bool) -> tuple:
        """Add the message to the conversation at once, whatever the queue; during a reply it stays in its box."""
        if writing:
            return (gr.skip(),) * 6
        conversation = [*conversation, {"role": "user", "content": message}]
        return "", conversation, True, self.talk(conversation, stage, writing=True), *stoppable(True)

    def chat(self, conversation: list[dict], stage: str, *values: float) -> Iterator[tuple]:
        """The reply, as it grows; nothing where there is nothing to answer, as after a message that had to wait."""
        if not unanswered(conversation):
            return
        try:
            check(conversation[-1]["content"])
            for reply in paced(self.models.reply(stage, conversation, self.settings(values))):
                grown = [*conversation, {"role": "assistant", "content": reply.text}]
                yield grown, self.talk(grown, stage, not reply.ended), views.note(reply.summary)
        except UserError as error:
            yield conversation, gr.skip(), views.note(str(error), "problem")

    def end_chat(self, conversation: list[dict], stage: str) -> tuple:
        """The page while nothing is written; a message without an answer goes back into its box."""
        back = gr.skip()
        if unanswered(conversation):
            *conversation, message = conversation
            back = message["content"]
        return back, conversation, False, self.talk(conversation, stage), *stoppable(False)

    def compare(self, prompt: str, *values: float) -> Iterator[tuple]:
        """The same prompt and seed for every stage, in an order that only the server knows."""
        found = self.models.found()
        order = random.SystemRandom().sample(list(found), len(found))
        try:
            check(prompt)
            if len(order) < 2:
                self.models.find(
                    next(stage for stage in STAGES if stage not in found)
                )  # says how to make one
            args = self.settings(values)
            streams = [
                self.models.reply(stage, [{"role": "user", "content": prompt}], args) for stage in order
            ]
            for replies in paced(side_by_side(streams)):
                duel, done = Duel(prompt, order, replies), all(reply and reply.ended for reply in replies)
                yield (
                    self.cards(duel, writing=not done),
                    duel,
                    gr.update(visible=done),
                    gr.update(visible=len(order) > 2),
                    "",
                )
        except UserError as error:
            yield "", None, gr.update(visible=False), gr.skip(), views.note(str(error), "problem")

    def end_compare(self, duel: Duel | None) -> tuple:
        """The page while nothing is written."""
        return self.cards(duel) if duel else "", *stoppable(False)

    def cards(self, duel: Duel, writing: bool = False) -> str:
        """The replies under letters alone."""
        return views.cards(
            (views.Card(letter, "", text) for letter, text in zip(LETTERS, duel.texts, strict=False)), writing
        )

    def vote(self, duel: Duel, choice: int | None) -> tuple:
        """Keep the choice, if there is one, and say which model wrote what."""
        said = ""
        if choice is not None:
            try:
                said = views.note(f"Rows added to {self.votes.name}: {keep_vote(self.votes, duel, choice)}")
            except OSError as error:
                said = views.note(f"cannot write {self.votes}: {error.strerror}", "problem")
        shown = views.cards(
            views.Card(
                f"{LETTERS[place]}: {STAGES[stage].title}",
                views.way(STAGES[stage].instruct),
                text,
                "" if STAGES[stage].instruct else duel.prompt,
                place == choice,
            )
            for place, (stage, text) in enumerate(zip(duel.order, duel.texts, strict=True))
        )
        return shown, None, gr.update(visible=False), said

    def look(self, prompt: str, stage: str, *values: float) -> Iterator[tuple]:
        """The reply as it grows, then its tokens with what the model thought of each."""
        try:
            check(prompt)
            for reply in paced(
                self.models.reply(stage, [{"role": "user", "content": prompt}], self.settings(values))
            ):
                yield views.growing(prompt, reply.text), views.note(reply.summary)
            yield views.tokens(prompt, self.models.look(stage, reply)), views.note(reply.summary)
        except UserError as error:
            yield "", views.note(str(error), "problem")


def unanswered(conversation: list[dict]) -> bool:
    """Whether the last turn is a person's."""
    return bool(conversation) and conversation[-1]["role"] == "user"


def stoppable(running: bool) -> tuple[dict, dict]:
    """Updates of a start button and a stop button: one of them is there."""
    return gr.update(visible=not running), gr.update(visible=running)


def wire(
    starts: list[tuple[Callable, gr.Component]],
    stop: gr.Button,
    begin: tuple,
    work: tuple,
    end: tuple,
    name: str,
) -> list[gr.events.Dependency]:
    """Join events: a start does `begin` at once, then `work` in its turn, then `end`; stop ends the work where it is.

    Each of the three is (function, inputs, outputs); the first input of `begin` is what was started with. Returns the
    work's events, which may be cancelled.
    """
    running = []
    for trigger, source in starts:
        started = trigger(begin[0], [source, *begin[1]], begin[2], **AT_ONCE)
        work_event = started.success(
            work[0], work[1], work[2], show_progress="minimal", api_name=name, **TURN
        )
        work_event.then(end[0], end[1], end[2], **AT_ONCE)
        running.append(work_event)
    cancel(stop, running, *end)
    return running


def cancel(button: gr.Button, running: list[gr.events.Dependency], *end: object) -> None:
    """The button ends what is running; only then comes (function, inputs, outputs), so that nothing late undoes it."""
    button.click(None, None, None, cancels=running, **AT_ONCE).then(*end, **AT_ONCE)


def sampling_settings(args: ModelArgs) -> list[gr.Component]:
    """Sliders with the names, defaults and explanations of the command line, and the seed; not placed yet."""
    helps = {field.name: field.metadata["help"] for field in fields(ModelArgs)}
    sliders = [
        gr.Slider(low, max(high, value), value, step=step, label=name, info=helps[name], render=False)
        for name, (low, high, step) in RANGES.items()
        for value in [getattr(args, name)]
    ]
    return [
        *sliders,
        gr.Number(
            args.seed,
            precision=0,
            minimum=0,
            label="seed",
            render=False,
            info="the same seed gives the same text; empty: another each time",
        ),
    ]


def model_choice(page: Page) -> tuple[gr.Radio, gr.HTML]:
    """Which stage's model writes, and a line that says how it takes a text."""
    stage = gr.Radio(
        [(stage.title, name) for name, stage in STAGES.items()],
        value=page.newest(),
        label="Model",
        show_label=False,
        container=False,
        elem_classes="stages",
    )
    line = gr.HTML()
    stage.change(page.mode, stage, line, **AT_ONCE)
    return stage, line


def prompt_row(label: str, start: str, placeholder: str) -> tuple[gr.Textbox, gr.Button, gr.Button]:
    """A text box with a start button and a stop button, of which one is there."""
    with gr.Row(elem_classes="composer"):
        box = gr.Textbox(
            label=label,
            placeholder=placeholder,
            show_label=False,
            lines=1,
            max_lines=6,
            scale=8,
            max_length=PROMPT_LIMIT,
            container=False,
        )
        go = gr.Button(start, variant="primary", scale=1, min_width=96)
        stop = gr.Button("Stop", variant="stop", scale=1, min_width=96, visible=False)
    return box, go, stop


def chat_tab(page: Page, settings: list[gr.Component]) -> list[gr.Component]:
    """One conversation with one model. Returns what is filled when the page is opened."""
    conversation, writing = gr.State([]), gr.State(False)
    stage, line = model_choice(page)
    talk = gr.HTML(views.talk([], True), elem_id="talk")
    status = gr.HTML(elem_id="chat-status")
    box, send, stop = prompt_row("Message", "Send", "Write to the model")
    with gr.Row(elem_classes="chips"):
        chips = [gr.Button(text, size="sm", min_width=40) for text in EXAMPLES]
        clear = gr.Button("Clear", size="sm", min_width=40, elem_classes="clear")
    whole = [box, conversation, writing, talk, send, stop]
    running = wire(
        [(box.submit, box), (send.click, box), *((chip.click, chip) for chip in chips)],
        stop,
        (page.begin_chat, [conversation, stage, writing], whole),
        (page.chat, [conversation, stage, *settings], [conversation, talk, status]),
        (page.end_chat, [conversation, stage], whole),
        "chat",
    )
    cancel(clear, running, lambda stage: (*page.end_chat([], stage), ""), stage, [*whole, status])
    stage.change(page.talk, [conversation, stage], talk, **AT_ONCE)
    return [stage, line]


def compare_tab(page: Page, settings: list[gr.Component]) -> list[gr.Component]:
    """One prompt, all stages, and a blind vote. Returns what is filled when the page is opened: nothing."""
    duel = gr.State(None)
    gr.HTML(
        views.note(
            "The same prompt and the same seed for every stage. The order is drawn anew each time and "
            "stays hidden until you choose."
        )
    )
    box, go, stop = prompt_row("Prompt", "Compare", "One prompt for all models")
    replies = gr.HTML(elem_id="replies")
    with gr.Row(visible=False, elem_classes="chips", elem_id="ballot") as ballot:
        votes = [gr.Button(f"{letter} is better", size="sm", min_width=40) for letter in LETTERS]
        reveal = gr.Button("Just show which is which", size="sm", min_width=40)
    status = gr.HTML(elem_id="compare-status")
    wire(
        [(box.submit, box), (go.click, box)],
        stop,
        (
            lambda _: (None, *stoppable(True), gr.update(visible=False), ""),
            [],
            [duel, go, stop, ballot, status],
        ),
        (page.compare, [box, *settings], [replies, duel, ballot, votes[-1], status]),
        (page.end_compare, [duel], [replies, go, stop]),
        "compare",
    )
    for choice, button in [*enumerate(votes), (None, reveal)]:
        button.click(partial(page.vote, choice=choice), duel, [replies, duel, ballot, status], **AT_ONCE)
    return []


def look_tab(page: Page, settings: list[gr.Component]) -> list[gr.Component]:
    """Each token's probability, and the runs' losses. Returns what is filled when the page is opened."""
    stage, line = model_choice(page)
    box, go, stop = prompt_row("Text", "Look", "Text to continue or to answer")
    view = gr.HTML(elem_id="inside")
    status = gr.HTML(elem_id="look-status")
    curves = gr.HTML()
    wire(
        [(box.submit, box), (go.click, box)],
        stop,
        (lambda _: (*stoppable(True), ""), [], [go, stop, view]),
        (page.look, [box, stage, *settings], [view, status]),
        (lambda: stoppable(False), None, [go, stop]),
        "look",
    )
    return [stage, line, curves]


def build(models: Models, votes: Path) -> gr.Blocks:
    """The page; no model is loaded before the first request."""
    page = Page(models, votes)
    with gr.Blocks(title="SmolLlama", analytics_enabled=False) as blocks:
        gr.HTML(
            "<header><h1>SmolLlama</h1><p>A small Llama, trained from nothing. What does each stage change?"
            "</p></header>"
        )
        settings, filled = sampling_settings(models.args), []
        with gr.Row():
            with gr.Column(scale=5, min_width=300), gr.Tabs():
                for name, fill in (("Chat", chat_tab), ("Compare", compare_tab), ("Look inside", look_tab)):
                    with gr.Tab(name):
                        filled += fill(page, settings)
            with gr.Column(scale=2, min_width=260), gr.Accordion("Sampling", elem_classes="sampling"):
                for setting in settings:
                    setting.render()
        blocks.load(page.opened, None, filled, **AT_ONCE)
    return blocks.queue(max_size=32)


def launch(blocks: gr.Blocks, **options) -> tuple:
    """Serve the page in its own look, with nothing asked of any other machine."""
    plain = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }  # none is fetched
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="stone", radius_size="lg", **plain).set(**COLORS)
    return blocks.launch(
        theme=theme,
        css_paths=Path(__file__).with_name("page.css"),
        footer_links=[],
        run_history=False,
        quiet=True,
        **options,
    )


def main() -> None:
    """Serve the page."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--server_name", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--server_port", type=int, default=7860, help="port (default: 7860)")
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio's server")
    parser.add_argument(
        "--save_checkpoint_dir",
        default=str(ROOT / ModelArgs.save_checkpoint_dir),
        help="where runs are kept (default: checkpoints beside trainer.py)",
    )
    parser.add_argument(
        "--votes",
        type=Path,
        default=ROOT / "votes.jsonl",
        help="file that preference rows are added to (default: votes.jsonl beside trainer.py)",
    )
    parser.add_settings({"sampling", "device"})
    typed = vars(parser.parse_args())
    args = resolve(typed)
    env = distributed.init(args.device, args.dtype)
    blocks = build(Models(args, env), typed["votes"])
    try:
        print(f"http://{typed['server_name']}:{typed['server_port']}  ({env.device_note})", flush=True)
        launch(
            blocks, server_name=typed["server_name"], server_port=typed["server_port"], share=typed["share"]
        )
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {typed['server_name']}:{typed['server_port']} ({error}): choose another "
            "--server_port"
        ) from None


if __name__ == "__main__":
    run_cli(main)
