"""Characters of Shakespeare with 0.8M parameters: nanoGPT's recipe for a CPU, and trainer.py's preset in its time.

    python data.py --files tinyshakespeare.txt --name shakespeare --kind text --tokenizer bytes
    python benchmarks/characters.py --text tinyshakespeare.txt

Both train on the first nine tenths. The loss is over the whole last tenth and taken when the clock has stopped; the
evaluations on the way, of 20 batches, count. "preset" is the preset as it is, with --flags; "short" is a run in about a
fifth of nanoGPT's time, in more and smaller steps on shorter rows. nanoGPT's: GPT-2 blocks (4 layers of width 128, 4
heads, no bias, no dropout), 12 rows of 64 characters, 2000 steps of AdamW, an evaluation every 250.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import ROOT
from torch import Tensor, nn

from runtime.command_line import Parser

LAYERS, HEADS, C, T, ROWS, STEPS, WARMUP, LR, MIN_LR = 4, 4, 128, 64, 12, 2000, 100, 1e-3, 1e-4
EVALUATE_EVERY, EVALUATED = 250, 20  # steps, batches of each split
SHORT = "--block_size 64 --batch_size 8 --total_batch_size 512 --muon_lr 0.03"  # in so few steps more of them count


class Block(nn.Module):
    """A block of GPT-2."""

    def __init__(self):
        super().__init__()
        self.before, self.between = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.qkv, self.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.wide, self.narrow = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C)."""
        q, k, v = self.qkv(self.before(x)).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.wide(self.between(x))))


class GPT(nn.Module):
    """GPT-2 with tied embeddings and GPT-2's initialisation."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, C), nn.Embedding(T, C)
        self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(LAYERS))), nn.LayerNorm(C, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                last = name.endswith(("out.weight", "narrow.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * LAYERS) if last else 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean loss of characters y (B, T) after x (B, T)."""
        states = self.norm(self.blocks(self.tokens(x) + self.positions.weight[: x.shape[1]]))
        return F.cross_entropy(F.linear(states, self.tokens.weight).flatten(0, 1), y.flatten())


def nanogpt(text: Path, seed: int) -> None:
    """Train by the recipe; prints the loss over the whole last tenth and the seconds that were spent on that alone."""
    torch.manual_seed(seed)
    vocabulary, ids = np.unique(np.array(list(text.read_text(encoding="utf-8"))), return_inverse=True)
    ids = torch.from_numpy(ids)
    train, val = ids.split([int(0.9 * len(ids)), len(ids) - int(0.9 * len(ids))])
    model = GPT(len(vocabulary))
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99))

    def batch(ids: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.stack(
            [ids[first : first + T + 1] for first in torch.randint(len(ids) - T, (ROWS,)).tolist()]
        )
        return rows[:, :-1], rows[:, 1:]

    @torch.no_grad()
    def look() -> list[float]:
        return [
            sum(model(*batch(part)).item() for _ in range(EVALUATED)) / EVALUATED for part in (train, val)
        ]

    for step in range(STEPS + 1):
        if step % EVALUATE_EVERY == 0:
            print(step, look(), file=sys.stderr)
        share = (step - WARMUP) / (STEPS - WARMUP)
        lr = (
            LR * (step + 1) / (WARMUP + 1)
            if step < WARMUP
            else (MIN_LR + 0.5 * (1 + math.cos(math.pi * share)) * (LR - MIN_LR))
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = model(*batch(train))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    t0, total = time.perf_counter(), 0.0
    with torch.no_grad():
        for first in range(0, len(val) - 1, ROWS * T):
            rows = val[first : first + ROWS * T + 1]
            whole = (len(rows) - 1) // T * T  # the last rows, and what is less than one
            for x, y in (
                (rows[:whole].view(-1, T), rows[1 : whole + 1].view(-1, T)),
                (rows[None, whole:-1], rows[None, whole + 1 :]),
            ):
                total += model(x, y).item() * x.numel() if x.numel() else 0.0
    print(json.dumps({"loss": total / (len(val) - 1), "afterwards": time.perf_counter() - t0}))


def ours(data_dir: Path, seed: int, flags: list[str]) -> dict[str, float]:
    """The command, from its start to its end; then its model's loss."""
    with tempfile.TemporaryDirectory() as folder:
        places, run = ["--data_dir", data_dir], Path(folder) / "P-shakespeare"
        t0 = time.perf_counter()
        subprocess.run(
            [
                sys.executable,
                ROOT / "trainer.py",
                "--train",
                "P",
                "--preset",
                "shakespeare",
                "--seed",
                str(seed),
                *places,
                "--save_checkpoint_dir",
                folder,
                "--wandb",
                "disabled",
                "--eval_check",
                str(EVALUATED),
                *flags,
            ],
            check=True,
            capture_output=True,
        )
        seconds = time.perf_counter() - t0
        done = subprocess.run(
            [
                sys.executable,
                ROOT / "evaluation.py",
                "--model",
                run,
                "--dataset",
                "shakespeare",
                *places,
                "--json",
            ],
            check=True,
            capture_output=True,
            text=True,
        )
    found = json.loads(done.stdout)
    return {"seconds": round(seconds, 1), "loss": round(found["loss"], 4), "validated_on": found["tokens"]}


def theirs(text: Path, seed: int) -> dict[str, float]:
    """nanoGPT's recipe in a process of its own."""
    t0 = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--text", text, "--recipe", str(seed)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, found = time.perf_counter() - t0, json.loads(done.stdout)
    return {"seconds": round(seconds - found["afterwards"], 1), "loss": round(found["loss"], 4)}


def main() -> None:
    """Run what is asked for, one after the other; a line of JSON for each run."""
    parser = Parser(__doc__)
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="the text itself")
    parser.add_argument(
        "--data_dir", type=Path, default=ROOT / "data", help="where data.py has put `shakespeare`"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    names = ("nanogpt", "preset", "short")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--short_iters", type=int, default=205, help="steps of the run in a fifth of the time"
    )
    parser.add_argument("--flags", default="", help="more flags of trainer.py")
    parser.add_argument("--recipe", type=int, metavar="SEED", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.text.is_file():
        parser.error(f"no such file: --text {args.text}")
    if args.recipe is not None:
        nanogpt(args.text, args.recipe)
        return
    flags, few = args.flags.split(), args.short_iters
    short = [*flags, "--total_iters", str(few), "--warmup_iters", str(few // 10), *SHORT.split()]
    runs = {
        "nanogpt": lambda seed: theirs(args.text, seed),
        "preset": lambda seed: ours(args.data_dir, seed, flags),
        "short": lambda seed: ours(args.data_dir, seed, short),
    }
    for seed in args.seeds:
        for name in args.only:
            print(json.dumps({"run": name, "seed": seed, **runs[name](seed)}), flush=True)


if __name__ == "__main__":
    main()
