"""Tabs of the page: their components, and which event calls which handler.

Each tab function returns the components that `PageHandlers.open_page` fills when the page opens.
"""

from functools import partial

import views
from handlers import PageHandlers
from replies import MAX_PROMPT_CHARS
from wiring import NO_QUEUE, Handler, wire_cancel, wire_reply

import gradio as gr

EXAMPLES = ("Once upon a time", "Write a story about Tom and a bell.", "What is the opposite of big?")


def chat_tab(page: PageHandlers, sampling: list[gr.Component]) -> list[gr.Component]:
    """Build the conversation with one model."""
    conversation = gr.State([])
    writing = gr.State(False)
    stage, model_line = stage_choice(page)
    system = gr.Textbox(
        label="System prompt",
        placeholder="System prompt: who answers, and how (may stay empty)",
        show_label=False,
        lines=1,
        max_lines=4,
        max_length=MAX_PROMPT_CHARS,
        container=False,
        visible=page.choices[page.newest_stage()].instruct,
        elem_id="system",
    )
    html = gr.HTML(views.conversation([], instruct=True), elem_id="conversation")
    status = gr.HTML(elem_id="chat-status")
    box, send, stop = prompt_row("Message", "Send", "Write a message")
    with gr.Row(elem_classes="chips"):
        examples = [gr.Button(text, size="sm", min_width=40) for text in EXAMPLES]
        clear = gr.Button("Clear", size="sm", min_width=40, elem_classes="clear")

    # Enter, Send or an example: add the message, stream the reply, show Send again. Stop: keep what is written.
    chat_state = [box, conversation, writing, html, send, stop]
    streams = wire_reply(
        starts=[
            (box.submit, box),
            (send.click, box),
            *((example.click, example) for example in examples),
        ],
        stop=stop,
        begin=Handler(page.add_message, [conversation, stage, writing], chat_state),
        stream=Handler(
            page.stream_chat, [conversation, stage, system, *sampling], [conversation, html, status]
        ),
        finish=Handler(page.finish_chat, [conversation, stage], chat_state),
        api_name="chat",
    )

    # Clear: stop the reply, then empty the conversation.
    wire_cancel(clear, streams, Handler(page.clear_chat, [stage], [*chat_state, status]))

    # Another model: show the same conversation in its style, and the system prompt where it has one.
    stage.change(page.show_conversation, [conversation, stage], html, **NO_QUEUE)
    stage.change(page.show_system, stage, system, **NO_QUEUE)
    return [stage, model_line]


def compare_tab(page: PageHandlers, sampling: list[gr.Component]) -> list[gr.Component]:
    """Build the comparison of all models with its blind vote."""
    comparison = gr.State(None)
    gr.HTML(
        views.note(
            "The same prompt and the same seed for every model. The order is random and stays hidden "
            "until you choose."
        )
    )
    box, compare, stop = prompt_row("Prompt", "Compare", "One prompt for all models")
    html = gr.HTML(elem_id="replies")
    with gr.Row(visible=False, elem_classes="chips", elem_id="ballot") as ballot:
        votes = [gr.Button(f"{letter} is better", size="sm", min_width=40) for letter in page.letters]
        reveal = gr.Button("Show the models without a vote", size="sm", min_width=40)
    status = gr.HTML(elem_id="compare-status")

    # Enter or Compare: stream all replies side by side, then show the vote buttons.
    wire_reply(
        starts=[(box.submit, box), (compare.click, box)],
        stop=stop,
        begin=Handler(page.start_comparison, [], [comparison, compare, stop, ballot, status]),
        stream=Handler(page.stream_comparison, [box, *sampling], [html, comparison, ballot, *votes, status]),
        finish=Handler(page.finish_comparison, [comparison], [html, compare, stop]),
        api_name="compare",
    )

    # A vote: save it, show which model wrote which reply, hide the buttons. Reveal: the same without saving.
    for choice, button in [*enumerate(votes), (None, reveal)]:
        vote = partial(page.vote, choice=choice)
        button.click(vote, comparison, [html, comparison, ballot, status], **NO_QUEUE)
    return []


def look_tab(page: PageHandlers, sampling: list[gr.Component]) -> list[gr.Component]:
    """Build the view of a reply's token probabilities and of the loss curves."""
    stage, model_line = stage_choice(page)
    box, look, stop = prompt_row("Text", "Look", "Text to continue or to answer")
    html = gr.HTML(elem_id="inside")
    status = gr.HTML(elem_id="look-status")
    curves = gr.HTML()

    # Enter or Look: stream the reply, then color its tokens.
    wire_reply(
        starts=[(box.submit, box), (look.click, box)],
        stop=stop,
        begin=Handler(page.start_look, [], [look, stop, html]),
        stream=Handler(page.stream_look, [box, stage, *sampling], [html, status]),
        finish=Handler(page.finish_look, [], [look, stop]),
        api_name="look",
    )
    return [stage, model_line, curves]


def stage_choice(page: PageHandlers) -> tuple[gr.Radio, gr.HTML]:
    """Build the choice of a model, and a line on how it replies."""
    stage = gr.Radio(
        [(stage.title, name) for name, stage in page.choices.items()],
        value=page.newest_stage(),
        label="Model",
        show_label=False,
        container=False,
        elem_classes="stages",
    )
    line = gr.HTML()

    # Another model: describe it.
    stage.change(page.model_line, stage, line, **NO_QUEUE)
    return stage, line


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
            max_length=MAX_PROMPT_CHARS,
            container=False,
        )
        start = gr.Button(start_label, variant="primary", scale=1, min_width=96)
        stop = gr.Button("Stop", variant="stop", scale=1, min_width=96, visible=False)
    return box, start, stop
