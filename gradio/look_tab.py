"""Look inside tab: the prompt as the model reads it, the reply's tokens, and what might have stood in their place."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import views
from replies import Reply, StageModels, check_prompt, fresh_seed
from settings_form import PAGE_SCRIPT, args_from_form
from stage_choice import StageChoice, prompt_row
from streams import throttle
from token_probs import token_probs
from token_view import colored_tokens, growing_text
from waiting import Place
from wiring import Handler, Start, event_value, new_job, start_and_stop, wire_reply

import gradio as gr
from runtime.errors import RunError, UserError


class Looked(NamedTuple):
    """Reply that is shown, its model, and the tokens with which it is to begin again (none: it is as it is)."""

    stage: str
    reply: Reply
    begun: tuple[int, ...] = ()


class LookTab:
    """Components of the tab, and what each event does."""

    def __init__(self, models: StageModels, settings: gr.HTML):
        self.models = models
        self.settings = settings
        self.looked = gr.State(None)
        self.job = gr.State("")
        self.running = gr.State(False)
        self.choice = StageChoice(models)
        self.box, self.look, self.stop = prompt_row("Question", "Look", "Text to continue or to answer")
        self.html = gr.HTML(elem_id="inside", js_on_load=PAGE_SCRIPT.read_text(encoding="utf-8"))
        self.status = gr.HTML(elem_id="look-status")
        self._wire()

    def _wire(self) -> None:
        """Connect the events."""
        begun = [self.looked, self.job, self.running, self.html, self.look, self.stop, self.status]
        wire_reply(
            [
                Start(
                    [self.box.submit, self.look.click], Handler(self.begin, {"running": self.running}, begun)
                ),
                Start(
                    [self.html.click],
                    Handler(self.branch, {"looked": self.looked, "running": self.running}, begun),
                ),
            ],
            self.job,
            self.stop,
            Handler(
                self.stream,
                {
                    "prompt": self.box,
                    "model": self.choice.stage,
                    "settings": self.settings,
                    "looked": self.looked,
                },
                [self.html, self.status, self.looked],
            ),
            Handler(self.finish, {}, [self.running, self.look, self.stop]),
            api_name="look",
        )

    def begin(self, *, running: bool) -> dict:
        """Clear the last text, unless one is being written."""
        if running:
            return {self.status: gr.skip()}
        return {
            self.job: new_job(),
            self.running: True,
            self.looked: None,
            self.html: "",
            self.status: "",
            **start_and_stop(self.look, self.stop, running=True),
        }

    def branch(self, event: gr.EventData, *, looked: Looked | None, running: bool) -> dict:
        """Begin the reply again up to a token, with an alternative in its place."""
        if running:
            return {self.status: gr.skip()}
        position, token = event_value(event, "position"), event_value(event, "token")
        if looked is None or not (position.isdecimal() and token.isdecimal()):
            return {self.status: views.problem("There is no reply to continue: look at one first.")}
        before = looked.reply.output_ids[: int(position)]
        begun = (*before, int(token))
        return {
            self.job: new_job(),
            self.running: True,
            self.looked: looked._replace(begun=begun),
            **start_and_stop(self.look, self.stop, running=True),
        }

    def stream(self, prompt: str, model: str, settings: object, looked: Looked | None) -> Iterator[dict]:
        """Yield the growing reply, then its tokens with their probabilities."""
        try:
            args = args_from_form(self.models.args, settings)
            if args.seed is None:
                args = args.replace(seed=fresh_seed())

            if looked is not None and looked.begun:
                stage = looked.stage
                replies = self._stream_branch(looked, args)
            else:
                check_prompt(prompt or "")
                stage = model
                replies = self.models.stream_reply(stage, [{"role": "user", "content": prompt}], args)

            for reply in throttle(self.models.line.wait_then(replies)):
                if isinstance(reply, Place):
                    yield {self.status: views.note(reply.text)}
                    continue
                shown = self._decode(stage, reply.prompt_ids)
                yield {self.html: growing_text(shown, reply.text), self.status: views.note(reply.summary)}

            # The last reply is the complete one.
            tokens = token_probs(self.models, stage, reply)
            max_entropy = math.log2(self.models.load(stage).model.args.vocab_size)
            yield {
                self.html: colored_tokens(shown, tokens, max_entropy),
                self.status: views.note(f"{self.models.label(stage)} · seed {args.seed} · {reply.summary}"),
                self.looked: Looked(stage, reply),
            }
        except (UserError, RunError) as error:
            yield {self.html: "", self.status: views.problem(str(error)), self.looked: None}

    def finish(self) -> dict:
        """Show that nothing is being written."""
        return {self.running: False, **start_and_stop(self.look, self.stop, running=False)}

    def _stream_branch(self, looked: Looked, args: object) -> Iterator[Reply]:
        """Yield a reply that begins with the tokens of another one.

        Raises UserError for a token that the model does not have, and where the reply would be complete already.
        """
        chat_model = self.models.load(looked.stage)
        begun = list(looked.begun)
        if not begun or begun[-1] >= chat_model.model.args.vocab_size:
            raise UserError("The model has no such token: look again.")
        prompt_ids = looked.reply.prompt_ids

        if begun[-1] in chat_model.stop_ids:
            yield dataclasses.replace(
                looked.reply,
                text=chat_model.tokenizer.decode(begun),
                output_ids=begun,
                end_reason="ended by you",
            )
            return
        text = chat_model.tokenizer.decode(begun)
        for reply in self.models.stream_after(looked.stage, [*prompt_ids, *begun], args):
            yield dataclasses.replace(
                reply,
                text=text + reply.text,
                prompt_ids=prompt_ids,
                output_ids=[*begun, *reply.output_ids],
            )

    def _decode(self, stage: str, ids: list[int]) -> str:
        """Return token ids as text, special tokens included."""
        return self.models.load(stage).tokenizer.hf.decode(ids, skip_special_tokens=False)
