"""Compare tab: one prompt for two to four models side by side, a blind vote, and the tally of all votes."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import views
from replies import StageModels, check_prompt, fresh_seed
from settings_form import args_from_form
from stage_choice import EXAMPLES, prompt_row
from streams import step_together, throttle
from tally import read_tally, tally_table
from votes import Comparison, append_ballot, append_vote, ballots_path
from waiting import Place
from wiring import NO_QUEUE, Handler, Start, new_job, start_and_stop, wire_reply

import gradio as gr
from runtime.errors import RunError, UserError

LETTERS = "ABCD"  # names of the replies while the models are hidden
INTRODUCTION = (
    "The same prompt and the same seed for every model. The order is random, and the names stay hidden until you "
    "vote. Only replies that finished can be voted on."
)


class CompareTab:
    """Components of the comparison, and what each event does."""

    def __init__(self, models: StageModels, settings: gr.HTML, votes_path: Path | None):
        self.models = models
        self.votes_path = votes_path
        self.settings = settings
        self.comparison = gr.State(None)
        self.job = gr.State("")
        self.running = gr.State(False)
        gr.HTML(views.note(INTRODUCTION))
        self.choice = gr.CheckboxGroup(
            [(stage.title, name) for name, stage in models.choices.items()],
            value=list(models.choices)[: len(LETTERS)],
            label="Models",
            show_label=False,
            container=False,
            elem_classes="stages",
        )
        self.box, self.compare, self.stop = prompt_row("Prompt", "Compare", "One prompt for all models")
        with gr.Row(elem_classes="chips"):
            self.examples = [gr.Button(text, size="sm", min_width=40) for text in EXAMPLES]

        self.html = gr.HTML(elem_id="replies")
        with gr.Row(visible=False, elem_classes="chips", elem_id="ballot") as self.ballot:
            self.letters = [gr.Button(f"{letter} is better", size="sm", min_width=40) for letter in LETTERS]
            self.tie = gr.Button("Tie", size="sm", min_width=40)
            self.bad = gr.Button("Both bad", size="sm", min_width=40)
            self.reveal = gr.Button("Show the models without a vote", size="sm", min_width=40)
        self.status = gr.HTML(elem_id="compare-status")
        self.tally = gr.HTML(elem_id="tally")
        self._wire()

    def _wire(self) -> None:
        """Connect the events."""
        buttons = [self.compare, self.stop]
        begin = [self.comparison, self.job, self.running, self.ballot, self.status, self.html, *buttons]
        running = {"running": self.running}
        shown = [self.html, self.comparison, self.ballot, *self.letters, self.tie, self.bad, self.status]
        wire_reply(
            [
                Start([self.box.submit, self.compare.click], Handler(self.begin, running, begin)),
                *(
                    Start(
                        [each.click],
                        Handler(self.begin_example, {"text": each, **running}, [self.box, *begin]),
                    )
                    for each in self.examples
                ),
            ],
            self.job,
            self.stop,
            Handler(
                self.stream,
                {"prompt": self.box, "models": self.choice, "settings": self.settings},
                shown,
            ),
            Handler(self.finish, {"comparison": self.comparison}, [self.html, self.running, *buttons]),
            api_name="compare",
        )

        # A vote: save it, show which model wrote which reply. Reveal: the same without saving.
        choices = [*enumerate(self.letters), ("tie", self.tie), ("bad", self.bad), (None, self.reveal)]
        for choice, button in choices:
            button.click(
                partial(self.vote, choice=choice),
                inputs_kwargs={"comparison": self.comparison},
                outputs=[self.html, self.comparison, self.ballot, self.status, self.tally],
                **NO_QUEUE,
            )

    def open_page(self) -> dict:
        """Show the votes so far, and which models there are to compare."""
        present = list(self.models.newest_folders())[: len(LETTERS)]
        return {self.choice: gr.update(value=present), self.tally: self._tally()}

    def begin(self, *, running: bool) -> dict:
        """Forget the last comparison and hide its vote buttons, unless one is being written."""
        if running:
            return {self.status: gr.skip()}
        return {
            self.job: new_job(),
            self.running: True,
            self.comparison: None,
            self.ballot: gr.update(visible=False),
            self.status: "",
            self.html: "",
            **start_and_stop(self.compare, self.stop, running=True),
        }

    def begin_example(self, *, text: str, running: bool) -> dict:
        """Compare the replies to an example."""
        box = {} if running else {self.box: text}
        return {**box, **self.begin(running=running)}

    def stream(self, prompt: str, models: list[str], settings: object) -> Iterator[dict]:
        """Yield the growing replies of the models to one prompt with one seed.

        The order is random; only the server knows it until the visitor has voted.
        """
        try:
            check_prompt(prompt or "")
            order = self._random_order(models)
            labels = tuple(self.models.label(stage) for stage in order)
            args = args_from_form(self.models.args, settings)
            if args.seed is None:
                args = args.replace(seed=fresh_seed())
            messages = [{"role": "user", "content": prompt}]
            streams = step_together([self.models.stream_reply(stage, messages, args) for stage in order])

            for replies in throttle(self.models.line.wait_then(streams)):
                if isinstance(replies, Place):
                    yield {self.status: views.note(replies.text)}
                    continue
                comparison = Comparison(prompt, order, replies, labels)
                finished = all(reply and reply.end_reason for reply in replies)
                yield {
                    self.html: self._anonymous_cards(comparison, writing=not finished),
                    self.comparison: comparison,
                    self.status: "",
                    **(self._open_ballot(comparison) if finished else {}),
                }
        except (UserError, RunError) as error:
            yield {self.html: "", self.comparison: None, self.status: views.problem(str(error))}

    def finish(self, *, comparison: Comparison | None) -> dict:
        """Show that nothing is being written."""
        html = "" if comparison is None else self._anonymous_cards(comparison)
        return {
            self.html: html,
            self.running: False,
            **start_and_stop(self.compare, self.stop, running=False),
        }

    def vote(self, *, comparison: Comparison | None, choice: int | str | None) -> dict:
        """Save the choice, if there is one, and reveal which model wrote which reply."""
        if comparison is None or (isinstance(choice, int) and choice >= len(comparison.order)):
            return {self.status: views.problem("There is nothing to vote on: compare replies first.")}
        status = "" if choice is None else self._save(comparison, choice)

        cards = []
        for index, (stage, text) in enumerate(zip(comparison.order, comparison.texts, strict=True)):
            title, instruct, _ = self.models.choices[stage]
            card = views.Card(
                title=f"{LETTERS[index]}: {title}",
                detail=f"{comparison.labels[index]}, {views.reply_style(instruct)}",
                text=text,
                end=self._end(comparison, index),
                prompt="" if instruct else comparison.prompt,
                chosen=index == choice,
            )
            cards.append(card)
        return {
            self.html: views.reply_cards(cards),
            self.comparison: None,
            self.ballot: gr.update(visible=False),
            self.status: status,
            self.tally: self._tally(),
        }

    def _save(self, comparison: Comparison, choice: int | str) -> str:
        """Append the vote to its files; return a line on what was kept."""
        if self.votes_path is None:
            return views.note(
                "Votes are not kept here: the page was started for others without --votes FILE."
            )
        try:
            num_rows = append_vote(self.votes_path, comparison, choice) if isinstance(choice, int) else 0
            counts = append_ballot(ballots_path(self.votes_path), comparison, choice)
        except OSError as error:
            return views.problem(
                f"cannot write {self.votes_path} ({error.strerror}): choose another file with --votes"
            )
        if num_rows:
            return views.note(f"Rows added to {self.votes_path.name}: {num_rows}")
        if isinstance(choice, str) and counts:
            return views.note("The vote is counted below; without a better reply it is no row for training.")
        return views.note("No row added: a reply was cut or empty, or the texts are equal.")

    def _tally(self) -> str:
        """Return the votes so far, where they are kept."""
        if self.votes_path is None:
            return ""
        return tally_table(read_tally(ballots_path(self.votes_path)))

    def _random_order(self, chosen: list[str]) -> list[str]:
        """Return the chosen models in random order.

        Raises UserError for fewer than two or more than four, and for one that is not there.
        """
        if len(self.models.choices) < 2:
            raise UserError("There is one model only: start the page with --model and two folders or more.")
        if not 2 <= len(chosen) <= len(LETTERS):
            for stage in self.models.choices:
                self.models.newest_folder(stage)  # raises UserError with the command that makes one
            raise UserError(f"Choose two to four models to compare, not {len(chosen)}.")
        for stage in chosen:
            self.models.newest_folder(stage)

        # The system's generator: a seed that somebody set elsewhere must not fix the order.
        return random.SystemRandom().sample(list(chosen), len(chosen))

    def _open_ballot(self, comparison: Comparison) -> dict:
        """Show a button for each reply that may be voted on."""
        ended = comparison.ended
        can_vote = sum(ended) >= 2
        shown = {
            button: gr.update(visible=can_vote and index < len(ended) and ended[index])
            for index, button in enumerate(self.letters)
        }
        shown |= {
            self.tie: gr.update(visible=can_vote),
            self.bad: gr.update(visible=can_vote, value="Both bad" if len(ended) == 2 else "All bad"),
            self.ballot: gr.update(visible=True),
        }
        if not can_vote:
            shown[self.status] = views.note(
                "No vote: fewer than two replies finished. A greater length lets them finish."
            )
        return shown

    def _anonymous_cards(self, comparison: Comparison, writing: bool = False) -> str:
        cards = [
            views.Card(LETTERS[index], "", text, end=self._end(comparison, index))
            for index, text in enumerate(comparison.texts)
        ]
        return views.reply_cards(cards, writing)

    def _end(self, comparison: Comparison, index: int) -> str:
        """Return why a reply ended; empty while it is written."""
        reply = comparison.replies[index]
        return (reply.end_reason or "") if reply else ""
