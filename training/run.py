"""Run of a stage: model, data and optimizers, built once; saving, evaluation, samples, rollback."""

import math
import os
import time

import torch
from torch import nn

import checkpoint
from config import ModelArgs
from dataloader.loader import Loader
from dataloader.mixing import MixedRows
from model import Llama
from runtime import distributed
from runtime.capacity import capacity_of
from runtime.distributed import DistributedEnv
from runtime.errors import RunError
from runtime.watchdog import StopRequested, StopSignal, Watchdog
from training import budget, lora, parallel, plan
from training import state as training_state
from training.budget import Deadline
from training.compilation import allow_any_segments, compile_if_faster
from training.fitting import Fitting
from training.memory import memory_bytes
from training.memory_fit import micro_batch_sizes, with_micro_batch
from training.metrics import Metrics, read_metrics
from training.nonfinite import NotFinite, SkipState, describe_rows
from training.optimizers import build_optimizers, build_scaler, cools_down
from training.reference_logps import attach_reference_logps, check_first_loss, describe_reference
from training.run_time import run_seconds, step_seconds
from training.settings import RunSetup, describe_start
from training.state import TrainState
from training.validation import Validation, say

# Settings of one start of a run, which its checkpoints do not keep.
NOT_STORED = ("resume", "dry_run", "init_from", "preset", "device", "budget")
COMPILE_SECONDS = 600  # a CPU run shorter than this is over before compiling has paid off
PROBED_MEMORY = 1.5  # times the device's memory: what by estimate needs more is not tried
TIMED_PASSES = 4  # of a micro-batch, compiled and not; the first compiles and warms up


class Run:
    """A run from its set-up to its end. `attach_hardware` makes the plan, `build` the model; the loop does the rest."""

    def __init__(self, setup: RunSetup):
        self.setup = setup
        self.args: ModelArgs = setup.args
        self.folder = setup.folder
        self.progress = setup.start.progress or TrainState(step=0, rows_consumed=0, tokens=0)
        self.skips = SkipState.from_dict((setup.start.state or {}).get("skips", {}))
        self.watchdog = Watchdog(self.args.stall_minutes)
        self.stop = StopSignal()
        self.saved_step = self.progress.step  # the newest one on the disk
        # the step that was saved when the rate of wsd began to fall
        self.cooldown_checkpoint: int | None = None
        if not setup.start.extends:
            self.cooldown_checkpoint = (setup.start.state or {}).get("cooldown_checkpoint")

        self.objective = setup.stage.objective(self.args)
        self.deadline = Deadline(self.args.budget) if self.args.budget else None

    def attach_hardware(self, env: DistributedEnv) -> list[str]:
        """Take the hardware into account. Returns the plan, line by line."""
        self.env = env
        self.peak = distributed.peak_flops(env)
        self.capacity = capacity_of(env, self.folder)
        setup = self.setup
        fitting = Fitting(setup, self.progress, env, self.deadline)
        fitting.fit(self.objective, self.peak, self.capacity)

        self.args = fitting.args
        self.rows = fitting.rows
        self.val_rows = fitting.val_rows
        self.steps = fitting.steps
        self.learns_by_heart = fitting.learns_by_heart
        self.decay_end = self.args.lr_decay_iters if self.args.explicit["lr_decay_iters"] else self.steps
        args = self.args

        # On CUDA compiling always pays; on a CPU a long run tries both, see compile_if_faster. A resumed run does as
        # before: then its setting is stored.
        reference_pass = setup.stage.needs_reference and not self.progress.step and not args.lora_rank
        step = step_seconds(self.objective, self.rows, args, env, self.peak)
        seconds = step and run_seconds(
            args,
            step,
            max(0, self.steps - self.progress.step),
            len(self.rows),
            len(self.val_rows or ()),
            reference_pass,
        )
        is_long = not self.progress.step and step is not None and seconds > COMPILE_SECONDS
        self.may_compile = env.device.type == "cuda" or is_long
        if args.compile is not None:
            self.may_compile = args.compile

        lines = describe_start(setup, self.progress, self.rows, self.val_rows)
        epochs = self.steps * args.rows_per_step / len(self.rows)
        if isinstance(self.rows, MixedRows):
            lines.append(self.rows.describe(epochs))
        lines += self.rows.notes
        lines += [f"adapted: {note}" for note in fitting.notes]
        documents_per_row = self.rows.dataset.documents / len(self.rows)
        lines += plan.describe(
            args, env, self.steps, epochs, seconds, self.may_compile, self.capacity, documents_per_row
        )
        old_end = (setup.start.state or {}).get("decay_end")
        lines += plan.moved_end(args, self.progress.step, old_end, self.decay_end)
        return lines

    @property
    def needs_cooldown_checkpoint(self) -> bool:
        """Return True until the checkpoint that a longer run would continue from is saved."""
        cools = cools_down(self.args, self.progress.step, self.decay_end)
        return cools and self.cooldown_checkpoint is None

    def adapt_to_budget(self) -> None:
        """Let a run with a --budget end sooner or later, by its speed until now; all ranks follow the first."""
        # Once the rate of wsd falls, its end stays.
        step = self.progress.step
        if not self.deadline or step >= self.steps or cools_down(self.args, step, self.decay_end):
            return
        steps = self.deadline.steps(self.progress.step, self.steps)
        if self.progress.step % max(1, self.steps // budget.REPLANS) == 0:
            steps = distributed.gather_objects(steps)[0]
        if steps != self.steps:
            self.steps = steps
            self.args = self.args.replace(total_iters=steps)
            self.decay_end = self.args.lr_decay_iters if self.args.explicit["lr_decay_iters"] else steps

    def load_model(self) -> None:
        """Make the model with the weights that it starts from. Raises UserError where they cannot be read."""
        torch.manual_seed(self.args.seed)
        self.model = Llama(self.args)
        if self.setup.start.weights:
            lora.load_weights(self.model, self.args, self.setup.start.weights, self.env.dtype)

    def build(self) -> None:
        """Make optimizers and loader, restored where the run is resumed; then compile and wrap the model."""
        args, env = self.args, self.env
        self.model.to(env.device).train()
        self.attach_reference()

        # Sharding replaces parameters, so it comes before the optimizers.
        sharded = parallel.parallelize(self.model, args, env, compiled=self.may_compile)

        # A CPU would kill a process that tries too much, and of ranks that share a model one cannot try alone: there
        # the estimate decides.
        is_auto = self.setup.typed.get("micro_batch_size") == "auto"
        if is_auto and env.device.type != "cpu" and not sharded:
            self.probe_micro_batch()
            args = self.args
        self.optimizers = build_optimizers(self.model, args)
        self.scaler = build_scaler(env.device, env.dtype, args.micro_batch_size * args.row_tokens)
        self.loader = Loader(
            self.rows,
            args.micro_batch_size,
            env.rank,
            env.world_size,
            self.progress.rows_consumed,
            self.skips.skipped_ranges,
        )

        self.validation = Validation(
            self.setup, args, self.objective, self.val_rows, env, self.check_stop, self.learns_by_heart
        )

        self.train_model = self.model
        if env.device.type == "cuda" and not self.may_compile:
            torch.compiler.set_stance("force_eager")  # of the loss, too, which has a compiled form on CUDA
        if self.may_compile and not sharded:
            self.train_model = compile_if_faster(
                self.model, bool(args.compile), self.time_micro_batch, env, self.say
            )
            # A resumed run must not choose otherwise.
            self.args = self.args.replace(compile=self.train_model is not self.model)
        torch.manual_seed(args.seed + env.rank)  # dropout differs between ranks
        if args.resume:
            training_state.restore(self.setup.start.weights, self.model, self.optimizers, self.scaler, env)
        if env.world_size > 1 and not sharded:
            self.train_model = parallel.wrap_ddp(self.train_model, env)

    def probe_micro_batch(self) -> None:
        """Take the largest micro-batch that the device has memory for, found by trying; the tokens of a step stay."""
        moments = [torch.empty_like(p) for p in self.model.parameters() if p.requires_grad for _ in range(2)]
        for size in micro_batch_sizes(self.args):
            self.args = with_micro_batch(self.args, size)
            if memory_bytes(self.args, self.env.device, self.env.dtype) > PROBED_MEMORY * (
                self.capacity.memory or math.inf
            ):
                continue  # far too large: not worth the time
            try:
                self.time_micro_batch(self.model)
                break
            except torch.OutOfMemoryError:
                self.model.zero_grad(set_to_none=True)
        del moments
        smallest = min(distributed.gather_objects(self.args.micro_batch_size))
        self.args = with_micro_batch(self.args, smallest)
        self.say(f"--micro_batch_size {smallest}: the largest that fits")

    def attach_reference(self) -> None:
        """Give every pair of a DPO run its log-probs under the starting weights, and check the first loss."""
        args, env, setup = self.args, self.env, self.setup
        state = setup.start.state or {}
        is_new = not self.progress.step

        # The relative path from the run to its start stays right when both are moved together.
        weights = setup.start.weights
        start = os.path.relpath(weights.resolve(), self.folder.resolve()) if weights else ""
        self.origin = {
            "init_from": start,
            "reference": None,
            "reference_dtype": None,
            "reference_kernel": None,
        }
        self.origin |= {name: state[name] for name in self.origin.keys() & state.keys()}
        if not setup.stage.needs_reference:
            return

        self.model.eval()
        if not args.lora_rank:  # an adapter's reference is its base, see training/objectives.py
            initial_weights = None
            if is_new:
                self.origin |= describe_reference(self.model, setup.mixture.hash(), args, env)
            else:
                initial_weights = training_state.initial_weights_folder(weights, self.origin)

            self.rows, self.val_rows = attach_reference_logps(
                self.model,
                (self.rows, self.val_rows),
                setup.dataset,
                self.origin["reference"],
                args.micro_batch_size,
                env,
                initial_weights,
                self.check_stop,
            )
        if is_new:
            check_first_loss(self.objective, self.model, self.rows, args, env, setup.dataset)
        self.model.train()

    def check_stop(self) -> None:
        """Raise StopRequested on all ranks once a stop signal has reached one."""
        if self.stop_requested():
            raise StopRequested

    def stop_requested(self) -> bool:
        """Return True on all ranks once a stop signal has reached one; restarts the timer of the watchdog."""
        self.watchdog.beat()
        return distributed.any_rank(self.stop.received, self.env)

    def drop_step(self, first_row: int, generators: list[torch.Tensor]) -> None:
        """Go back to the begin of an unfinished step: no gradients, its rows and its random numbers still to come."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.loader.rows_consumed = first_row
        training_state.set_rng_state(generators, self.env)

    def say(self, message: str) -> None:
        """Print a message on stderr, above the progress bar, on the main process."""
        if self.env.is_main_process:
            say(message)

    def time_micro_batch(self, model: nn.Module) -> float:
        """Return the seconds of the fastest forward and backward of a micro-batch."""
        env = self.env
        batch = Loader(self.rows, self.args.micro_batch_size, env.rank, env.world_size).next(env.device)
        allow_any_segments(batch.segments)
        best = math.inf
        for _ in range(TIMED_PASSES):
            self.watchdog.beat()
            start = time.perf_counter()
            with env.autocast():
                loss, _, _ = self.objective(model, batch)
            loss.backward()
            loss.item()
            best = min(best, time.perf_counter() - start)
        self.model.zero_grad(set_to_none=True)
        return best

    def save(self, needed: bool) -> None:
        """Write a checkpoint; every rank brings its part. Raises RunError when one that is needed cannot be written."""
        self.watchdog.beat()
        if self.progress.step in (0, self.saved_step):
            return  # nothing is trained since the start, or since that step was saved
        if self.needs_cooldown_checkpoint and not self.skips.in_a_row:
            self.cooldown_checkpoint = self.progress.step
        generators = distributed.gather_objects(training_state.rng_state(self.env))
        weights, optimizers = parallel.full_state_dicts(self.model, self.optimizers)
        fault = None
        if self.env.is_main_process:
            states = {"optimizers": optimizers, "scaler": self.scaler.state_dict()}
            training = {"optimizer": states, "rng": generators}
            try:
                training_state.save(
                    self.folder,
                    self.progress,
                    self.model,
                    self.setup.tokenizer,
                    weights,
                    training,
                    self.metadata(),
                    self.setup.origin,
                )
            except RunError as error:
                newest = [step.name for step in checkpoint.steps(self.folder)[-1:]]
                fault = f"{error}; the newest is {newest[0] if newest else 'none'}: make room"

        fault = distributed.gather_objects(fault)[0]
        if fault and needed:
            remedy = "rerun with --resume" if self.saved_step else "start again with the same command"
            raise RunError(f"{fault}, then {remedy}")
        if fault:
            self.say(f"warning: {fault}; the run continues")
        else:
            self.saved_step = self.progress.step

    def prune(self) -> None:
        """Name the best step, and remove checkpoints that are not to be kept."""
        if not self.env.is_main_process:
            return
        try:
            training_state.update_best(self.folder)
            training_state.prune(self.folder, self.args.keep_checkpoints, self.cooldown_checkpoint)
        except OSError as error:
            self.say(f"warning: old checkpoints stay in {self.folder} ({error.strerror}); the run continues")

    def metadata(self) -> dict:
        """Return what a checkpoint keeps besides weights, optimizers and position: settings, data, origin."""
        stored = {name: value for name, value in self.args.explicit.items() if name not in NOT_STORED}
        stored["dtype"] = str(self.env.dtype).removeprefix("torch.")
        return {
            "args": stored,
            "data": self.setup.mixture.hash(),
            "stage": self.setup.stage.name,
            "world_size": self.env.world_size,
            "device": distributed.device_name(self.env),
            "sources": self.setup.mixture.sources,
            "skips": self.skips.to_dict(),
            "decay_end": self.decay_end,
            "cooldown_checkpoint": self.cooldown_checkpoint,
            **self.origin,
        }

    def handle_nonfinite(self, fault: NotFinite, first_row: int) -> bool:
        """Report a skipped step, whose rows begin at first_row; roll back after too many in a row. True if rolled back.

        Raises RunError when a rollback is not possible or was tried before.
        """
        self.skips.add(first_row)
        rows = describe_rows(fault, self.loader, first_row, self.env)
        count = f"{self.skips.in_a_row} of {self.args.skip_limit} in a row"
        self.say(f"step {self.progress.step}: {rows}: the step is skipped ({count})")
        if self.skips.in_a_row < self.args.skip_limit:
            return False

        source = self.skips.rollback_target(self.folder, self.loader.rows_consumed, "a smaller --max_lr")
        checkpoint.verify_checkpoint(source, resumed=True)
        lora.load_weights(self.model, self.args, source, self.env.dtype)
        training_state.restore(source, self.model, self.optimizers, self.scaler, self.env)
        self.progress, _ = training_state.load_state(source)
        self.saved_step = self.progress.step
        self.loader.rows_consumed = self.progress.rows_consumed
        self.say(f"rolled back to {source.name}; the rows of these steps are skipped")
        return True

    def validate(self, metrics: Metrics | None, complete: bool) -> bool:
        """Evaluate on all validation rows or some of them; the main process shows and writes what there is to see.

        Returns False where a stop signal has ended it early.
        """
        try:
            self.validation.run(self.model, self.progress, self.steps, metrics, complete)
        except StopRequested:
            return False
        return True

    def has_evaluation(self) -> bool:
        """Return True if the metrics hold an evaluation of the step that the run has reached."""
        step = self.progress.step
        rows = read_metrics(self.folder / "metrics.jsonl") if self.env.is_main_process else []
        has_row = any((row["step"], row["split"]) == (step, "val") for row in rows)
        return distributed.gather_objects(has_row)[0]

    def is_complete(self) -> bool:
        """Return True if nothing is left to do: no step, no evaluation of the last one, no removal of checkpoints."""
        if self.progress.step != self.steps:
            return self.progress.step > self.steps
        evaluated = not self.val_rows or self.has_evaluation()
        removed = not any(self.folder.glob(".step_*"))
        return evaluated and distributed.gather_objects(removed)[0]
