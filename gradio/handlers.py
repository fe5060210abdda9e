"""Handlers of the page's events: chat, comparison and token probabilities; tabs.py connects them to components.

A handler returns one value for each output component, in the order of the outputs listed in tabs.py.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import views
from loss_curves import loss_curves
from replies import StageModels, check_prompt
from sampling_form import args_from_form
from streams import step_together, throttle
from votes import Comparison, append_vote

import gradio as gr
from runtime.errors import RunError, UserError
from training.metrics import read_metrics

LETTERS = "ABCD"  # names of the replies while the models are hidden


class PageHandlers:
    """Handlers of all events; state of a visitor is in Gradio's State components, not here."""

    def __init__(self, models: StageModels, votes_path: Path | None):
        self.models = models
        self.votes_path = votes_path
        self.choices = models.choices
        self.letters = LETTERS[: len(self.choices)]

    # The page opens, or another model is chosen.

    def open_page(self) -> tuple:
        """Return the first stage and its line, for both tabs that choose a stage, and the loss curves."""
        stage = self.newest_stage()
        line = self.model_line(stage)

        runs = []
        for folder in self.models.newest_folders().values():
            # A step's folder lies in its run; a downloaded model is a folder of its own.
            is_step = (folder.parent / "latest").is_file()
            run = folder.parent if is_step else folder
            runs.append((run.name, read_metrics(run / "metrics.jsonl")))

        return stage, line, stage, line, loss_curves(runs)

    def newest_stage(self) -> str:
        """Return the first model that was named, or the last stage that has one; "pretrained" if none has."""
        if self.models.names:
            return self.models.names[0]
        stages = list(self.models.newest_folders())
        return stages[-1] if stages else "pretrained"

    def model_line(self, stage: str) -> str:
        """Return a line on how the stage's model replies, or on how to make one."""
        try:
            folder = self.models.newest_folder(stage)
        except UserError as error:
            return views.problem(str(error))
        chosen = self.choices[stage]
        return views.model_line(chosen.instruct, f"{folder.parent.name}/{folder.name}", chosen.own_template)

    # Chat

    def show_conversation(self, conversation: list[dict], stage: str, writing: bool = False) -> str:
        """Return a conversation in the style of the stage's model."""
        return views.conversation(conversation, self.choices[stage].instruct, writing)

    def add_message(self, message: str, conversation: list[dict], stage: str, writing: bool) -> tuple:
        """Add the message to the conversation at once; while a reply is written, the message stays in its box."""
        if writing:
            return (gr.skip(),) * 6

        conversation = [*conversation, {"role": "user", "content": message}]
        html = self.show_conversation(conversation, stage, writing=True)
        return "", conversation, True, html, *start_and_stop(running=True)

    def show_system(self, stage: str) -> dict:
        """Show the box of the system prompt where the stage's model answers; a base model has none."""
        return gr.update(visible=self.choices[stage].instruct)

    def stream_chat(
        self, conversation: list[dict], stage: str, system: str, *values: float
    ) -> Iterator[tuple]:
        """Yield the conversation with the growing reply; the system prompt is the turn before it.

        Yields nothing if no message waits for a reply, as after a message that stayed in its box.
        """
        if not is_unanswered(conversation):
            return

        try:
            check_prompt(conversation[-1]["content"])
            args = args_from_form(self.models.args, values)
            messages = [*system_turn(system, self.choices[stage].instruct), *conversation]
            for reply in throttle(self.models.stream_reply(stage, messages, args)):
                answered = [*conversation, {"role": "assistant", "content": reply.text}]
                html = self.show_conversation(answered, stage, writing=reply.end_reason is None)
                yield answered, html, views.note(reply.summary)
        except (UserError, RunError) as error:
            yield conversation, gr.skip(), views.problem(str(error))

    def finish_chat(self, conversation: list[dict], stage: str) -> tuple:
        """Show that nothing is being written; return a message without a reply to its box."""
        box = gr.skip()
        if is_unanswered(conversation):
            *conversation, message = conversation
            box = message["content"]

        html = self.show_conversation(conversation, stage)
        return box, conversation, False, html, *start_and_stop(running=False)

    def clear_chat(self, stage: str) -> tuple:
        """Start a new conversation and clear the status line."""
        return *self.finish_chat([], stage), ""

    # Compare

    def start_comparison(self, _prompt: str) -> tuple:
        """Forget the last comparison and hide its vote buttons."""
        return None, *start_and_stop(running=True), gr.update(visible=False), ""

    def stream_comparison(self, prompt: str, *values: float) -> Iterator[tuple]:
        """Yield the growing replies of all models to one prompt with one seed.

        The order is random; only the server knows it until the visitor has voted.
        """
        try:
            check_prompt(prompt)
            order = self._random_order()
            args = args_from_form(self.models.args, values)
            messages = [{"role": "user", "content": prompt}]
            streams = [self.models.stream_reply(stage, messages, args) for stage in order]

            for replies in throttle(step_together(streams)):
                comparison = Comparison(prompt, order, replies)
                finished = all(reply and reply.end_reason for reply in replies)
                html = self._anonymous_cards(comparison, writing=not finished)

                ballot = gr.update(visible=finished)
                buttons = [gr.update(visible=number < len(order)) for number in range(len(self.letters))]
                yield html, comparison, ballot, *buttons, ""
        except (UserError, RunError) as error:
            buttons = [gr.skip()] * len(self.letters)
            yield "", None, gr.update(visible=False), *buttons, views.problem(str(error))

    def finish_comparison(self, comparison: Comparison | None) -> tuple:
        """Show that nothing is being written."""
        html = ""
        if comparison is not None:
            html = self._anonymous_cards(comparison)
        return html, *start_and_stop(running=False)

    def vote(self, comparison: Comparison, choice: int | None) -> tuple:
        """Save the choice, if there is one, and reveal which model wrote which reply."""
        status = ""
        if choice is not None and self.votes_path is None:
            status = views.note(
                "Votes are not kept here: the page was started for others without --votes FILE."
            )
        elif choice is not None:
            try:
                num_rows = append_vote(self.votes_path, comparison, choice)
                status = views.note(f"Rows added to {self.votes_path.name}: {num_rows}")
                if not num_rows:
                    status = views.note("No row added: a reply was cut or empty, or the texts are equal.")
            except OSError as error:
                status = views.problem(
                    f"cannot write {self.votes_path} ({error.strerror}): choose another file with --votes"
                )

        cards = []
        for index, (stage, text) in enumerate(zip(comparison.order, comparison.texts, strict=True)):
            title, instruct, _ = self.choices[stage]
            card = views.Card(
                title=f"{self.letters[index]}: {title}",
                detail=views.reply_style(instruct),
                text=text,
                prompt="" if instruct else comparison.prompt,
                chosen=index == choice,
            )
            cards.append(card)
        return views.reply_cards(cards), None, gr.update(visible=False), status

    def _random_order(self) -> list[str]:
        """Return the models in random order; raise UserError if there are fewer than two."""
        folders = self.models.newest_folders()
        if len(folders) < 2:
            missing = next((stage for stage in self.choices if stage not in folders), None)
            if missing is None:
                raise UserError(
                    "There is one model only: start the page with --model and two folders or more."
                )
            self.models.newest_folder(missing)  # raises UserError with the command that makes one

        # The system's generator: a seed that somebody set elsewhere must not fix the order.
        return random.SystemRandom().sample(list(folders), len(folders))

    def _anonymous_cards(self, comparison: Comparison, writing: bool = False) -> str:
        cards = [
            views.Card(letter, "", text) for letter, text in zip(self.letters, comparison.texts, strict=False)
        ]
        return views.reply_cards(cards, writing)

    # Look inside

    def start_look(self, _prompt: str) -> tuple:
        """Clear the last text."""
        return *start_and_stop(running=True), ""

    def stream_look(self, prompt: str, stage: str, *values: float) -> Iterator[tuple]:
        """Yield the growing reply, then its tokens with their probabilities."""
        try:
            check_prompt(prompt)
            args = args_from_form(self.models.args, values)
            messages = [{"role": "user", "content": prompt}]

            for reply in throttle(self.models.stream_reply(stage, messages, args)):
                yield views.growing_text(prompt, reply.text), views.note(reply.summary)

            # The last reply is the complete one.
            tokens = self.models.token_probs(stage, reply)
            yield views.colored_tokens(prompt, tokens), views.note(reply.summary)
        except (UserError, RunError) as error:
            yield "", views.problem(str(error))

    def finish_look(self) -> tuple:
        """Show that nothing is being written."""
        return start_and_stop(running=False)


def system_turn(system: str, instruct: bool) -> list[dict]:
    """Return the turn of a system prompt; none where the box is empty or hidden, as for a base model."""
    if not system.strip() or not instruct:
        return []
    check_prompt(system)
    return [{"role": "system", "content": system}]


def is_unanswered(conversation: list[dict]) -> bool:
    """Return True if the last message is the user's."""
    return bool(conversation) and conversation[-1]["role"] == "user"


def start_and_stop(running: bool) -> tuple[dict, dict]:
    """Return updates of a start and a stop button: exactly one of them is visible."""
    return gr.update(visible=not running), gr.update(visible=running)
