"""Parts of gpu.py that run a model: a training step, its waits, decoding, the stages of the story preset."""

import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from gpu_parts import rows_of
from torch import Tensor, nn

from config import ModelArgs, resolve
from dataloader.batch import Row
from dataloader.loader import Loader
from generation.generate import GREEDY, generate, move_for_generation
from model import Llama, flops_per_token
from runtime import distributed
from runtime.distributed import DistributedEnv
from trainer import train_step
from training.objectives import next_token
from training.optimizers import build_optimizers, build_scaler

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(
    embeddings_dims=32,
    no_of_decoder_layers=2,
    no_of_heads=4,
    no_kv_heads=2,
    block_size=64,
    batch_size=2,
    vocab_size=97,
    total_batch_size=256,
)
MEASURED = 3  # steps
NEW_TOKENS = 256


class RandomRows:
    """Rows of random tokens: packed documents as long as those of web text, or one document each."""

    seed = 0

    def __init__(self, args: ModelArgs, packed: bool):
        self.args = args
        self.packed = packed

    def __len__(self) -> int:
        return 1 << 20

    def at(self, index: int, epoch: int = 0) -> Row:
        T = self.args.block_size
        tokens = np.random.default_rng(index).integers(0, self.args.vocab_size, T + 1)
        doc_ids = rows_of("documents", 1, T, 700, index)[0][0] if self.packed else np.zeros(T, np.int64)
        return Row(tokens[:-1], tokens[1:], doc_ids)


def settings(tiny: bool, **changes: object) -> ModelArgs:
    """Return the settings of smol-130m, or small ones."""
    sizes = TINY if tiny else {}
    return resolve({"preset": "smol-130m", "dtype": "float32" if tiny else "bfloat16", **sizes, **changes})


def free(device: torch.device) -> None:
    """Give back the memory of what was measured before."""
    gc.collect()
    if device.type == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def timed(step_once: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Return the median seconds of a step after two to warm up, and the peak of memory in GiB."""
    times = []
    for n in range(2 + MEASURED):
        start = time.perf_counter()
        step_once()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if n >= 2:
            times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return statistics.median(times), peak


def our_step(args: ModelArgs, env: DistributedEnv, packed: bool, compiled: bool) -> Callable[[], object]:
    """Return trainer.py's own step, batches included."""
    torch.manual_seed(0)
    model = Llama(args).to(env.device)
    if args.activation_checkpointing:
        from training.parallel import parallelize

        parallelize(model, args, env, compiled=False)
    optimizers = build_optimizers(model, args)
    scaler = build_scaler(env.device, env.dtype, args.micro_batch_size * args.row_tokens)
    loader = Loader(RandomRows(args, packed), args.micro_batch_size, 0, 1)
    model_or_compiled = torch.compile(model) if compiled else model
    return lambda: train_step(next_token, model_or_compiled, optimizers, scaler, loader, args, env)


def their_step(
    model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], args: ModelArgs, env: DistributedEnv
) -> Callable[[], object]:
    """Return the step of a plain loop around another model: AdamW in one kernel, clipped, the same tokens."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    loader = Loader(RandomRows(args, packed=False), args.micro_batch_size, 0, 1)

    def step_once() -> None:
        for _ in range(args.gradient_accumulation_steps):
            batch = loader.next(env.device)
            with env.autocast():
                loss = loss_of(batch.tokens, batch.labels)
            (loss / args.gradient_accumulation_steps).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step_once


def transformers_llama(args: ModelArgs, **options: object) -> nn.Module:
    """Return transformers' Llama of the same size, with tied embeddings as ours."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=args.embeddings_dims,
        num_hidden_layers=args.no_of_decoder_layers,
        num_attention_heads=args.no_of_heads,
        num_key_value_heads=args.no_kv_heads,
        intermediate_size=args.hidden_dims,
        vocab_size=args.vocab_size,
        max_position_embeddings=args.block_size,
        tie_word_embeddings=True,
        **options,
    )
    return LlamaForCausalLM(config)


def transformers_step(args: ModelArgs, env: DistributedEnv, compiled: bool) -> Callable[[], object]:
    """Return the step of transformers' Llama of the same size; its rows are one document each."""
    model = transformers_llama(args, use_cache=False).to(env.device)
    run = torch.compile(model) if compiled else model
    return their_step(
        model, lambda tokens, labels: run(tokens, labels=labels, shift_labels=labels).loss, args, env
    )


def nanogpt_step(path: Path, args: ModelArgs, env: DistributedEnv) -> tuple[Callable[[], object], float]:
    """Return the step of nanoGPT's model of 124M, compiled as its train.py does, and its operations for a token."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    model = module.GPT(
        module.GPTConfig(block_size=args.block_size, vocab_size=50304, dropout=0.0, bias=False)
    )
    model.to(env.device)
    run = torch.compile(model)
    cfg = model.config
    flops = 6 * model.get_num_params() + 6 * cfg.n_layer * cfg.n_embd * cfg.block_size
    return their_step(model, lambda tokens, labels: run(tokens, labels)[1], args, env), flops


def step(report, device: torch.device, tiny: bool, nanogpt: Path | None) -> None:
    """Tokens a second, MFU and peak memory of smol-130m."""
    env = distributed.init(device.type, "float32" if tiny else "bfloat16")
    args = settings(tiny)
    peak_flops = distributed.peak_flops(env)
    flops = flops_per_token(args)

    def measure(
        name: str, build: Callable[[], Callable[[], object]], operations: float, expected: str = ""
    ) -> None:
        free(device)
        try:
            start = time.perf_counter()
            took, peak = timed(build(), device)
        except (torch.OutOfMemoryError, ImportError, TypeError, RuntimeError) as error:
            report.skip(name, error)
            if not name.startswith(("transformers", "nanoGPT")):
                report.wrong.append(f"step: {name}")
            return
        rate = args.tokens_per_step / took
        report.add(f"tokens/s, {name}", rate)
        if peak_flops:
            report.add(f"MFU, {name}", rate * operations / peak_flops, expected)
        report.add(f"peak GiB, {name}", peak)
        report.add(f"seconds in all, {name}", time.perf_counter() - start)

    recomputing = settings(tiny, activation_checkpointing=True)
    measure("compiled, documents", lambda: our_step(args, env, True, True), flops, "0.36 or more")
    measure("compiled, causal", lambda: our_step(args, env, False, True), flops)
    measure("eager, documents", lambda: our_step(args, env, True, False), flops)
    measure("compiled, Muon", lambda: our_step(settings(tiny, optimizer="muon"), env, True, True), flops)
    measure("eager, activation checkpointing", lambda: our_step(recomputing, env, True, False), flops)
    with_dropout = settings(tiny, attn_dropout=0.1, dropout=0.1)
    measure("eager, dropout 0.1", lambda: our_step(with_dropout, env, True, False), flops)
    measure("transformers, compiled", lambda: transformers_step(args, env, True), flops)
    measure("transformers, eager", lambda: transformers_step(args, env, False), flops)
    if nanogpt:
        made, their_flops = nanogpt_step(nanogpt, args, env)
        measure("nanoGPT, compiled", lambda: made, their_flops)
    free(device)


def sync(report, device: torch.device, tiny: bool) -> None:
    """Waits of the host in a step of 1 and of 5 micro-batches, by torch's own warnings."""
    if device.type != "cuda":
        report.skip("waits", "a CPU does not wait")
        return
    env = distributed.init("cuda", "bfloat16")
    waits = []
    for micro_batches in (1, 5):
        args = settings(tiny=False, batch_size=2, gradient_accumulation_steps=micro_batches)
        step_once = our_step(args, env, True, False)
        step_once()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step_once()
        torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
        waits.append(len(places))
        report.add(f"waits, {micro_batches} micro-batches", len(places), "2", len(places) <= 4)
        report.add(f"where, {micro_batches} micro-batches", ", ".join(sorted(set(places))))
    report.add("waits of a micro-batch", (waits[1] - waits[0]) / 4, "0", waits[0] == waits[1])
    free(device)


def decode(report, device: torch.device, tiny: bool) -> None:
    """New tokens a second of one text, against transformers."""
    env = distributed.init(device.type, "float32" if tiny else "bfloat16")
    args = settings(tiny)
    prompt, new = (list(range(8)), 16) if tiny else (list(range(1000, 1064)), NEW_TOKENS)

    def rate(tokens: Callable[[], Iterable]) -> float:
        sum(1 for _ in tokens())
        start = time.perf_counter()
        made = sum(1 for _ in tokens())
        assert made == new, made
        return new / (time.perf_counter() - start)

    torch.manual_seed(0)
    model = Llama(args).eval()
    with env.autocast():
        model.to(env.device)
        report.add(
            "tokens/s, float32 weights, autocast", rate(lambda: generate(model, prompt, new, params=GREEDY))
        )
        move_for_generation(model, env)
        ours = rate(lambda: generate(model, prompt, new, params=GREEDY))
    report.add("tokens/s", ours, "200 to 400")

    try:
        theirs = transformers_rate(args, env, prompt, new, rate)
        report.add("tokens/s, transformers", theirs)
        report.add("times transformers", ours / theirs, "above 1")
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        report.skip("transformers", error)
    free(device)


def transformers_rate(
    args: ModelArgs, env: DistributedEnv, prompt: list[int], new: int, rate: Callable[[Callable], float]
) -> float:
    """Return the new tokens a second of transformers' Llama with its dynamic cache."""
    theirs = transformers_llama(args).to(env.device, env.dtype).eval()
    tokens = torch.tensor([prompt], device=env.device)
    options = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
    attended = torch.ones_like(tokens)
    return rate(lambda: theirs.generate(tokens, attention_mask=attended, **options)[0, len(prompt) :])


# ---- the three stages of the story preset


def script(*words: str) -> None:
    """Run a script of the project, with gpu.py's support for older versions of torch."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--script", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # more are slower on a model this small
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr[-2000:]}")


def losses(folder: Path, split: str = "train") -> dict[int, float]:
    """Return the losses of a run by step."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if row["split"] == split}


def train(report, device: torch.device, tiny: bool) -> None:
    """Losses of the three stages on this device and on a CPU; a resumed run and an unbroken one."""
    steps = "6" if tiny else "60"
    with tempfile.TemporaryDirectory() as folder:
        data, runs = Path(folder) / "data", Path(folder) / "runs"
        script("data.py", "--stories", "--data_dir", str(data))
        common = ["--data_dir", str(data), "--save_checkpoint_dir", str(runs), "--wandb", "disabled"]
        common += [
            "--total_iters",
            steps,
            "--eval_iters",
            steps,
            "--save_checkpoint_iter",
            str(int(steps) // 2),
        ]

        def stage(letter: str, preset: str, kind: str, where: str, *words: str) -> Path:
            name = f"{letter}-{where}-{kind}"
            start = (
                []
                if letter == "P"
                else ["--init_from", str(runs / {"S": "P-cpu-float32", "D": "S-cpu-float32"}[letter])]
            )
            flags = ["--preset", preset, "--device", where, "--dtype", kind, "--run_name", name]
            script("trainer.py", "--train", letter, *flags, *start, *common, *words)
            return runs / name

        for letter, preset in (("P", "stories"), ("S", "stories-instruct"), ("D", "stories-preference")):
            reference = losses(stage(letter, preset, "float32", "cpu"))
            kinds = ("float32", "bfloat16", "float16") if letter == "P" else ("bfloat16",)
            for kind in ("float32",) if tiny else kinds:
                ours = reference if tiny else losses(stage(letter, preset, kind, device.type))
                compare(report, f"{letter}, {kind}", reference, ours, 0.01 if kind == "float32" else 0.05)
        if not tiny:
            resumed(report, stage, runs, steps)


def compare(report, name: str, reference: dict[int, float], ours: dict[int, float], tolerance: float) -> None:
    """Report the first difference of losses, and that of the means of the last ten steps."""
    first = abs(ours[1] - reference[1])
    report.add(f"first loss, {name}, minus CPU's", first, f"below {tolerance}", first < tolerance)
    last = sorted(reference)[-10:]
    missing = [n for n in last if n not in ours]
    difference = sum(ours[n] - reference[n] for n in last if n in ours) / len(last)
    report.add(
        f"last losses, {name}, minus CPU's",
        difference,
        f"below {5 * tolerance:g}",
        not missing and abs(difference) < 5 * tolerance,
    )


def resumed(report, stage: Callable[..., Path], runs: Path, steps: str) -> None:
    """Report how far a run that was stopped half way and resumed is from one that was not."""
    half = str(int(steps) // 2)
    unbroken = losses(runs / "P-cuda-bfloat16")
    again = losses(stage("P", "stories", "bfloat16", "cuda", "--run_name", "again"))
    folder = stage(
        "P",
        "stories",
        "bfloat16",
        "cuda",
        "--run_name",
        "cut",
        "--total_iters",
        half,
        "--lr_decay_iters",
        steps,
    )
    stage("P", "stories", "bfloat16", "cuda", "--run_name", "cut", "--resume")
    cut = losses(folder.parent / "cut")
    again = losses(folder.parent / "again")
    difference = max(abs(unbroken[n] - again[n]) for n in unbroken)
    report.add("largest difference of two equal runs", difference, "0 only with deterministic kernels")
    difference = max(abs(unbroken[n] - cut[n]) for n in unbroken)
    report.add(
        "largest difference of resumed and unbroken",
        difference,
        "like that of two equal runs",
        difference < 0.05,
    )
