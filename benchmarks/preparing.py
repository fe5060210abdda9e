"""Text to shards of GPT-2 tokens, end to end: reading, tokenising, writing, and hashing where it is done.

    python benchmarks/preparing.py --text FILE.jsonl

100 MB of documents are made from the "text" of a JSONL file: each again and again, its sentences in another order.
Start-up counts. Memory is that of all processes together, pages that they share counted once.
"""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter

import numpy as np
from harness import ROOT, Figures, main, shared_folder

sys.path.insert(0, str(ROOT))

SIZE, EOS_ID, PROCESSES = 100_000_000, 50256, os.cpu_count()


def prepare(text: Path) -> None:
    """The text."""
    documents = [
        json.loads(line)["text"].split(". ") for line in text.read_text(encoding="utf-8").splitlines()
    ]
    rng, written = random.Random(0), 0
    with (shared_folder() / "text.jsonl").open("w", encoding="utf-8") as file:
        while written < SIZE:
            for document in documents:
                rng.shuffle(document)
                written += len(". ".join(document).encode())
                file.write(json.dumps({"text": ". ".join(document)}, ensure_ascii=False) + "\n")


class Memory(threading.Thread):
    """The largest sum of memory of this process and all below it, looked at ten times a second, in MB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_mb, self.ended = 0.0, threading.Event()

    def run(self) -> None:
        """Look until it is ended."""
        while not self.ended.wait(0.1):
            self.peak_mb = max(self.peak_mb, sum(map(proportional_mb, family(os.getpid()))))


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += map(int, task.read_text().split())
        except OSError:  # it has ended
            continue
    return [pid, *(low for child in children for low in family(child))]


def proportional_mb(pid: int) -> float:
    """Memory of a process, a page that n processes share counted as 1/n."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measured(way: str) -> Figures:
    """Run a way in a process of its own; M tokens a second."""
    memory, t0 = Memory(), perf_counter()
    memory.start()
    name = f"{way}-{os.getpid()}"
    data = [
        ROOT / "data.py",
        "--files",
        shared_folder() / "text.jsonl",
        "--name",
        name,
        "--kind",
        "text",
        "--tokenizer",
        "gpt2",
        "--data_dir",
        shared_folder() / "data",
    ]
    subprocess.run(
        [sys.executable, *(data if way == "ours" else [__file__, way, name])], check=True, stdout=sys.stderr
    )
    seconds = perf_counter() - t0
    memory.ended.set()
    memory.join()
    made = [shared_folder() / f"{name}.bin", *(shared_folder() / "data" / name).glob("*.tokens.bin")]
    size = sum(path.stat().st_size for path in made if path.is_file())
    return {"rate": size / 2 / seconds / 1e6, "peak_mb": memory.peak_mb}


def encoding():
    """GPT-2's tokens in tiktoken, from the vocabulary that the project has."""
    from tokenizer import load_tokenizer

    return load_tokenizer("gpt2").fast


def tiktoken_batch(out: Path) -> None:
    """Documents a thousand at a time, on a thread for each core, straight into a file."""
    fast, batch = encoding(), []

    def write() -> None:
        for ids in fast.encode_ordinary_batch(batch, num_threads=PROCESSES):
            np.array([*ids, EOS_ID], np.uint16).tofile(made)
        batch.clear()

    with (shared_folder() / "text.jsonl").open(encoding="utf-8") as file, out.open("wb") as made:
        for line in file:
            batch.append(json.loads(line)["text"])
            if len(batch) == 1000:
                write()
        write()


def datasets_map(out: Path) -> None:
    """datasets' map in a process for each core, its result then written in 1024 parts into a memmap."""
    from datasets import load_dataset

    cache = out.with_suffix(".cache")
    rows = load_dataset(
        "json", data_files=str(shared_folder() / "text.jsonl"), split="train", cache_dir=str(cache)
    )
    fast = encoding()

    def encode(row: dict) -> dict:
        ids = [*fast.encode_ordinary(row["text"]), EOS_ID]
        return {"ids": ids, "len": len(ids)}

    made = rows.map(encode, remove_columns=["text"], num_proc=PROCESSES)
    ids_file = np.memmap(out, np.uint16, "w+", shape=(int(np.sum(made["len"])),))
    first = 0
    for part in range(1024):
        ids = np.concatenate(made.shard(1024, part, contiguous=True).with_format("numpy")["ids"])
        ids_file[first : first + len(ids)] = ids
        first += len(ids)
    ids_file.flush()


WAYS = {"tiktoken": tiktoken_batch, "datasets": datasets_map}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        WAYS[sys.argv[1]](shared_folder() / f"{sys.argv[2]}.bin")
    else:
        main(
            "M tokens/s",
            {
                "smolllama": lambda: measured("ours"),
                "tiktoken batch": lambda: measured("tiktoken"),
                "datasets.map, then memmap": lambda: measured("datasets"),
            },
            prepare,
            {"text": "JSONL whose text is made longer"},
        )
