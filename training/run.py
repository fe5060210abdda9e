"""A run and its stage: settings, data, model and optimizers, set up in order; how it saves, evaluates, goes back."""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import checkpoint
from config import ModelArgs, resolve
from dataloader.loader import (
    FixedRows,
    Loader,
    PackedRows,
    PairRows,
    Rows,
    StreamRows,
    StreamValidation,
    fixed_batches,
)
from dataprep.shards import SPLITS, TokenDataset, read_meta, verify_dataset
from generation.chat import sampling_params
from generation.generate import generate
from model import Llama
from runtime import distributed
from runtime.distributed import DistributedEnv
from runtime.errors import RunError, UserError
from runtime.watchdog import Watchdog, is_local_main_process, restarted_by_torchrun
from tokenizer import has_tokenizer, load_tokenizer
from training import parallel, plan, plots
from training import state as training_state
from training.metrics import Metrics
from training.nonfinite import NotFinite, SkipState, where
from training.objectives import Objective, completion_logps, evaluate, next_token, preference, preference_loss
from training.optimizers import build_optimizers
from training.reference_logps import make_table, reference_key, table_path
from training.settings import adopt_architecture, choose_dataset, resolve_vocab_size


@dataclass(frozen=True)
class Stage:
    """What tells one stage from another: its name, the kind of data, how rows are cut, what is optimised.

    `prepare` is called once, with the model that the run starts from.
    """

    name: str
    kind: str
    rows: Callable[[TokenDataset, int, int], Rows]
    fixed_rows: Callable[[TokenDataset, int, int], FixedRows]
    objective: Callable[[ModelArgs], Objective]
    prepare: Callable[["Run"], None]


NOT_STORED = (
    "resume",
    "dry_run",
    "init_from",
    "preset",
    "device",
)  # belong to one start of a run, not to the run
PROBE_SECONDS = 600  # a CPU run shorter than this is over before compiling has paid


class Run:
    """All that the loop works with, set up in the one order that works: settings, data, then build()."""

    def __init__(self, typed: dict):
        args = resolve(typed)
        dataset = choose_dataset(args, STAGES[args.train].kind)
        if args.train == "P" and read_meta(dataset)["kind"] == "instruct":
            typed = {**typed, "train": "S"}
            args = resolve(typed)
        self.folder = Path(args.save_checkpoint_dir) / (args.run_name or f"{args.train}-{dataset.name}")
        self.progress, self.source, state = training_state.TrainState(0, 0, 0), None, {}
        self.goes_on = args.resume or restarted_by_torchrun(self.folder)
        if args.resume or self.goes_on and (self.folder / "latest").is_file():
            self.source, typed = checkpoint.find_model(self.folder), {**typed, "resume": True}
            self.check(partial(checkpoint.verify_checkpoint, resumed=True), self.source, args)
            self.progress, state = training_state.load_state(self.source)
            if (args.train, state["args"]["train"]) == (
                "P",
                "S",
            ):  # P on instructions is S: the run knows what it was
                typed = {**typed, "train": "S"}
            args = resolve(typed, state["args"])
            if args.optimizer != state["args"]["optimizer"]:
                raise UserError(
                    f"--optimizer {args.optimizer} cannot go on with the moments of "
                    f"{state['args']['optimizer']}: start a new run with --init_from {self.source} and a "
                    "--run_name of its own"
                )
            dataset = Path(args.data_dir) / args.dataset
        elif args.init_from:
            self.source = checkpoint.find_model(args.init_from)
            if self.source.resolve().is_relative_to(self.folder.resolve()):
                raise UserError(
                    f"{self.source} is of the run whose place this one would take: give this one another "
                    "--run_name"
                )
            self.check(checkpoint.verify_checkpoint, self.source, args)
        self.check(verify_dataset, dataset, args)
        self.stage, self.skips = STAGES[args.train], SkipState(**state.get("skips", {}))
        # The way from the run's folder to where it starts from stays right when both are moved.
        start = os.path.relpath(self.source.resolve(), self.folder.resolve()) if self.source else ""
        self.start = {"init_from": start, "reference": None, "reference_dtype": None}
        self.start |= {name: state[name] for name in self.start.keys() & state.keys()}
        self.meta = read_meta(dataset)
        self.tokenizer = load_tokenizer(dataset / "tokenizer")
        if state and state["data"] != training_state.data_hash(self.meta):
            raise UserError(
                f"{dataset} is not the data that {self.source} was trained on: prepare it as it was, or "
                f"start a new run with --init_from {self.source} and a --run_name of its own"
            )
        if self.source:
            args = adopt_architecture(self.source, args, typed, self.tokenizer)
        args = resolve_vocab_size(args, self.tokenizer).replace(
            dataset=dataset.name, run_name=self.folder.name
        )
        self.prompt = (
            self.tokenizer.encode(args.prompt) or [self.tokenizer.eos_id]
            if self.stage.kind == "text"
            else self.tokenizer.render([{"role": "user", "content": args.prompt}])[0]
        )
        if len(self.prompt) >= args.block_size:
            if "prompt" in typed:
                raise UserError(
                    f"--prompt has {len(self.prompt)} tokens; a --block_size of {args.block_size} holds fewer"
                )
            self.prompt = []  # not typed, so no sample is missed
        self.dataset, (train, val) = dataset, (TokenDataset(dataset, split, self.meta) for split in SPLITS)
        self.rows = self.stage.rows(train, args.block_size, args.seed)
        self.val_rows = self.stage.fixed_rows(val, args.block_size, args.seed)
        self.objective = self.stage.objective(args)
        left = max(0, args.epochs * len(self.rows) - self.progress.cursor) // args.rows_per_step
        self.steps = min(args.total_iters, max(1, self.progress.step + left))
        self.decay_end = args.lr_decay_iters if args.explicit["lr_decay_iters"] else self.steps
        self.args, self.watchdog = args, Watchdog(args.stall_minutes)

    @staticmethod
    def check(whole: Callable[[Path], None], folder: Path, args: ModelArgs) -> None:
        """Compare a folder with its sums, once on each machine, before anything of it is believed."""
        if is_local_main_process() and not args.dry_run:
            whole(folder)

    def meet(self, env: DistributedEnv) -> list[str]:
        """Take the hardware into account; returns the plan in lines."""
        self.env, self.peak = env, distributed.peak_flops(env)
        remaining = self.steps - self.progress.step
        long = self.peak and plan.expected_seconds(self.args, env, remaining, self.peak) > PROBE_SECONDS
        asked = self.args.compile
        self.may_compile = (env.device.type == "cuda" or bool(long)) if asked is None else asked
        train, val = self.rows.store, self.val_rows.store
        head = [
            f"{self.stage.name} on {self.args.dataset} ({len(train):,} tokens, {train.documents:,} documents; "
            f"validation {len(val):,} tokens) -> {self.folder}"
        ]
        if self.progress.step:
            head.append(
                f"resuming from {self.source}: step {self.progress.step}, {self.progress.tokens:,} tokens seen"
            )
        elif self.source or self.stage.kind != "text":
            head.append(
                f"starting from {self.source or 'random weights (--init_from FOLDER takes a trained model)'}"
            )
        if self.source and not has_tokenizer(self.source):
            head.append(f"note: {self.source} has no tokenizer; its ids are taken to be those of the data")
        epochs = self.steps * self.args.rows_per_step / len(self.rows)
        return (
            head
            + self.rows.notes
            + plan.describe(
                self.args, env, self.steps, self.progress.step, epochs, self.peak, self.may_compile
            )
        )

    def build(self) -> None:
        """Model, optimizers and position in the data, restored where the run is resumed; then the wrappers."""
        args, env = self.args, self.env
        torch.manual_seed(args.seed)
        self.model = Llama(args)
        if self.source:
            parallel.load_full_state_dict(self.model, checkpoint.read_weights(self.source, self.model))
        self.model.to(env.device).train()
        self.stage.prepare(self)
        sharded = parallel.parallelize(self.model, args, env, compiled=self.may_compile)
        self.optimizers = build_optimizers(self.model, args)
        self.scaler = torch.amp.GradScaler(env.device.type, enabled=env.dtype == torch.float16)
        self.loader = Loader(
            self.rows,
            args.micro_batch_size,
            env.rank,
            env.world_size,
            self.progress.cursor,
            self.skips.left_out,
        )
        self.wrapped = self.model
        if self.may_compile and not sharded:
            compiled = torch.compile(self.model)
            if args.compile or self.faster(compiled):
                self.wrapped = compiled
            self.args = args.replace(
                compile=self.wrapped is compiled
            )  # a resumed run must not decide otherwise
        torch.manual_seed(args.seed + env.rank)  # dropout differs between ranks
        if args.resume:
            training_state.restore(self.source, self.model, self.optimizers, self.scaler, env)
        if env.world_size > 1 and not sharded:
            self.wrapped = parallel.wrap_ddp(self.wrapped)

    def faster(self, compiled: nn.Module) -> bool:
        """Whether a compiled micro-batch takes less time than a plain one, all ranks together."""
        env, best = self.env, {}
        batch = Loader(self.rows, self.args.micro_batch_size, env.rank, env.world_size).next().to(env.device)
        for model in (compiled, self.model):
            for _ in range(4):  # the first compiles and warms up
                t0 = time.perf_counter()
                with env.autocast():
                    loss, _, _ = self.objective(model, batch)
                loss.backward()
                loss.item()
                best[model] = min(best.get(model, math.inf), time.perf_counter() - t0)
            self.model.zero_grad(set_to_none=True)
        seconds = distributed.all_reduce_sum(
            torch.tensor([best[compiled], best[self.model]], device=env.device)
        )
        return bool(seconds[0] < seconds[1])

    def save(self, needed: bool) -> None:
        """Write a checkpoint; every rank brings its part. Raises RunError when one that is needed cannot be written."""
        generators, fault = distributed.gather_objects(training_state.rng_state(self.env)), None
        weights, optimizers = parallel.full_state_dicts(self.model, self.optimizers)
        if self.env.is_main_process:
            stored = {name: value for name, value in self.args.explicit.items() if name not in NOT_STORED}
            stored["dtype"] = str(self.env.dtype).removeprefix("torch.")
            state = {
                "args": stored,
                "data": training_state.data_hash(self.meta),
                "stage": self.stage.name,
                "world_size": self.env.world_size,
                "device": distributed.device_name(self.env),
                "source": self.meta["source"],
                "skips": vars(self.skips),
                **self.start,
            }
            training = {
                "optimizer": {"optimizers": optimizers, "scaler": self.scaler.state_dict()},
                "rng": generators,
            }
            try:
                training_state.save(
                    self.folder,
                    self.progress,
                    self.model,
                    self.tokenizer,
                    weights,
                    training,
                    state,
                    self.args.keep_checkpoints,
                )
            except RunError as error:
                newest = [step.name for step in checkpoint.steps(self.folder)[-1:]]
                fault = f"{error}; the newest is {newest[0] if newest else 'none'}: make room"
        if fault := distributed.gather_objects(fault)[0]:
            if needed:
                raise RunError(f"{fault}, then go on with --resume")
            if self.env.is_main_process:
                tqdm.write(f"warning: {fault}; the run goes on", sys.stderr)

    def leave_out(self, fault: NotFinite, first: int) -> bool:
        """Say which rows a step failed on; whether the run has then gone back to a checkpoint, to pass over them."""
        self.skips.add(first)
        said = (
            f"step {self.progress.step}: {where(fault, self.loader, first, self.env)}: the step is left out "
            f"({self.skips.in_a_row} of {self.args.skip_limit} in a row)"
        )
        if self.env.is_main_process:
            tqdm.write(said, sys.stderr)
        if self.skips.in_a_row < self.args.skip_limit:
            return False
        source = self.skips.rollback_target(self.folder, self.loader.cursor, "a smaller --max_lr")
        checkpoint.verify_checkpoint(source, resumed=True)
        parallel.load_full_state_dict(self.model, checkpoint.read_weights(source, self.model))
        training_state.restore(source, self.model, self.optimizers, self.scaler, self.env)
        vars(self.progress).update(vars(training_state.load_state(source)[0]))
        self.loader.cursor = self.progress.cursor
        if self.env.is_main_process:
            tqdm.write(f"back to {source.name}; the rows of these steps are passed over", sys.stderr)
        return True

    def validate(self, metrics: Metrics | None, whole: bool) -> None:
        """Evaluate on the fixed validation rows, write the figure down, draw the curves, show a sample."""
        args, env = self.args, self.env
        limit = (
            None if whole else args.eval_check * args.batch_size
        )  # whatever the split into micro-batches and ranks
        batches = fixed_batches(self.val_rows, args.micro_batch_size, env.rank, env.world_size, limit)
        means = evaluate(self.objective, self.model, self.watchdog.watch(batches), env)
        if metrics:
            metrics.write(self.progress.step, "val", {**means, "tokens": self.progress.tokens})
            try:
                plots.loss_curves(self.folder)
            except OSError as error:
                tqdm.write(f"the loss curves cannot be drawn ({error.strerror}); the run goes on", sys.stderr)
            also = "".join(f", {name} {means[name]:.3f}" for name in ("accuracy", "margin") if name in means)
            sample = self.sample()
            tqdm.write(
                f"step {self.progress.step}: validation loss {means['loss']:.4f}{also}"
                + (f"\n  {sample!r}" if sample else ""),
                sys.stderr,
            )

    def sample(self) -> str:
        """--prompt and what the model writes after it now.

        Nothing where no prompt fits, or of a model in parts, of which no rank has enough to write with.
        """
        args = self.args
        if parallel.is_sharded(self.model) or not self.prompt:
            return ""
        self.model.eval()
        try:
            with self.env.autocast():
                text = self.tokenizer.decode(
                    generate(
                        self.model,
                        self.prompt,
                        args.max_length,
                        self.tokenizer.eos_id,
                        sampling_params(args),
                    )
                )
        except RunError as error:
            text = f"({error})"
        self.model.train()
        return args.prompt + (text if self.stage.kind == "text" else " -> " + text)


def attach_reference_logps(run: Run) -> None:
    """Give every pair its log-probs under the starting weights, and see that the first loss is that of no preference.

    A wrong shift, mask or reference shows here: policy and reference are the same model, so all margins are zero.
    """
    args, env = run.args, run.env
    if not run.progress.step:
        run.start["reference"] = reference_key(
            run.model, training_state.data_hash(run.meta), args.block_size, env.dtype
        )
        run.start["reference_dtype"] = str(env.dtype).removeprefix("torch.")
    run.model.eval()
    for split, rows in zip(SPLITS, (run.rows, run.val_rows), strict=True):
        path = table_path(run.dataset, run.start["reference"], split)
        if run.progress.step and not path.is_file():
            raise UserError(
                f"the reference log-probs of this run are gone ({path}): start it again with --init_from "
                f"{training_state.initial_weights_folder(run.source, run.start)}"
            )
        rows.reference = make_table(
            path, rows, lambda batch: completion_logps(run.model, batch), args.micro_batch_size, env
        )
    if not run.progress.step:
        batches = fixed_batches(
            run.rows, args.micro_batch_size, env.rank, env.world_size, limit=args.micro_batch_size
        )
        loss = evaluate(run.objective, run.model, batches, env)["loss"]
        even = preference_loss(
            torch.zeros(1), torch.zeros(1), args.beta, args.label_smoothing, args.dpo_loss
        ).item()
        if not abs(loss - even) <= (1e-4 if env.dtype == torch.float32 else 1e-2) * max(1.0, even):
            raise RunError(
                f"the loss before the first step is {loss:.6f}, not {even:.6f}: the reference log-probs in "
                f"{path.parent} are not those of {run.source}: delete that folder and start again"
            )
    run.model.train()


STAGES = {
    "P": Stage(
        "pretraining", "text", StreamRows, StreamValidation, lambda args: next_token, lambda run: None
    ),
    "S": Stage("fine-tuning", "instruct", PackedRows, PackedRows, lambda args: next_token, lambda run: None),
    "D": Stage("preference alignment", "preference", PairRows, PairRows, preference, attach_reference_logps),
}
