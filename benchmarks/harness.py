"""What every benchmark shares: contenders in turn, each in a process of its own, beside what the machine can do at all.

A benchmark is a file with a function for each contender, which returns figures; `rate` is the one compared. main() runs
all of them `--rounds` times in turn, so that a machine that slows down slows all, and prints one JSON object.
Contenders that need other packages run under another Python: --python litgpt=FOLDER/bin/python. What all of them read
is made once, in shared_folder().
"""

import argparse
import inspect
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.command_line import Parser

ROOT = Path(__file__).resolve().parent.parent
Figures = dict[str, float]


def median_rate(step: Callable[[], object], units: float, warmup: int = 2, steps: int = 5) -> float:
    """Units a second of a step that handles so many units, the median after the warm-up."""
    seconds = []
    for _ in range(warmup + steps):
        t0 = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - t0)
    return units / statistics.median(seconds[warmup:])


def machine() -> Figures:
    """The machine's best rates with all its threads: float32 matrix products in GFLOP/s, reading memory in GB/s."""
    import torch

    a, long = torch.ones(1024, 1024), torch.ones(1 << 26)
    return {
        "rate": median_rate(lambda: a @ a, 2 * 1024**3 / 1e9, steps=30),
        "read_gb_per_s": median_rate(long.sum, 4 * len(long) / 1e9, steps=9),
    }


def shared_folder() -> Path:
    """Where a benchmark's `prepare` puts what its contenders read."""
    return Path(os.environ["BENCHMARK_FOLDER"])


def contend(contender: Callable[[], Figures]) -> None:
    """Run one contender in this process and print its figures, with the peak of its memory."""
    figures = contender()
    status = Path("/proc/self/status").read_text()  # getrusage would count what was there before exec, too
    figures.setdefault("peak_mb", int(status.split("VmHWM:")[1].split()[0]) / 1024)
    print("\n" + json.dumps(figures))


def run(program: Path, name: str, python: str) -> Figures | None:
    """The figures of one contender in a process of its own; None, and its last line on stderr, where it fails."""
    done = subprocess.run([python, program, "--contender", name], capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: {(done.stderr.strip() or 'failed').splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def play(program: Path, names: list[str], pythons: dict[str, str]) -> dict[str, Figures]:
    """One round: the figures of all contenders that did not fail."""
    made = {}
    for name in names:
        made[name] = run(program, name, pythons.get(name, sys.executable))
        print(name, made[name], file=sys.stderr, flush=True)
    return {name: figures for name, figures in made.items() if figures}


def summary(rounds: list[dict[str, Figures]], ours: str) -> dict[str, Figures]:
    """Of each contender the median of every figure, the spread of its rate, and ours in multiples of it."""
    found = {}
    for name in dict.fromkeys(name for figures in rounds for name in figures):
        runs = [figures[name] for figures in rounds if name in figures]
        rates = [figures["rate"] for figures in runs]
        found[name] = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        found[name] |= {"lowest": round(min(rates), 3), "highest": round(max(rates), 3)}
        if name not in ("machine", ours):
            ratios = [figures[ours]["rate"] / figures[name]["rate"] for figures in rounds if name in figures]
            found[name]["ours_is"] = round(statistics.median(ratios), 2)
    return found


def main(
    unit: str,
    contenders: dict[str, Callable[[], Figures]],
    prepare: Callable[..., object] = lambda: None,
    needs: dict[str, str] | None = None,
) -> None:
    """The command line of a benchmark; the first contender is ours.

    `prepare` fills the shared folder, from the files that the flags in `needs` name.
    """
    program = Path(inspect.stack()[1].filename).resolve()
    parser = Parser(f"Compare {', '.join(contenders)} in {unit}.")
    parser.add_argument("--rounds", type=int, default=3, help="times that each contender is run (default: 3)")
    parser.add_argument("--only", nargs="+", choices=contenders, help="these and the first one")
    parser.add_argument(
        "--python", nargs="+", default=[], metavar="NAME=PATH", help="the Python of a contender"
    )
    for name, what in (needs or {}).items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    parser.add_argument("--contender", choices=["machine", *contenders], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend({"machine": machine, **contenders}[args.contender])
        return
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds} must be 1 or more")
    if wrong := [pair for pair in args.python if "=" not in pair or pair.split("=")[0] not in contenders]:
        parser.error(
            f"--python {wrong[0]} must be like NAME=PATH, where NAME is one of {', '.join(contenders)}"
        )
    for name, what in (needs or {}).items():
        if not getattr(args, name) or not getattr(args, name).is_file():
            parser.error(f"--{name} {getattr(args, name) or 'FILE'} must name a file: {what}")
    pythons, (ours, *others) = dict(pair.split("=", 1) for pair in args.python), contenders
    names = ["machine", ours, *(name for name in others if not args.only or name in args.only)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCHMARK_FOLDER"] = folder
        prepare(**{name: getattr(args, name) for name in needs or {}})
        rounds = [play(program, names, pythons) for _ in range(args.rounds)]
    print(
        json.dumps(
            {
                "benchmark": program.stem,
                "unit": unit,
                "date": str(date.today()),
                "cores": os.cpu_count(),
                "machine": platform.machine(),
                "load": round(os.getloadavg()[0], 1),
                "rounds": args.rounds,
                "results": summary(rounds, ours),
            },
            indent=1,
        )
    )
