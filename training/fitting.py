"""Settings of a run fitted to what it has: its time, the amount of its data, the memory of its device."""

import sys

from runtime import distributed
from runtime.capacity import Capacity
from runtime.distributed import DistributedEnv
from training import budget
from training.budget import Deadline
from training.memory_fit import fit_micro_batch, with_micro_batch
from training.objectives import Objective
from training.run_length import count_steps, fit_schedule, fit_to_data
from training.run_time import measure_step
from training.settings import RunSetup
from training.state import TrainState

PROBE_SECONDS = 3.0  # of the measurement for --budget
OVERHEAD = 0.1  # of a run's time, for evaluation and saving, until it is measured
SIZES_OF_BATCH = {"micro_batch_size", "batch_size", "gradient_accumulation_steps"}


class Fitting:
    """Adaptation of what was not typed: `args`, rows and `steps` are its results, `notes` its lines of the plan.

    A resumed run has kept what was adapted when it was new.
    """

    def __init__(self, setup: RunSetup, progress: TrainState, env: DistributedEnv, deadline: Deadline | None):
        self.setup = setup
        self.args = setup.args
        self.progress = progress
        self.env = env
        self.deadline = deadline
        self.notes: list[str] = []
        self.learns_by_heart = False  # so few answers that overfitting is what the run is for
        self._make_rows()

    def fit(self, objective: Objective, peak: float | None, capacity: Capacity) -> None:
        """Fit size, batch, length and schedule, in this order."""
        typed = self.setup.typed
        is_new = not self.progress.step
        if is_new and self.deadline and peak:
            self._fit_size(peak)
        if is_new:
            epochs = self.args.epochs
            self.args, notes = fit_to_data(self.args, typed, len(self.rows), self.env.world_size)
            self.learns_by_heart = self.args.train == "S" and self.args.epochs != epochs
            self.notes += notes
        self._fit_memory(capacity)
        if self.deadline:
            self._fit_time(objective)

        progress = self.progress
        self.steps = count_steps(self.args, len(self.rows), progress.step, progress.rows_consumed)
        if is_new:
            self.args, notes = fit_schedule(self.args, typed, self.steps)
            self.notes += notes

    def _make_rows(self) -> None:
        """Make the rows of the context's length; val_rows is None where nothing was held out."""
        mixture, args = self.setup.mixture, self.args
        document_mask = args.document_mask or args.train != "P"
        self.rows = mixture.rows(args.block_size, args.seed, document_mask)
        self.val_rows = mixture.validation_rows(args.block_size, args.seed, document_mask)

    def _fit_size(self, peak: float) -> None:
        """Choose size, batch and rates for the operations that fit into the time, where no size is typed."""
        share = budget.EXPECTED_SHARE[self.env.device.type]
        speed = min(distributed.gather_objects(peak)) * share * self.env.world_size
        left = min(distributed.gather_objects(self.deadline.left()))
        tokens = len(self.rows.dataset)
        self.args, notes = budget.choose_size(self.args, self.setup.typed, tokens, speed * max(1.0, left))
        self.notes += notes
        self._make_rows()

    def _fit_memory(self, capacity: Capacity) -> None:
        """Choose the micro-batch by the device's memory, where it is not typed; the tokens of a step stay."""
        typed = self.setup.typed
        is_auto = typed.get("micro_batch_size") == "auto"
        if not is_auto and SIZES_OF_BATCH & typed.keys():
            return
        fitted, note = fit_micro_batch(
            self.args, self.env.device, self.env.dtype, capacity.memory, largest=is_auto
        )

        # Every rank must take the same, so the one with the least memory decides.
        smallest = min(distributed.gather_objects(fitted.micro_batch_size))
        if smallest != fitted.micro_batch_size:
            fitted = with_micro_batch(fitted, smallest)
        self.args = fitted
        if note:
            self.notes.append(note)

    def _fit_time(self, objective: Objective) -> None:
        """Choose the steps that end in time, by the measured speed of a step on the slowest rank."""
        if self.env.is_main_process:
            print("measuring a step for --budget ...", file=sys.stderr)
        seconds = max(
            distributed.gather_objects(measure_step(objective, self.rows, self.args, self.env, PROBE_SECONDS))
        )
        left = min(distributed.gather_objects(self.deadline.left()))
        steps = max(1, int((1 - OVERHEAD) * left / seconds))
        note = f"{steps:,} steps: one took {seconds:.3g} s, and --budget {self.args.budget} ends the run"

        # Size and batch were chosen for at most this number of repetitions of the data.
        most = steps
        if self.args.train == "P" and not budget.SIZE_FLAGS & self.setup.typed.keys():
            most = max(1, budget.MAX_EPOCHS * len(self.rows) // self.args.rows_per_step)
        if most < steps:
            note = f"{most:,} steps, before --budget ends: {budget.MAX_EPOCHS} epochs of the data are enough"
            steps = most
            self.deadline.may_extend = False
        self.notes.append(note)
        self.args = self.args.replace(total_iters=self.progress.step + steps)
