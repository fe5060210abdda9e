"""Evaluations of a run while it trains: figures on the validation set, curves, a sample, advice."""

import sys

from tqdm import tqdm

from config import ModelArgs
from dataloader.loader import Rows, fixed_batches
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.errors import RunError
from runtime.watchdog import Watchdog
from training import advice, parallel, plots
from training.metrics import Metrics, read_metrics
from training.objectives import Objective, evaluate
from training.sample import generate_sample
from training.settings import RunSetup
from training.state import TrainState


class Validation:
    """Evaluations of a run; all ranks evaluate, the main process shows and writes."""

    def __init__(
        self,
        setup: RunSetup,
        args: ModelArgs,
        objective: Objective,
        val_rows: Rows | None,
        env: DistributedEnv,
        watchdog: Watchdog,
        learns_by_heart: bool,
    ):
        self.setup = setup
        self.args = args
        self.objective = objective
        self.val_rows = val_rows
        self.env = env
        self.watchdog = watchdog
        self.losses: dict[int, float] = {}  # of this process, by step
        self.shown_sample: list[int] = []
        self.given_advice = {"overfitting"} if learns_by_heart else set()

    def run(
        self, model: Llama, progress: TrainState, steps: int, metrics: Metrics | None, complete: bool
    ) -> None:
        """Evaluate, draw the curves, show a sample; without a validation set there is nothing to evaluate."""
        line = f"step {progress.step}:"
        if self.val_rows:
            line += self._evaluate(model, progress, metrics, complete)
        if not metrics:
            return

        try:
            plots.loss_curves(self.setup.folder)
        except (OSError, ImportError) as error:  # a full disk; no memory for the library
            say(f"the loss curves cannot be drawn ({error}); the run continues")

        sample = self.sample(model)
        has_news = sample and sample != self.shown_sample
        if has_news:
            separator = "" if self.setup.stage.kind == "text" else " -> "
            line += f"\n  {self.args.prompt + separator + self.setup.tokenizer.decode(sample)!r}"
        self.shown_sample = sample
        if has_news or self.val_rows:
            say(line)
        self.advise(metrics, sample, progress.step, steps)

    def _evaluate(self, model: Llama, progress: TrainState, metrics: Metrics | None, complete: bool) -> str:
        """Evaluate on the validation rows, write the result to the metrics; return it as text."""
        args, env = self.args, self.env
        # The limit does not depend on the split into micro-batches and ranks.
        limit = None if complete else args.eval_check * args.batch_size
        batches = fixed_batches(self.val_rows, args.micro_batch_size, env.rank, env.world_size, limit)
        means = evaluate(self.objective, model, self.watchdog.watch(batches), env)
        self.losses[progress.step] = means["loss"]
        covers_all = limit is None or limit >= len(self.val_rows)
        if metrics:
            metrics.write(progress.step, "val", {**means, "tokens": progress.tokens, "whole": covers_all})

        text = f" validation loss {means['loss']:.4f}"
        for name in ("accuracy", "margin"):
            if name in means:
                text += f", {name} {means[name]:.3f}"
        return text

    def advise(self, metrics: Metrics, sample: list[int], step: int, steps: int) -> None:
        """Print what metrics and the last sample show to be wrong; each advice once, in the second half of a run."""
        if step < steps / 2:
            return

        messages = advice.advice_on(read_metrics(metrics.path), self.args.beta)
        if step == steps and sample:
            messages["repetition"] = advice.repetition(self.setup.tokenizer.decode(sample))
            if self.setup.stage.kind != "text":
                room = min(self.args.max_length, self.args.block_size - len(self.setup.prompt_ids))
                messages["endless_reply"] = advice.endless_reply(len(sample), room)

        for name, message in messages.items():
            if message and name not in self.given_advice:
                self.given_advice.add(name)
                say(f"advice: {message}")

    def sample(self, model: Llama) -> list[int]:
        """Return the tokens that the model writes after --prompt; none where no rank has all of a sharded model."""
        if parallel.is_sharded(model):
            return []
        model.eval()
        try:
            return generate_sample(
                model, self.setup.prompt_ids, self.args, self.setup.tokenizer.stop_ids, self.env
            )
        except RunError as error:
            say(f"no sample: {error}")
            return []
        finally:
            model.train()


def say(message: str) -> None:
    """Print a message on stderr, above the progress bar."""
    tqdm.write(message, sys.stderr)
