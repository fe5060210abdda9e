"""Chat tab: a conversation with a model that answers, or one text with a base model (text_panel.py)."""

from collections.abc import Iterator
from typing import NamedTuple

import conversation_view
import views
from chat_history import (
    Conversation,
    Turn,
    forget,
    keep,
    new_conversation,
    open_key,
    read_kept,
)
from replies import CUT_BY_LENGTH, MAX_PROMPT_CHARS, StageModels, check_prompt, fresh_seed
from settings_form import PAGE_SCRIPT, args_from_form
from stage_choice import EXAMPLES, KEEP_TEXT, StageChoice, prompt_row
from streams import throttle
from text_panel import TextPanel
from waiting import Place
from wiring import NO_QUEUE, Handler, Start, event_value, new_job, start_and_stop, wire_cancel, wire_reply

import gradio as gr
from runtime.errors import RunError, UserError

# The browser encrypts what it keeps with this word; it is no secret, but a server that restarts must know it again.
BROWSER_SECRET = "smolllama"


class Job(NamedTuple):
    """Reply that the stream is to write: an answer, with this seed if there is one, or more of the last reply."""

    key: str
    seed: int | None = None
    continues: bool = False


class ChatTab:
    """Components of the chat, and what each event does; state of a visitor is in State and BrowserState."""

    def __init__(self, models: StageModels, settings: gr.HTML):
        self.models = models
        self.settings = settings
        self.shown = gr.State(new_conversation())
        self.job = gr.State(None)
        self.writing = gr.State(False)
        self.kept = kept_in_browser("conversations", {"open": "", "conversations": []})
        self.draft = kept_in_browser("draft", {"text": ""})
        kept_text = kept_in_browser("text", {"text": ""})
        self.choice = StageChoice(models)
        self.stage = self.choice.stage
        instruct = models.choices[models.newest_stage()].instruct

        with gr.Column(visible=instruct) as self.talk:
            self._build_talk()
        with gr.Column(visible=not instruct) as self.text_column:
            self.text_panel = TextPanel(models, settings, self.stage, kept_text)
        self._wire()

    def _build_talk(self) -> None:
        """Build the components of a conversation."""
        script = PAGE_SCRIPT.read_text(encoding="utf-8")
        self.system = gr.Textbox(
            label="System prompt",
            placeholder="System prompt: who answers, and how (may stay empty)",
            show_label=False,
            lines=1,
            max_lines=4,
            max_length=MAX_PROMPT_CHARS,
            container=False,
            elem_id="system",
        )
        self.html = gr.HTML(
            conversation_view.conversation(new_conversation()), elem_id="conversation", js_on_load=script
        )
        self.meter = gr.HTML(elem_id="meter")
        self.status = gr.HTML(elem_id="chat-status")
        self.box, self.send, self.stop = prompt_row("Message", "Send", "Write a message")
        with gr.Row(elem_classes="chips"):
            self.examples = [gr.Button(text, size="sm", min_width=40) for text in EXAMPLES]
            self.new = gr.Button("New conversation", size="sm", min_width=40, elem_classes="clear")
        with gr.Accordion("Conversations", open=False, elem_id="conversations"):
            self.list = gr.HTML(js_on_load=script, elem_id="kept")

    def _wire(self) -> None:
        """Connect the events."""
        talk = [self.box, self.shown, self.job, self.writing, self.html, self.send, self.stop]
        view = [*talk, self.status, self.meter, self.list, self.kept, self.system, self.stage]
        now = {"shown": self.shown, "writing": self.writing}
        saved = {"shown": self.shown, "kept": self.kept}

        begin = Handler(self.add_message, {"message": self.box, "kept": self.kept, **now}, view)
        starts = [
            Start([self.box.submit, self.send.click], begin),
            Start([self.html.click], Handler(self.act, {"stage": self.stage, "box": self.box, **now}, view)),
        ]
        starts += [
            Start(
                [example.click],
                Handler(self.add_example, {"message": example, "kept": self.kept, **now}, view),
            )
            for example in self.examples
        ]
        stream = Handler(
            self.stream,
            {
                "shown": self.shown,
                "job": self.job,
                "stage": self.stage,
                "system": self.system,
                "settings": self.settings,
            },
            [self.shown, self.html, self.status, self.meter],
        )
        finish = Handler(self.finish, saved, view)
        streams = wire_reply(starts, self.job, self.stop, stream, finish)

        # New: stop the reply, keep what there is, then begin an empty conversation.
        wire_cancel(self.new, streams, Handler(self.begin_new, saved, view))

        # The list: open or delete a conversation. A change in the box: keep the draft, in the browser alone.
        self.list.click(
            self.choose,
            inputs_kwargs={"kept": self.kept, "stage": self.stage, **now},
            outputs=view,
            **NO_QUEUE,
        )
        self.box.change(None, [self.box], [self.draft], js=KEEP_TEXT, **NO_QUEUE)
        self.stage.change(self.show_panel, [self.stage], [self.talk, self.text_column], **NO_QUEUE)

    def open_page(self, *, kept: object, draft: object) -> dict:
        """Show what the browser kept: the conversation that was open, and the message that was not sent."""
        conversations = read_kept(kept)
        shown = next((each for each in conversations if each.key == open_key(kept)), new_conversation())
        text = draft.get("text") if isinstance(draft, dict) else ""
        text = text if isinstance(text, str) else ""
        if shown.waits:  # the page was closed while the reply was written
            text = text or shown.turns[-1].content
            shown = shown.without_last(1)
        opened = {self.box: text, self.system: shown.system}
        stage = self.models.newest_stage()
        if shown.turns and self._answers(shown.stage):
            stage = shown.stage
        opened |= {self.stage: stage, **self.choice.describe(stage), **self.show_panel(stage)}
        return {
            **opened,
            **self._show(shown),
            self.list: conversation_view.conversation_list(conversations, shown),
        }

    def show_panel(self, stage: str) -> dict:
        """Show the conversation for a model that answers, the text for a base model."""
        instruct = self.models.choices[stage].instruct
        return {self.talk: gr.update(visible=instruct), self.text_column: gr.update(visible=not instruct)}

    # A reply begins.

    def add_message(self, *, message: str, shown: Conversation, writing: bool, kept: object) -> dict:
        """Add the message to the conversation at once; while a reply is written, the message stays in its box."""
        if writing:
            return {self.status: gr.skip()}
        question = shown.add(Turn("user", message))
        return {
            self.box: "",
            self.job: Job(new_job()),
            self.kept: keep(kept, question),
            **self._show(question, writing=True),
        }

    def add_example(self, *, message: str, writing: bool, kept: object, **_: Conversation) -> dict:
        """Ask an example in a new conversation: it has nothing to do with what was said before."""
        if writing:
            return {self.status: gr.skip()}
        question = new_conversation().add(Turn("user", message))
        return {
            self.job: Job(new_job()),
            self.kept: keep(kept, question),
            **self._show(question, writing=True),
        }

    def act(self, event: gr.EventData, *, stage: str, box: str, shown: Conversation, writing: bool) -> dict:
        """Do what a button under the last reply says."""
        action = event_value(event, "action")
        if writing or len(shown.turns) < 2 or shown.waits:
            return {self.status: gr.skip()}
        reply = shown.turns[-1]

        if action == "regenerate":
            return {
                self.job: Job(new_job(), seed=fresh_seed()),
                **self._show(shown.without_last(1), writing=True),
            }
        if action == "edit":
            question = shown.turns[-2].content
            text = f"{question}\n{box}" if box and box.strip() else question
            return {self.box: text, self.status: "", **self._show(shown.without_last(2))}
        if action == "continue" and reply.end == CUT_BY_LENGTH:
            if self._label(stage) == reply.model:
                return {self.job: Job(new_job(), continues=True), **self._show(shown, writing=True)}
            return {
                self.status: views.problem(f"{reply.model} wrote this: choose it to continue."),
            }
        return {self.status: gr.skip()}

    # The reply is written.

    def stream(
        self, *, shown: Conversation, job: Job | None, stage: str, system: str, settings: object
    ) -> Iterator[dict]:
        """Yield the conversation with the growing reply, or the place in the line.

        Yields nothing without a job, as other programs may call it.
        """
        if job is None or not shown.turns:
            return
        before = shown.without_last(1) if job.continues else shown
        begun = shown.turns[-1] if job.continues else Turn("assistant", "")
        try:
            check_prompt(before.turns[-1].content)
            if system and system.strip():
                check_prompt(system)
            before = before.replace(system=system or "", stage=stage)
            args = args_from_form(self.models.args, settings)
            seed = next(seed for seed in (job.seed, args.seed, fresh_seed()) if seed is not None)
            args = args.replace(seed=seed + len(begun.ids))  # the same draws would repeat what is there
            label = self._label(stage)
            described = begun.settings or f"temperature {args.temperature:g} · seed {seed}"

            replies = self.models.stream_reply(stage, before.messages, args, begun.ids)
            for reply in throttle(self.models.line.wait_then(replies)):
                if isinstance(reply, Place):
                    yield {self.status: views.note(reply.text)}
                    continue
                turn = Turn(
                    "assistant",
                    begun.content + reply.text,
                    model=label,
                    settings=described,
                    end=reply.end_reason or "",
                    ids=(*begun.ids, *reply.output_ids),
                )
                answered = before.add(turn).replace(
                    used=reply.used, size=reply.context, dropped=reply.dropped_turns
                )
                yield {
                    self.shown: answered,
                    self.html: conversation_view.conversation(answered, writing=not reply.end_reason),
                    self.status: views.note(reply.summary),
                    self.meter: conversation_view.context_meter(answered),
                }
        except (UserError, RunError) as error:
            yield {self.status: views.problem(str(error))}

    # The reply is finished, or stopped.

    def finish(self, *, shown: Conversation, kept: object) -> dict:
        """Show that nothing is being written, and keep the conversation.

        A message without a reply returns to its box.
        """
        box = {}
        if shown.waits:
            box = {self.box: shown.turns[-1].content}
            shown = shown.without_last(1)
        if not shown.turns:
            kept = forget(kept, shown.key)
        return {**box, **self._keep(kept, shown.closed())}

    def begin_new(self, *, shown: Conversation, kept: object) -> dict:
        """Keep the conversation and begin an empty one."""
        kept = self.finish(shown=shown, kept=kept)[self.kept]
        return {self.box: "", self.status: "", **self._keep(kept, new_conversation())}

    def choose(
        self, event: gr.EventData, *, kept: object, stage: str, shown: Conversation, writing: bool
    ) -> dict:
        """Open or delete a kept conversation."""
        if writing:
            return {self.status: views.problem("A reply is being written: stop it first.")}
        key = event_value(event, "key")
        if event_value(event, "action") == "delete":
            kept = forget(kept, key)
            return self._keep(kept, new_conversation() if key == shown.key else shown)

        chosen = next((each for each in read_kept(kept) if each.key == key), None)
        if chosen is None:
            return {self.status: views.problem("This conversation is no longer there.")}
        opened = {
            self.system: chosen.system,
            self.stage: chosen.stage if self._answers(chosen.stage) else stage,
        }
        kept = {"open": key, "conversations": kept["conversations"]}
        return {**opened, self.status: "", **self._keep(kept, chosen, newest=False)}

    # Shared

    def _show(self, shown: Conversation, writing: bool = False) -> dict:
        """Return the updates that show a conversation."""
        return {
            self.shown: shown,
            self.writing: writing,
            self.html: conversation_view.conversation(shown, writing),
            self.meter: conversation_view.context_meter(shown),
            **start_and_stop(self.send, self.stop, writing),
        }

    def _keep(self, kept: object, shown: Conversation, newest: bool = True) -> dict:
        """Return the updates that show a conversation and keep it, at the head of the list if it is the newest."""
        if newest:
            kept = keep(kept, shown)
        return {
            self.kept: kept,
            self.list: conversation_view.conversation_list(read_kept(kept), shown),
            **self._show(shown),
        }

    def _answers(self, stage: str) -> bool:
        """Return True for a model that is offered and answers."""
        return stage in self.models.choices and self.models.choices[stage].instruct

    def _label(self, stage: str) -> str:
        """Return the name under which a model's replies are shown. Raises UserError when there is no model."""
        return self.models.label(stage)


def kept_in_browser(name: str, default: dict) -> gr.BrowserState:
    """Build a component whose value a browser keeps, over reloads and restarts of the server."""
    return gr.BrowserState(default, storage_key=f"smolllama-{name}", secret=BROWSER_SECRET)
