"""Choice of a model, with a line on how it replies; used by every tab with one model."""

import views
from replies import MAX_PROMPT_CHARS, StageModels, folder_label
from wiring import NO_QUEUE

import gradio as gr
from runtime.errors import UserError

EXAMPLES = ("Tell me a story about Tom and a bell.", "What is the opposite of big?", "Name three animals.")
KEEP_TEXT = "(text) => [{text}]"  # JavaScript of a change of a text box, for BrowserState: the server has no part in it
TEXT_EXAMPLES = ("Once upon a time", "One sunny day, a girl named Lily")


class StageChoice:
    """Radio buttons of the models, and the line under them."""

    def __init__(self, models: StageModels):
        self.models = models
        self.stage = gr.Radio(
            [(stage.title, name) for name, stage in models.choices.items()],
            value=models.newest_stage(),
            label="Model",
            show_label=False,
            container=False,
            elem_classes="stages",
        )
        self.line = gr.HTML()
        self.stage.change(self.describe, [self.stage], [self.line], **NO_QUEUE)

    def describe(self, stage: str) -> dict:
        """Return a line on how the stage's model replies, or on how to make one."""
        try:
            folder = self.models.newest_folder(stage)
        except UserError as error:
            return {self.line: views.problem(str(error))}
        chosen = self.models.choices[stage]
        return {self.line: views.model_line(chosen.instruct, folder_label(folder), chosen.own_template)}

    def open_page(self) -> dict:
        """Choose the newest model of the last stage, as the page opens."""
        stage = self.models.newest_stage()
        return {self.stage: stage, **self.describe(stage)}


def prompt_row(label: str, start_label: str, placeholder: str) -> tuple[gr.Textbox, gr.Button, gr.Button]:
    """Build a text box with a start and a stop button; one of the two buttons is visible."""
    with gr.Row(elem_classes="composer"):
        box = gr.Textbox(
            label=label,
            placeholder=placeholder,
            show_label=False,
            lines=1,
            max_lines=6,
            scale=8,
            min_width=120,
            max_length=MAX_PROMPT_CHARS,
            container=False,
            elem_id=label.lower(),
        )
        start = gr.Button(start_label, variant="primary", scale=1, min_width=96)
        stop = gr.Button("Stop", variant="stop", scale=1, min_width=96, visible=False)
    return box, start, stop
