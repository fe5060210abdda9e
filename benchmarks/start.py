"""Start of the scripts, beside `import torch`: the import of the chat, its first token, the first step of a run.

    python benchmarks/start.py

The model has 10M parameters. `rate` is starts a second; processor seconds are counted for the process and its children,
since a machine that is shared changes them less than the clock's.
"""

import json
import os
import resource
import subprocess
import sys
import time

from harness import ROOT, Figures, main, shared_folder

TEN_MILLION = {"embeddings_dims": 256, "no_of_decoder_layers": 8, "no_of_heads": 8, "no_kv_heads": 2}
TINY_RUN = (
    *(
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--wandb",
        "disabled",
        "--block_size",
        "64",
        "--batch_size",
        "4",
    ),
    *(
        "--total_batch_size",
        "256",
        "--embeddings_dims",
        "32",
        "--no_of_heads",
        "4",
        "--no_of_decoder_layers",
        "1",
    ),
    *("--total_iters", "1", "--warmup_iters", "0"),
)


def prepare() -> None:
    """Make a model of 10M parameters, and a dataset of a tiny run."""
    sys.path.insert(0, str(ROOT))
    import torch

    from checkpoint import write_model
    from config import ModelArgs
    from model import Llama
    from tokenizer import load_tokenizer

    folder = shared_folder() / "model"
    folder.mkdir()
    torch.manual_seed(0)
    write_model(
        folder, Llama(ModelArgs(vocab_size=320, **TEN_MILLION)), load_tokenizer("bytes"), {"stage": "P"}
    )

    text = shared_folder() / "text.txt"
    text.write_text("A small fox ran over the hill to see the boat on the lake. " * 500, encoding="utf-8")
    words = ["--files", text, "--name", "text", "--kind", "text", "--tokenizer", "bytes"]
    run(ROOT / "data.py", *words, "--data_dir", shared_folder() / "data")


def run(*words: object) -> None:
    """Run Python with words of its command line; stop where it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, env={**os.environ}
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])


def timed(*words: object) -> Figures:
    """Return starts a second and processor seconds of a run of Python."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    run(*words)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"rate": 1 / seconds, "seconds": seconds, "cpu_seconds": cpu}


def import_torch() -> Figures:
    """Import torch and nothing else."""
    return timed("-c", "import torch")


def import_chat() -> Figures:
    """Import what the chat needs."""
    return timed("-c", "import inference_sft")


def first_token() -> Figures:
    """Start the chat's script and write one token."""
    model = shared_folder() / "model"
    return timed(
        "inference_sft.py", "--model", model, "--prompt", "Once", "--max_length", 1, "--device", "cpu"
    )


def first_step() -> Figures:
    """Start a run of the trainer and end it after its first step, saved and evaluated."""
    run_folder = shared_folder() / f"runs-{time.time_ns()}"
    places = ["--data_dir", shared_folder() / "data", "--save_checkpoint_dir", run_folder]
    figures = timed("trainer.py", "--dataset", "text", *TINY_RUN, *places)
    rows = [json.loads(line) for line in (run_folder / "P-text" / "metrics.jsonl").read_text().splitlines()]
    if not any(row["split"] == "train" for row in rows):
        raise SystemExit("the run took no step")
    return figures


if __name__ == "__main__":
    main(
        "starts/s",
        {
            "import torch": import_torch,
            "import inference_sft": import_chat,
            "first token": first_token,
            "one step": first_step,
        },
        prepare,
    )
