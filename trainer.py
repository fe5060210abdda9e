"""Train a Llama: one visible loop for every stage, on one process or many.

    python trainer.py --train P --preset stories                                           on a laptop
    torchrun --standalone --nproc_per_node=gpu trainer.py --train P --dataset fw           on all GPUs of a machine
    python trainer.py --train P --preset stories --resume                                  go on, exactly
    python trainer.py --train S --dataset alpaca --init_from checkpoints/P-fw              learn to answer
    python trainer.py --train D --dataset dpo --init_from checkpoints/S-alpaca             learn what is preferred

Writes <save_checkpoint_dir>/<run_name>/: metrics.jsonl, loss_curves.png, step folders (Hugging Face models), latest.
SIGTERM and Ctrl-C finish the step, save and leave. `--help` lists every setting, `--dry_run` prints the plan and stops.
"""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import checkpoint
import distributed
import plan
import plots
from batches import (
    FixedRows,
    Loader,
    PackedRows,
    PairRows,
    Rows,
    StreamRows,
    StreamValidation,
    fixed_batches,
)
from config import ModelArgs, Parser, RunError, UserError, resolve, run
from distributed import Env
from fitting import choose_dataset, with_architecture_of, with_vocabulary
from generate import generate, sampling_of
from metrics import Metrics, read_metrics
from model import Llama, flops_per_token
from objectives import (
    Objective,
    completion_logps,
    evaluate,
    global_means,
    next_token,
    preference,
    preference_loss,
)
from optimizers import build_optimizers, set_lr
from reference import make_table, reference_key, table_path
from store import SPLITS, Store, read_meta
from tokenizer import load_tokenizer


@dataclass(frozen=True)
class Stage:
    """What tells one stage from another: its name, the kind of data, how rows are cut, what is optimised.

    `prepare` is called once, with the model that the run starts from.
    """

    name: str
    kind: str
    rows: Callable[[Store, int, int], Rows]
    fixed_rows: Callable[[Store, int, int], FixedRows]
    objective: Callable[[ModelArgs], Objective]
    prepare: Callable[["Run"], None]


GROUPS = ("run", "data", "device", "model", "optimization", "evaluation", "dpo", "sampling")
NOT_STORED = ("resume", "dry_run", "init_from", "preset", "device")  # belong to one start of a run, not to the run
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
        self.progress, self.source, state = checkpoint.Progress(0, 0, 0), None, {}
        if args.resume:
            self.source = checkpoint.find_model(self.folder)
            self.progress, state = checkpoint.load_state(self.source)
            args = resolve(typed, state["args"])
            dataset = Path(args.data_dir) / args.dataset
        elif args.init_from:
            self.source = checkpoint.find_model(args.init_from)
        self.stage = STAGES[args.train]
        self.start = {"init_from": state.get("init_from", str(self.source or "")), "reference": state.get("reference")}
        self.meta = read_meta(dataset)
        self.tokenizer = load_tokenizer(dataset / "tokenizer")
        if state and state["data"] != checkpoint.data_hash(self.meta):
            raise UserError(f"{dataset} is not the data that {self.source} was trained on: prepare it as it was, or "
                            f"start a new run with --init_from {self.source}")
        if self.source:
            args = with_architecture_of(self.source, args, typed, self.tokenizer)
        args = with_vocabulary(args, self.tokenizer).replace(dataset=dataset.name, run_name=self.folder.name)
        self.prompt = (self.tokenizer.encode(args.prompt) or [self.tokenizer.eos_id] if self.stage.kind == "text" else
                       self.tokenizer.render([{"role": "user", "content": args.prompt}])[0])
        if len(self.prompt) >= args.block_size:
            raise UserError(f"--prompt has {len(self.prompt)} tokens; a --block_size of {args.block_size} holds fewer")
        self.dataset, (train, val) = dataset, (Store(dataset, split, self.meta) for split in SPLITS)
        self.rows = self.stage.rows(train, args.block_size, args.seed)
        self.val_rows = self.stage.fixed_rows(val, args.block_size, args.seed)
        self.objective = self.stage.objective(args)
        self.steps = min(args.total_iters, max(1, args.epochs * len(self.rows) // args.rows_per_step))
        self.decay_end = args.lr_decay_iters if args.given["lr_decay_iters"] else self.steps
        self.args = args

    def meet(self, env: Env) -> list[str]:
        """Take the hardware into account; returns the plan in lines."""
        self.env, self.peak = env, distributed.peak_flops(env)
        remaining = self.steps - self.progress.step
        long = self.peak and plan.expected_seconds(self.args, env, remaining, self.peak) > PROBE_SECONDS
        asked = self.args.compile
        self.may_compile = (env.device.type == "cuda" or bool(long)) if asked is None else asked
        train, val = self.rows.store, self.val_rows.store
        head = [f"{self.stage.name} on {self.args.dataset} ({len(train):,} tokens, {train.documents:,} documents; "
                f"validation {len(val):,} tokens) -> {self.folder}"]
        if self.progress.step:
            head.append(f"resuming from {self.source}: step {self.progress.step}, {self.progress.tokens:,} tokens seen")
        elif self.stage.kind != "text":
            head.append(f"starting from {self.source or 'random weights (--init_from FOLDER takes a trained model)'}")
        epochs = self.steps * self.args.rows_per_step / len(self.rows)
        return head + self.rows.notes + plan.describe(self.args, env, self.steps, self.progress.step, epochs, self.peak,
                                                      self.may_compile)

    def build(self) -> None:
        """Model, optimizers and position in the data, restored where the run is resumed; then the wrappers."""
        args, env = self.args, self.env
        torch.manual_seed(args.seed)
        self.model = Llama(args)
        if self.source:
            checkpoint.load_weights(self.model, self.source)
        self.model.to(env.device).train()
        self.stage.prepare(self)
        self.optimizers = build_optimizers(self.model, args)
        self.scaler = torch.amp.GradScaler(env.device.type, enabled=env.dtype == torch.float16)
        self.loader = Loader(self.rows, args.micro_batch_size, env.rank, env.world_size, self.progress.cursor)
        self.wrapped = self.model
        if self.may_compile:
            compiled = torch.compile(self.model)
            if args.compile or self.faster(compiled):
                self.wrapped = compiled
            self.args = args.replace(compile=self.wrapped is compiled)  # a resumed run must not decide otherwise
        torch.manual_seed(args.seed + env.rank)  # dropout differs between ranks
        if args.resume:
            checkpoint.restore(self.source, [*self.optimizers, self.scaler], env)
        if env.world_size > 1:
            self.wrapped = DistributedDataParallel(self.wrapped, gradient_as_bucket_view=True,
                                                   forward_sync_buffers=False)

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
        seconds = distributed.all_reduce_sum(torch.tensor([best[compiled], best[self.model]], device=env.device))
        return bool(seconds[0] < seconds[1])

    def save(self) -> None:
        """Write a checkpoint; every rank brings its generator's state."""
        generators = distributed.gather_objects(checkpoint.generator_state(self.env))
        if self.env.main:
            stored = {name: value for name, value in self.args.given.items() if name not in NOT_STORED}
            stored["dtype"] = str(self.env.dtype).removeprefix("torch.")
            state = {"args": stored, "data": checkpoint.data_hash(self.meta), "stage": self.stage.name,
                     "world_size": self.env.world_size, "device": distributed.device_name(self.env),
                     "source": self.meta["source"], **self.start}
            checkpoint.save(self.folder, self.progress, self.model, self.tokenizer, state, generators,
                            [*self.optimizers, self.scaler], self.args.keep_checkpoints)
        distributed.barrier()

    def validate(self, metrics: Metrics | None, whole: bool) -> None:
        """Evaluate on the fixed validation rows, write the figure down, draw the curves, show a sample."""
        args, env = self.args, self.env
        limit = None if whole else args.eval_check * args.batch_size  # whatever the split into micro-batches and ranks
        batches = fixed_batches(self.val_rows, args.micro_batch_size, env.rank, env.world_size, limit)
        means = evaluate(self.objective, self.model, batches, env)
        if metrics:
            metrics.write(self.progress.step, "val", {**means, "tokens": self.progress.tokens})
            plots.loss_curves(self.folder)
            also = "".join(f", {name} {means[name]:.3f}" for name in ("accuracy", "margin") if name in means)
            tqdm.write(f"step {self.progress.step}: validation loss {means['loss']:.4f}{also}\n  {self.sample()!r}",
                       sys.stderr)

    def sample(self) -> str:
        """--prompt and what the model writes after it now."""
        args = self.args
        self.model.eval()
        with self.env.autocast():
            text = self.tokenizer.decode(generate(
                self.model, self.prompt, args.max_length, self.tokenizer.eos_id, **sampling_of(args)))
        self.model.train()
        return args.prompt + (text if self.stage.kind == "text" else " -> " + text)


def know_reference(run: Run) -> None:
    """Give every pair its log-probs under the starting weights, and see that the first loss is that of no preference.

    A wrong shift, mask or reference shows here: policy and reference are the same model, so all margins are zero.
    """
    args, env = run.args, run.env
    if not run.progress.step:
        run.start["reference"] = reference_key(run.model, checkpoint.data_hash(run.meta), args.block_size, env.dtype)
    run.model.eval()
    for split, rows in zip(SPLITS, (run.rows, run.val_rows), strict=True):
        path = table_path(run.dataset, run.start["reference"], split)
        if run.progress.step and not path.is_file():
            raise UserError(f"the reference log-probs of this run are gone ({path}): start it again with --init_from "
                            f"{run.start['init_from']}")
        rows.reference = make_table(path, rows, lambda batch: completion_logps(run.model, batch),
                                    args.micro_batch_size, env)
    if not run.progress.step:
        batches = fixed_batches(run.rows, args.micro_batch_size, env.rank, env.world_size, limit=args.micro_batch_size)
        loss = evaluate(run.objective, run.model, batches, env)["loss"]
        even = preference_loss(torch.zeros(1), torch.zeros(1), args.beta, args.label_smoothing, args.dpo_loss).item()
        if not abs(loss - even) <= (1e-4 if env.dtype == torch.float32 else 1e-2) * max(1.0, even):
            raise RunError(f"the loss before the first step is {loss:.6f}, not {even:.6f}: the reference log-probs in "
                           f"{path.parent} are not those of {run.source}: delete that folder and start again")
    run.model.train()


STAGES = {
    "P": Stage("pretraining", "text", StreamRows, StreamValidation, lambda args: next_token, lambda run: None),
    "S": Stage("fine-tuning", "instruct", PackedRows, PackedRows, lambda args: next_token, lambda run: None),
    "D": Stage("preference alignment", "preference", PairRows, PairRows, preference, know_reference),
}


def train(run: Run) -> None:
    """The loop: a step, written down; then evaluate and save when due."""
    args, env, progress, stop = run.args, run.env, run.progress, Stop()
    metrics = Metrics(run.folder, args.wandb, args.given, progress.step) if env.main else None
    bar = tqdm(total=run.steps, initial=progress.step, unit=" steps", disable=not env.main, dynamic_ncols=True,
               mininterval=0.2 if sys.stderr.isatty() else 10)
    whole_after = args.val_epochs * len(run.rows)
    stopping = False
    while progress.step < run.steps and not stopping:
        t0 = time.perf_counter()
        lr = set_lr(run.optimizers, progress.step, args, run.decay_end)
        means = train_step(run.objective, run.wrapped, run.optimizers, run.scaler, run.loader, args, env)
        first_row, progress.cursor = progress.cursor, run.loader.cursor
        progress.step, progress.tokens = progress.step + 1, progress.tokens + args.tokens_per_step
        if not math.isfinite(means["loss"] + (0.0 if run.scaler.is_enabled() else means["grad_norm"])):
            bar.close()
            raise RunError(not_finite(run, means, first_row))

        speed = args.tokens_per_step / (time.perf_counter() - t0)
        mfu = {"mfu": speed * flops_per_token(args) / (run.peak * env.world_size)} if run.peak else {}
        if metrics:
            metrics.write(progress.step, "train", {**means, "tokens": progress.tokens, "lr": lr,
                                                   "tokens_per_second": speed, **mfu})
        bar.set_postfix_str(f"loss {means['loss']:.3f}, {speed:,.0f} tokens/s"
                            + (f", MFU {mfu['mfu']:.0%}" if mfu else ""), refresh=False)
        bar.update()

        stopping, finished = distributed.any_rank(stop.asked, env), progress.step == run.steps
        whole = whole_after > 0 and progress.cursor // whole_after > first_row // whole_after
        if not stopping and (whole or finished or progress.step % args.eval_iters == 0):
            run.validate(metrics, whole)
        if stopping or finished or progress.step % args.save_checkpoint_iter == 0:
            run.save()
    bar.close()
    if metrics:
        metrics.close()
        print(farewell(run))


def train_step(objective: Objective, model: nn.Module, optimizers: list[torch.optim.Optimizer],
               scaler: torch.amp.GradScaler, loader: Loader, args: ModelArgs, env: Env) -> dict[str, float]:
    """One optimizer step. Its gradients are those of one huge batch, for any split over micro-batches and ranks."""
    results = []
    for micro_step in range(args.gradient_accumulation_steps):
        batch = loader.next().to(env.device)
        alone = env.world_size == 1 or micro_step == args.gradient_accumulation_steps - 1
        with contextlib.nullcontext() if alone else model.no_sync():  # ranks add up once, with the last micro-batch
            with env.autocast():
                loss, count, sums = objective(model, batch)
            scaler.scale(loss).backward()
        results.append((loss, count, sums))
    means = global_means(results, env)
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    # DDP has averaged sums over ranks: undo that, and divide by what was summed. Clipping rides on the same pass.
    share = env.world_size / max(1.0, means["count"])
    norm = torch.nn.utils.get_total_norm(gradients) * share
    torch._foreach_mul_(gradients, share * (args.clip / (norm + 1e-6)).clamp(max=1.0) if args.clip else share)
    for optimizer in optimizers:
        scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return {**means, "grad_norm": norm.item()}


class Stop:
    """Raised by SIGTERM and SIGINT: finish the step, save, leave. A second Ctrl-C leaves at once."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, self.ask)

    def ask(self, number: int, frame: object) -> None:
        """Remember the signal."""
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


def not_finite(run: Run, means: dict, first_row: int) -> str:
    """What to say when a loss or a gradient is not a number."""
    there = checkpoint.steps(run.folder)
    remedy = f"go on from {there[-1].name} with --resume and a smaller --max_lr" if there else "try a smaller --max_lr"
    return (f"step {run.progress.step}: loss {means['loss']}, gradient norm {means['grad_norm']} in rows {first_row} "
            f"to {run.progress.cursor - 1}; nothing of this step is saved: {remedy}")


def farewell(run: Run) -> str:
    """Where the results are, and how to go on when the run was stopped early."""
    newest = run.folder / f"step_{run.progress.step:06d}"
    if run.progress.step < run.steps:
        return (f"stopped after step {run.progress.step} of {run.steps}, saved in {newest}. Go on with: "
                f"python trainer.py --train {run.args.train} --dataset {run.args.dataset} "
                f"--data_dir {run.args.data_dir} --save_checkpoint_dir {run.folder.parent} "
                f"--run_name {run.folder.name} --resume")
    rows = read_metrics(run.folder / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"][-50:]
    loss = sum(row["loss"] * row["count"] for row in train) / sum(row["count"] for row in train)
    validation = next(row["loss"] for row in reversed(rows) if row["split"] == "val")
    return (f"done: {run.progress.tokens:,} tokens; training loss {loss:.4f} (last {len(train)} steps), "
            f"validation loss {validation:.4f}. Model: {newest}  Curves: {run.folder / 'loss_curves.png'}")


def main() -> None:
    """Parse, plan, train."""
    parser = Parser(__doc__)
    parser.add_settings(GROUPS)
    job = Run(vars(parser.parse_args()))
    env = distributed.init(job.args.device, job.args.dtype)
    try:
        lines, finished = job.meet(env), job.progress.step >= job.steps
        if finished:
            lines.append(f"nothing left to do: step {job.progress.step} of {job.steps} is in {job.source}")
        if env.main:
            print("\n".join(lines), flush=True)
        if not finished and not job.args.dry_run:
            if env.main:
                checkpoint.make_run_folder(job.folder, keep=job.args.resume)
            job.build()
            train(job)
    finally:
        distributed.shutdown()


if __name__ == "__main__":
    run(main)
