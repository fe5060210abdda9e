"""Evaluations of a run while it trains: figures on the validation set, curves, a sample, advice."""

import sys
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

from config import ModelArgs
from dataloader.batch import Batch
from dataloader.loader import Rows, fixed_batches
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.errors import RunError
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
        check_stop: Callable[[], None],
        learns_by_heart: bool,
    ):
        self.setup = setup
        self.args = args
        self.objective = objective
        self.val_rows = val_rows
        self.env = env
        self.check_stop = check_stop
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
        if not progress.step:  # there is nothing to see yet
            if self.val_rows:
                say(line)
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
        # The limit does not depend on the split into micro-batches and ranks.
        limit = self.args.eval_check * self.args.batch_size
        is_sample = limit < len(self.val_rows)
        means = self._means(model, limit if is_sample and not complete else None)
        values = {**means, "tokens": progress.tokens, "whole": complete or not is_sample}
        if complete and is_sample:
            values["sample_loss"] = self._means(model, limit)["loss"]  # to compare it with other evaluations
        if metrics:
            metrics.write(progress.step, "val", values)

        text = f" validation loss {means['loss']:.4f}"
        for name in ("accuracy", "margin"):
            if name in means:
                text += f", {name} {means[name]:.3f}"
        return text

    def _means(self, model: Llama, limit: int | None) -> dict[str, float]:
        """Return the means over all validation rows, or over `limit` of them."""
        rank, world_size = self.env.rank, self.env.world_size
        batches = fixed_batches(self.val_rows, self.args.micro_batch_size, rank, world_size, limit)
        return evaluate(self.objective, model, self._until_stopped(batches), self.env)

    def _until_stopped(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches; all ranks have the same number of them. Raises StopRequested on a stop signal."""
        for batch in batches:
            self.check_stop()
            yield batch

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
