"""Text with a base model: one text, which the visitor and the model write in turns and which is the prompt as it is."""

from collections.abc import Iterator
from typing import NamedTuple

import views
from replies import CONTEXT_FULL, StageModels, check_prompt, fresh_seed
from settings_form import args_from_form
from stage_choice import KEEP_TEXT, TEXT_EXAMPLES
from streams import throttle
from waiting import Place
from wiring import NO_QUEUE, Handler, Start, new_job, start_and_stop, wire_reply

import gradio as gr
from runtime.errors import RunError, UserError

MAX_TEXT_CHARS = 40_000


class Continuation(NamedTuple):
    """Last piece that a model wrote, and the text before it."""

    before: str = ""
    written: str = ""
    seed: int | None = None  # of the next one, if it is to differ


class TextPanel:
    """Text box that is display and prompt at once, and what each event does.

    The browser keeps the text in `kept`, which lies outside: a BrowserState that is not visible reads nothing.
    """

    def __init__(self, models: StageModels, settings: gr.HTML, stage: gr.Radio, kept: gr.BrowserState):
        self.models = models
        self.kept = kept
        self.last = gr.State(Continuation())
        self.job = gr.State("")
        self.running = gr.State(False)
        self.text = gr.Textbox(
            label="Text",
            show_label=False,
            placeholder="Write a beginning; the model continues it. Everything here can be edited.",
            lines=14,
            max_lines=24,
            max_length=MAX_TEXT_CHARS,
            container=False,
            elem_id="text",
        )
        self.meter = gr.HTML(elem_id="text-meter")
        self.status = gr.HTML(elem_id="text-status")
        with gr.Row(elem_classes="composer"):
            self.write = gr.Button("Continue", variant="primary", min_width=96)
            self.stop = gr.Button("Stop", variant="stop", min_width=96, visible=False)
            self.again = gr.Button("Try again", min_width=96)
        with gr.Row(elem_classes="chips"):
            self.examples = [gr.Button(text, size="sm", min_width=40) for text in TEXT_EXAMPLES]
        self._wire(stage, settings)

    def _wire(self, stage: gr.Radio, settings: gr.HTML) -> None:
        """Connect the events."""
        view = [self.text, self.last, self.job, self.running, self.write, self.stop, self.status]
        texts = {"text": self.text, "last": self.last}
        running = {"running": self.running}
        stream = Handler(
            self.stream,
            {**texts, "stage": stage, "settings": settings},
            [self.text, self.last, self.status, self.meter],
        )
        wire_reply(
            [
                Start([self.write.click], Handler(self.begin, {"text": self.text, **running}, view)),
                Start([self.again.click], Handler(self.begin_again, {**texts, **running}, view)),
            ],
            self.job,
            self.stop,
            stream,
            Handler(self.finish, {}, view),
        )
        for example in self.examples:
            example.click(self.begin_example, [example], [*view, self.meter], **NO_QUEUE)
        self.text.change(None, [self.text], [self.kept], js=KEEP_TEXT, **NO_QUEUE)

    def open_page(self, *, kept_text: object) -> dict:
        """Show the text that the browser kept."""
        text = kept_text.get("text") if isinstance(kept_text, dict) else ""
        return {self.text: text if isinstance(text, str) else ""}

    def begin(self, *, text: str, running: bool = False) -> dict:
        """Show that the model writes: meanwhile the text cannot be edited."""
        if running:
            return {self.status: gr.skip()}
        return {
            self.job: new_job(),
            self.running: True,
            self.last: Continuation(text or ""),
            self.text: gr.update(interactive=False),
            **start_and_stop(self.write, self.stop, running=True),
        }

    def begin_again(self, *, text: str, last: Continuation, running: bool = False) -> dict:
        """Take back what the model wrote last, unless it was edited, for another continuation."""
        if running or not last.written or text != last.before + last.written:
            return self.begin(text=text, running=running)
        return {
            **self.begin(text=last.before),
            self.last: Continuation(last.before, seed=fresh_seed()),
            self.text: gr.update(value=last.before, interactive=False),
        }

    def begin_example(self, example: str) -> dict:
        """Begin another text."""
        return {self.text: example, self.status: "", self.meter: ""}

    def stream(self, *, text: str, last: Continuation, stage: str, settings: object) -> Iterator[dict]:
        """Yield the text with what the model adds, or the place in the line."""
        try:
            text = (text or "")[:MAX_TEXT_CHARS]
            check_prompt(text, MAX_TEXT_CHARS)
            args = args_from_form(self.models.args, settings)
            seed = next(seed for seed in (last.seed, args.seed, fresh_seed()) if seed is not None)
            args = args.replace(seed=seed)
            label = f"{self.models.label(stage)} · temperature {args.temperature:g} · seed {seed}"

            for reply in throttle(self.models.line.wait_then(self.models.stream_text(stage, text, args))):
                if isinstance(reply, Place):
                    yield {self.status: views.note(reply.text)}
                    continue
                warning = ""
                if reply.dropped_tokens:
                    warning = f"The model no longer reads the first {reply.dropped_tokens:,} tokens."
                elif reply.end_reason == CONTEXT_FULL:
                    warning = "The context is full: from here on the model reads the end of the text only."
                yield {
                    self.text: text + reply.text,
                    self.last: Continuation(text, reply.text),
                    self.status: views.note(f"{label} · {reply.summary}"),
                    self.meter: views.meter(reply.used, reply.context, warning),
                }
        except (UserError, RunError) as error:
            yield {self.status: views.problem(str(error))}

    def finish(self) -> dict:
        """Show that nothing is being written."""
        return {
            self.running: False,
            self.text: gr.update(interactive=True),
            **start_and_stop(self.write, self.stop, running=False),
        }
