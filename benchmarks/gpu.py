"""One GPU: is everything right on it, and how fast is it? Parts that can be run alone; JSON with what was expected.

    python benchmarks/gpu.py                                 all parts, about 20 minutes on an H100
    python benchmarks/gpu.py where attention head            some of them
    python benchmarks/gpu.py step --nanogpt PATH/model.py    nanoGPT's model in the same run
    python benchmarks/gpu.py --tiny                          everything small, on a CPU: does the program run?

| part      | what                                                                                            |
|-----------|-------------------------------------------------------------------------------------------------|
| where     | device, versions, matrix products, memory; the kernel that torch chooses for each kind of row     |
| attention | values and gradients against float64, no NaN at odd lengths; time of each form                     |
| head      | loss and gradients against float64; time by chunk, compiled and not                                |
| step      | tokens/s, MFU and peak memory of smol-130m, eager and compiled, against transformers and nanoGPT   |
| sync      | how often the host waits for the device in a step                                                  |
| decode    | new tokens a second, against transformers                                                          |
| train     | the three stages of the story preset against a CPU, and a resumed run against an unbroken one      |

A figure is [value, what is expected]; `wrong` lists those that must hold and do not, and then the exit code is 1. It
runs with torch 2.11 too: what is missing there is skipped, with a line.
"""

import inspect
import json
import os
import runpy
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.command_line import Parser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT / "benchmarks"))

PARTS = ("where", "attention", "head", "step", "sync", "decode", "train")


class Report:
    """Figures of a part as they come, each beside what is expected of it."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, list]] = {}
        self.wrong: list[str] = []
        self.part = ""

    def begin(self, part: str) -> None:
        """Begin a part."""
        self.part = part
        self.figures[part] = {}

    def add(self, name: str, value: object, expected: str = "", holds: bool = True) -> None:
        """Note a figure; `holds` is whether it is as it must be."""
        if isinstance(value, float):
            value = float(f"{value:.4g}")
        self.figures[self.part][name] = [value, expected]
        if not holds:
            self.wrong.append(f"{self.part}: {name}")
        mark = "" if holds else "  WRONG"
        print(
            f"{self.part}: {name}: {value}" + (f"  (expected: {expected})" if expected else "") + mark,
            flush=True,
        )

    def skip(self, name: str, reason: object) -> None:
        """Note what cannot be run here."""
        self.add(name, f"skipped: {str(reason).strip().splitlines()[0]}")


def support_older_torch() -> None:
    """Let torch 2.11's varlen_attn take `enable_gqa`, which it does not have: its kernel takes grouped heads anyway."""
    from torch.nn.attention import varlen

    if "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters:
        return
    older = varlen.varlen_attn
    varlen.varlen_attn = lambda *inputs, enable_gqa, **options: older(*inputs, **options)


def run_script(words: list[str]) -> None:
    """Run a script of the project in this process, with the support for an older torch."""
    support_older_torch()
    sys.argv = words
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def main() -> None:
    """Run the parts that are named, print their figures, write them as JSON."""
    if sys.argv[1:2] == ["--script"]:
        run_script(sys.argv[2:])
        return

    parser = Parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU")
    parser.add_argument("--nanogpt", type=Path, metavar="FILE", help="nanoGPT's model.py")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if not args.tiny and not torch.cuda.is_available():
        parser.error("there is no CUDA device: add --tiny to try the program on a CPU")
    if args.nanogpt and not args.nanogpt.is_file():
        parser.error(f"--nanogpt {args.nanogpt} is no file: it is model.py of github.com/karpathy/nanoGPT")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: its folder does not exist")

    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    support_older_torch()
    import gpu_parts
    import gpu_runs

    device = torch.device("cpu" if args.tiny else "cuda")
    programs = {
        "where": gpu_parts.where,
        "attention": gpu_parts.attention_forms,
        "head": gpu_parts.head,
        "step": partial(gpu_runs.step, nanogpt=args.nanogpt),
        "sync": gpu_runs.sync,
        "decode": gpu_runs.decode,
        "train": gpu_runs.train,
    }
    report = Report()
    for part in args.parts or PARTS:
        start = time.perf_counter()
        report.begin(part)
        programs[part](report, device, args.tiny)
        report.add("seconds", time.perf_counter() - start)
        if args.json:
            args.json.write_text(json.dumps({"wrong": report.wrong, **report.figures}, indent=1) + "\n")

    print(json.dumps({"wrong": report.wrong, **report.figures}))
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
