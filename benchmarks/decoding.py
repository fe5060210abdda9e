"""The next token, at batch 1: 48M parameters, a prompt of 64 tokens, 256 more, greedy; the prompt's time counts.

    python benchmarks/decoding.py --python "llama.cpp f32=PATH" "llama.cpp q8_0=PATH"     requirements-llama.txt

All have the same weights: random ones, since what they say does not change the time. llama.cpp reads the files that
export.py writes.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from harness import Figures, main, shared_folder

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PROMPT, NEW, WARM, REPEATS = list(range(1000, 1064)), 256, 16, 3


def model():
    """The model of pretraining.py."""
    import torch

    from config import ModelArgs
    from model import Llama

    torch.manual_seed(0)
    return Llama(ModelArgs(hidden_dims=1408, device="cpu")).eval()


def prepare() -> None:
    """GGUF files of it, and transformers' folder."""
    from checkpoint import write_model
    from publishing.gguf_export import write_gguf
    from tokenizer import load_tokenizer

    tokenizer = load_tokenizer("gpt2")
    for precision in ("float32", "q8_0"):
        write_gguf(shared_folder() / f"{precision}.gguf", model(), tokenizer, precision, None)
    (shared_folder() / "folder").mkdir()
    write_model(shared_folder() / "folder", model(), tokenizer, {})


def rate(tokens: Callable[[int], Iterable[int]]) -> Figures:
    """New tokens a second, the median of some repetitions; `tokens` says how many to make."""
    seconds = []
    for count in (WARM, *[NEW] * REPEATS):
        t0 = time.perf_counter()
        made = sum(1 for _ in tokens(count))
        seconds.append(time.perf_counter() - t0)
        if made != count:
            raise SystemExit(f"{made} tokens, not {count}")
    return {"rate": NEW / statistics.median(seconds[1:])}


def ours(as_bytes: bool) -> Figures:
    """inference_sft.py's own loop, without and with --quantize int8."""
    from generation.cpu_decoder import quantize
    from generation.generate import GREEDY, generate

    speaker = model()
    if as_bytes:
        quantize(speaker)
    return rate(lambda count: generate(speaker, PROMPT, count, params=GREEDY))


def llama_cpp(precision: str) -> Figures:
    """llama.cpp through its Python binding."""
    import llama_cpp

    speaker = llama_cpp.Llama(
        str(shared_folder() / f"{precision}.gguf"),
        n_ctx=512,
        n_threads=os.cpu_count(),
        n_threads_batch=os.cpu_count(),
        verbose=False,
    )

    def tokens(count: int) -> Iterable[int]:
        speaker.reset()
        made = speaker.generate(PROMPT, temp=0.0, repeat_penalty=1.0)
        return (token for _, token in zip(range(count), made, strict=False))

    return rate(tokens)


def transformers() -> Figures:
    """transformers' generate with its dynamic cache."""
    import torch
    from transformers import AutoModelForCausalLM

    speaker = AutoModelForCausalLM.from_pretrained(shared_folder() / "folder", dtype=torch.float32).eval()

    def tokens(count: int) -> Iterable[int]:
        return speaker.generate(
            torch.tensor([PROMPT]),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )[0, len(PROMPT) :]

    return rate(tokens)


if __name__ == "__main__":
    main(
        "tokens/s",
        {
            "smolllama float32": lambda: ours(False),
            "smolllama int8": lambda: ours(True),
            "llama.cpp f32": lambda: llama_cpp("float32"),
            "llama.cpp q8_0": lambda: llama_cpp("q8_0"),
            "transformers": transformers,
        },
        prepare,
    )
