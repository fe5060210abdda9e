"""Train a Llama: one visible loop for every stage, on one process or many.

    python trainer.py --train P --preset stories                                           on a laptop
    torchrun --standalone --nproc_per_node=gpu trainer.py --train P --dataset fw           on all GPUs of a machine
    python trainer.py --train P --preset stories --resume                                  go on, exactly

Writes <save_checkpoint_dir>/<run_name>/: metrics.jsonl, loss_curves.png, step folders (Hugging Face models), latest.
SIGTERM and Ctrl-C finish the step, save and leave. `--help` lists every setting, `--dry_run` prints the plan and stops.
"""

import contextlib
import math
import shutil
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
import plots
from batches import Loader, StreamRows, validation_batches
from config import ModelArgs, Parser, RunError, UserError, resolve, round_up, run
from distributed import Env
from generate import generate
from metrics import Metrics
from model import Llama, count_parameters, flops_per_token
from objectives import Objective, evaluate, global_means, next_token
from optimizers import build_optimizers, set_lr
from store import Store, read_meta
from tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Stage:
    """What tells one stage from another: its name, the kind of data, how rows are cut, what is optimised."""

    name: str
    kind: str
    rows: Callable[[Store, int, int], StreamRows]
    objective: Objective


STAGES = {"P": Stage("pretraining", "text", StreamRows, next_token)}
GROUPS = ("run", "data", "device", "model", "optimization", "evaluation", "dpo", "sampling")
NOT_STORED = ("resume", "dry_run", "init_from", "preset", "device")  # belong to one start of a run, not to the run


def train_step(objective: Objective, model: nn.Module, optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler,
               loader: Loader, args: ModelArgs, env: Env) -> dict[str, float]:
    """One optimizer step. Its gradients are those of one huge batch, for any split over micro-batches and ranks."""
    results = []
    for micro_step in range(args.gradient_accumulation_steps):
        batch = loader.next().to(env.device)
        last = micro_step == args.gradient_accumulation_steps - 1
        with contextlib.nullcontext() if last or env.world_size == 1 else model.no_sync():  # ranks add up once, at the end
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
    """Set by SIGTERM and SIGINT: finish the step, save, leave. A second Ctrl-C leaves at once."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, self.ask)

    def ask(self, number: int, frame: object) -> None:
        """Remember the signal."""
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Run:
    """All that the loop works with, set up in the one order that works."""

    def __init__(self, args: ModelArgs, env: Env, typed: dict):
        self.env, self.stage = env, STAGES[args.train]
        dataset = choose_dataset(args, self.stage.kind)
        self.folder = Path(args.save_checkpoint_dir) / (args.run_name or f"{args.train}-{dataset.name}")
        self.progress, source, state = checkpoint.Progress(0, 0, 0), None, {}
        if args.resume:
            source = checkpoint.find_model(self.folder)
            self.progress, state = checkpoint.load_state(source)
            args = resolve(typed, state["args"])
            dataset = Path(args.data_dir) / args.dataset
        elif args.init_from:
            source = checkpoint.find_model(args.init_from)
        self.meta = read_meta(dataset)
        self.tokenizer = load_tokenizer(dataset / "tokenizer")
        if source:
            args = with_architecture_of(source, args, typed, self.tokenizer)
        self.args = with_vocabulary(args, self.tokenizer).replace(dataset=dataset.name, run_name=self.folder.name)
        if state and state["data"] != data_hash(self.meta):
            raise UserError(f"{dataset} is not the data that {source} was trained on: prepare it as it was, or start a new run "
                            f"with --init_from {source}")
        self.train_store, self.val_store = (Store(dataset, split, self.meta) for split in ("train", "val"))
        self.rows = self.stage.rows(self.train_store, self.args.block_size, self.args.seed)
        self.steps = min(self.args.total_iters, max(1, self.args.epochs * len(self.rows) // self.args.rows_per_step))
        self.decay_end = self.args.lr_decay_iters if self.args.given["lr_decay_iters"] else self.steps
        self.source = source

    def build(self) -> None:
        """Model, optimizers and position in the data; restored where the run is resumed; then the wrappers."""
        args, env = self.args, self.env
        torch.manual_seed(args.seed)
        self.model = Llama(args)
        if self.source:
            checkpoint.load_weights(self.model, self.source)
        self.model.to(env.device)
        self.optimizers = build_optimizers(self.model, args)
        self.scaler = torch.amp.GradScaler(env.device.type, enabled=env.dtype == torch.float16)
        self.loader = Loader(self.rows, args.micro_batch_size, env.rank, env.world_size, self.progress.cursor)
        torch.manual_seed(args.seed + env.rank)  # dropout differs between ranks
        if args.resume:
            generator = checkpoint.restore(self.source, self.optimizers, env.rank)
            if generator is not None:
                set_generators(generator)
        self.wrapped = torch.compile(self.model) if self.compiles() else self.model
        if env.world_size > 1:
            self.wrapped = DistributedDataParallel(self.wrapped, gradient_as_bucket_view=True, broadcast_buffers=False)

    def compiles(self) -> bool:
        """Whether the model is compiled: as asked, else on CUDA (compiling takes longer than it saves in a short CPU run)."""
        return self.env.device.type == "cuda" if self.args.compile is None else self.args.compile

    def save(self) -> Path:
        """Write a checkpoint; every rank brings its generator's state."""
        generators = distributed.gather_objects(get_generators(self.env))
        target = self.folder / f"step_{self.progress.step:06d}"
        if self.env.main:
            stored = {name: value for name, value in self.args.given.items() if name not in NOT_STORED}
            stored["dtype"] = str(self.env.dtype).removeprefix("torch.")
            state = {"args": stored, "data": data_hash(self.meta), "stage": self.stage.name, "world_size": self.env.world_size}
            checkpoint.save(self.folder, self.progress, self.model, self.tokenizer, state, generators, self.optimizers,
                            self.args.keep_checkpoints)
        distributed.barrier()
        return target

    def sample(self) -> str:
        """What the model writes after --prompt now."""
        args = self.args
        ids = self.tokenizer.encode(args.prompt)[-args.block_size // 2:] or [self.tokenizer.eos_id]
        self.model.eval()
        with self.env.autocast():
            text = self.tokenizer.decode(generate(self.model, ids, args.max_length, self.tokenizer.eos_id, seed=args.seed,
                                                  temperature=args.temperature, top_k=args.top_k, top_p=args.top_p))
        self.model.train()
        return args.prompt + text

    def validate(self, metrics: Metrics | None, whole: bool) -> None:
        """Evaluate on the fixed validation rows, write the figure down, draw the curves, show a sample."""
        limit = None if whole else self.args.eval_check
        batches = validation_batches(self.val_store, self.args.block_size, self.args.micro_batch_size, self.env.rank,
                                     self.env.world_size, limit)
        means = evaluate(self.stage.objective, self.model, batches, self.env)
        if metrics:
            metrics.write(self.progress.step, "val", {**means, "tokens": self.progress.tokens, "whole": whole})
            plots.loss_curves(self.folder)
            tqdm.write(f"step {self.progress.step}: validation loss {means['loss']:.4f}"
                       f"{' (whole set)' if whole else ''}\n  {self.sample()!r}", file=sys.stderr)


def train(run: Run) -> None:
    """The loop: evaluate and save when due, then one step, then write it down."""
    args, env, progress, stop = run.args, run.env, run.progress, Stop()
    if env.main:
        make_run_folder(run.folder, keep=args.resume)
    metrics = Metrics(run.folder, args.wandb, args.given, progress.step) if env.main else None
    bar = tqdm(total=run.steps, initial=progress.step, unit=" steps", disable=not env.main, dynamic_ncols=True)
    peak = distributed.peak_flops(env)
    epoch_rows = args.val_epochs * len(run.rows)
    run.model.train()
    saved = progress.step
    while progress.step < run.steps and not distributed.any_rank(stop.asked, env):
        t0 = time.perf_counter()
        lr = set_lr(run.optimizers, progress.step, args, run.decay_end)
        first_row = run.loader.cursor
        means = train_step(run.stage.objective, run.wrapped, run.optimizers, run.scaler, run.loader, args, env)
        progress.step, progress.cursor = progress.step + 1, run.loader.cursor
        progress.tokens += args.tokens_per_step
        speed = args.tokens_per_step / (time.perf_counter() - t0)
        if not math.isfinite(means["loss"] + (0.0 if run.scaler.is_enabled() else means["grad_norm"])):
            raise RunError(not_finite(run, means, first_row))

        mfu = speed * flops_per_token(args) / (peak * env.world_size) if peak else None
        if metrics:
            metrics.write(progress.step, "train", {**means, "tokens": progress.tokens, "lr": lr, "tokens_per_second": speed,
                                                   **({"mfu": mfu} if mfu else {})})
        bar.set_postfix_str(f"loss {means['loss']:.3f}, {speed:,.0f} tokens/s" + (f", MFU {mfu:.0%}" if mfu else ""), refresh=False)
        bar.update()
        whole = epoch_rows > 0 and progress.cursor // epoch_rows > first_row // epoch_rows
        if whole or progress.step % args.eval_iters == 0 or progress.step == run.steps:
            run.validate(metrics, whole)
        if progress.step % args.save_checkpoint_iter == 0 or progress.step == run.steps:
            run.save()
            saved = progress.step
    bar.close()
    if saved < progress.step:
        run.save()
    if metrics:
        metrics.close()
        print(farewell(run))


def not_finite(run: Run, means: dict, first_row: int) -> str:
    """What to say when a loss or a gradient is not a number."""
    there = checkpoint.steps(run.folder)
    remedy = f"go on from {there[-1].name} with --resume and a smaller --max_lr" if there else "start again with a smaller --max_lr"
    return (f"step {run.progress.step}: loss {means['loss']}, gradient norm {means['grad_norm']} (rows {first_row} to "
            f"{run.loader.cursor - 1}); nothing of this step is saved: {remedy}")


def farewell(run: Run) -> str:
    """Where the results are, and how to go on when the run was stopped early."""
    if run.progress.step < run.steps:
        return (f"stopped after step {run.progress.step} of {run.steps}; saved. Go on with: python trainer.py --train {run.args.train} "
                f"--dataset {run.args.dataset} --run_name {run.folder.name} --save_checkpoint_dir {run.folder.parent} --resume")
    return (f"done: {run.progress.tokens:,} tokens. Model: {run.folder / f'step_{run.progress.step:06d}'}  "
            f"Curves: {run.folder / 'loss_curves.png'}")


def plan(run: Run) -> str:
    """What is about to happen, in words, before the first step."""
    args, env = run.args, run.env
    parameters, dtype = count_parameters(args), str(env.dtype).removeprefix("torch.")
    tokens = run.steps * args.tokens_per_step
    peak = distributed.peak_flops(env)
    seconds = (run.steps - run.progress.step) * args.tokens_per_step * flops_per_token(args) / (0.5 * peak * env.world_size) if peak else None
    lines = [
        f"{run.stage.name} on {args.dataset} ({len(run.train_store):,} tokens, {run.train_store.documents:,} documents; "
        f"validation {len(run.val_store):,} tokens) -> {run.folder}",
        f"model: {parameters:,} parameters ({args.no_of_decoder_layers} layers, width {args.embeddings_dims}, {args.no_of_heads} query and "
        f"{args.no_kv_heads} key-value heads, vocabulary {args.vocab_size}, context {args.block_size})",
        f"device: {env.device}, {dtype} ({env.why}){', compiled' if run.compiles() else ''}",
        f"tokens per step: {args.tokens_per_step:,} = {args.micro_batch_size} rows x {args.block_size} tokens x "
        f"{args.gradient_accumulation_steps} micro-batches x {env.world_size} ranks",
        f"steps: {run.steps:,} ({tokens / len(run.train_store):.2f} epochs, {tokens:,} tokens); optimizer {args.optimizer}, "
        f"lr {args.max_lr:g} to {args.min_lr:g}",
        f"memory: about {memory_bytes(args, env.dtype) / 1e9:.1f} GB a rank; time: " + (
            f"about {duration(seconds)} at half of the device's peak of {peak / 1e12:.2f} TFLOP/s" if seconds else "unknown on this device"),
    ]
    if run.progress.step:
        lines.insert(1, f"resuming from {run.source}: step {run.progress.step}, {run.progress.tokens:,} tokens seen")
    if args.given["gradient_accumulation_steps"] and args.tokens_per_step != args.total_batch_size:
        lines.append(f"note: --gradient_accumulation_steps is given, so --total_batch_size {args.total_batch_size} is not used")
    elif args.tokens_per_step != args.total_batch_size:
        lines.append(f"note: --total_batch_size {args.total_batch_size} is not a multiple of a micro-batch on all ranks, so a step "
                     f"sees {args.tokens_per_step} tokens")
    if run.steps <= args.warmup_iters:
        lines.append(f"note: the run ends inside --warmup_iters {args.warmup_iters}: the learning rate never reaches --max_lr")
    return "\n".join(lines)


def memory_bytes(args: ModelArgs, dtype: torch.dtype) -> float:
    """A rough estimate of a rank's memory: weights, gradients, two moments, and what backward needs of a micro-batch."""
    heads = args.head_dim * (4 * args.no_of_heads + 4 * args.no_kv_heads)
    per_token = args.no_of_decoder_layers * (6 * args.embeddings_dims + heads + 4 * args.hidden_dims)
    activations = args.micro_batch_size * args.block_size * per_token * (4 if dtype == torch.float32 else 3)
    return 16 * count_parameters(args) + activations + 2 * 4 * max(1 << 24, 256 * args.vocab_size) + 3e8


def duration(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"


def choose_dataset(args: ModelArgs, kind: str) -> Path:
    """The folder of --dataset, or the first prepared one of the right kind. Raises UserError when there is none."""
    data_dir = Path(args.data_dir)
    if args.dataset:
        meta = read_meta(data_dir / args.dataset)
        if meta["kind"] != kind:
            raise UserError(f"--dataset {args.dataset} is of kind {meta['kind']}; --train {args.train} needs {kind}")
        return data_dir / args.dataset
    favourites = ["fw", "tinystories", "stories"]
    prepared = sorted((path.parent for path in data_dir.glob("*/meta.json") if read_meta(path.parent)["kind"] == kind),
                      key=lambda folder: (favourites.index(folder.name) if folder.name in favourites else 3, folder.name))
    return prepared[0] if prepared else data_dir / {"text": "stories"}[kind]


def with_vocabulary(args: ModelArgs, tokenizer: Tokenizer) -> ModelArgs:
    """vocab_size follows the tokenizer unless it is given. Raises UserError when it is too small."""
    if args.given["vocab_size"] is None:
        return args.replace(vocab_size=round_up(tokenizer.vocab_size, 64))
    if args.vocab_size < tokenizer.vocab_size:
        raise UserError(f"--vocab_size {args.vocab_size} is smaller than the {tokenizer.vocab_size} tokens of the data's tokenizer")
    return args


def with_architecture_of(source: Path, args: ModelArgs, typed: dict, tokenizer: Tokenizer) -> ModelArgs:
    """Settings that fit the weights in a folder. Raises UserError when a typed one, or the data's tokenizer, does not."""
    theirs = checkpoint.load_args(source)
    wrong = [f"--{name} {typed[name]} (it has {getattr(theirs, name)})" for name in checkpoint.ARCHITECTURE
             if name in typed and typed[name] != getattr(theirs, name) and name != "block_size"]
    if wrong:
        raise UserError(f"the model in {source} does not fit {', '.join(wrong)}")
    if load_tokenizer(source).hash != tokenizer.hash:
        raise UserError(f"the model in {source} has another tokenizer than the data: prepare the data with --tokenizer {source}")
    return args.replace(**{name: getattr(theirs, name) for name in checkpoint.ARCHITECTURE if name != "block_size" or name not in typed})


def data_hash(meta: dict) -> str:
    """Names the prepared data by what is in its files."""
    files = [shard["sha256"] for split in sorted(meta["splits"]) for shard in meta["splits"][split]]
    return checkpoint.text_hash(repr(files))


def make_run_folder(folder: Path, keep: bool) -> None:
    """Make the run's folder; a run of that name that is there already is moved aside, not overwritten."""
    try:
        if not keep and checkpoint.steps(folder):
            number = 1
            while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
                number += 1
            folder.rename(aside)
            print(f"a run named {folder.name} was there already: it is now {aside}", file=sys.stderr)
        elif not keep and folder.exists():
            shutil.rmtree(folder)  # it never came to a checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --save_checkpoint_dir") from None


def get_generators(env: Env) -> torch.Tensor:
    """This rank's generator states: the CPU's and, on CUDA, the device's, end to end."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(env.device)] if env.device.type == "cuda" else [])
    return torch.cat(states)


def set_generators(states: torch.Tensor) -> None:
    """Put back what get_generators took."""
    size = torch.get_rng_state().numel()
    torch.set_rng_state(states[:size])
    if states.numel() > size and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[size:])


def main() -> None:
    """Parse, plan, train."""
    parser = Parser(__doc__)
    parser.add_settings(GROUPS)
    typed = vars(parser.parse_args())
    args = resolve(typed)
    env = distributed.init(args.device, args.dtype)
    try:
        job = Run(args, env, typed)
        if env.main:
            print(plan(job))
        if job.progress.step >= job.steps:
            print(f"nothing left to do: step {job.progress.step} of {job.steps} is in {job.source}")
        elif not args.dry_run:
            job.build()
            train(job)
    finally:
        distributed.shutdown()


if __name__ == "__main__":
    run(main)
