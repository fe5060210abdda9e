"""Speed and memory of preparing: text to shards of GPT-2 tokens, with reading, encoding, writing and hashing.

    python benchmarks/preparing.py --text FILE.jsonl

100 MB of documents are written from the "text" of a JSONL file: each is repeated with its sentences in another order.
Start-up counts. Memory is that of all processes together; pages that they share count once.
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

CORPUS_BYTES = 100_000_000
BATCH_DOCUMENTS = 1000  # that tiktoken encodes at once
DATASETS_PARTS = 1024  # in which the result of datasets.map is written
SECONDS_BETWEEN_LOOKS = 0.1  # at the memory
BYTES_PER_TOKEN = 2  # on disk
EOS_ID = 50256
PROCESSES = os.cpu_count()


def write_corpus(text: Path) -> None:
    """Write the corpus that is prepared."""
    lines = text.read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line)["text"].split(". ") for line in lines]

    rng = random.Random(0)
    written = 0
    with (shared_folder() / "text.jsonl").open("w", encoding="utf-8") as file:
        while written < CORPUS_BYTES:
            for sentences in documents:
                rng.shuffle(sentences)
                document = ". ".join(sentences)
                written += len(document.encode())
                file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")


class PeakMemory(threading.Thread):
    """Thread that records the largest sum of memory of this process and its descendants, in MB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_mb = 0.0
        self.is_over = threading.Event()

    def run(self) -> None:
        """Look again and again until `is_over` is set."""
        while not self.is_over.wait(SECONDS_BETWEEN_LOOKS):
            self.peak_mb = max(self.peak_mb, sum(map(proportional_mb, family(os.getpid()))))


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += map(int, task.read_text().split())
        except OSError:  # it has ended
            continue
    return [pid, *(descendant for child in children for descendant in family(child))]


def proportional_mb(pid: int) -> float:
    """Return the memory of a process in MB; a page that n processes share counts 1/n."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(way: str) -> Figures:
    """Run a way in a process of its own; the rate is in M tokens a second."""
    memory = PeakMemory()
    start = perf_counter()
    memory.start()

    name = f"{way}-{os.getpid()}"
    command = data_command(name) if way == "ours" else [__file__, way, name]
    subprocess.run([sys.executable, *command], check=True, stdout=sys.stderr)

    seconds = perf_counter() - start
    memory.is_over.set()
    memory.join()

    outputs = [shared_folder() / f"{name}.bin", *(shared_folder() / "data" / name).glob("*.tokens.bin")]
    size = sum(path.stat().st_size for path in outputs if path.is_file())
    return {"rate": size / BYTES_PER_TOKEN / seconds / 1e6, "peak_mb": memory.peak_mb}


def data_command(name: str) -> list[object]:
    """Return the command of data.py."""
    return [
        *(ROOT / "data.py", "--name", name, "--kind", "text", "--tokenizer", "gpt2"),
        *("--files", shared_folder() / "text.jsonl", "--data_dir", shared_folder() / "data"),
    ]


def encoding():
    """Load tiktoken's encoding of GPT-2 from the vocabulary that the project has."""
    from tokenizer import load_tokenizer

    return load_tokenizer("gpt2").fast


def tiktoken_batch(out: Path) -> None:
    """Encode batches of documents with a thread for each core, straight into a file."""
    fast = encoding()
    batch: list[str] = []

    with (shared_folder() / "text.jsonl").open(encoding="utf-8") as rows, out.open("wb") as ids_file:

        def write() -> None:
            for ids in fast.encode_ordinary_batch(batch, num_threads=PROCESSES):
                np.array([*ids, EOS_ID], np.uint16).tofile(ids_file)
            batch.clear()

        for line in rows:
            batch.append(json.loads(line)["text"])
            if len(batch) == BATCH_DOCUMENTS:
                write()
        write()


def datasets_map(out: Path) -> None:
    """Encode with datasets.map in a process for each core, then write the result in parts into a memmap."""
    from datasets import load_dataset

    cache = out.with_suffix(".cache")
    rows = load_dataset(
        "json", data_files=str(shared_folder() / "text.jsonl"), split="train", cache_dir=str(cache)
    )
    fast = encoding()

    def encode(row: dict) -> dict:
        ids = [*fast.encode_ordinary(row["text"]), EOS_ID]
        return {"ids": ids, "len": len(ids)}

    encoded = rows.map(encode, remove_columns=["text"], num_proc=PROCESSES)
    ids_file = np.memmap(out, np.uint16, "w+", shape=(int(np.sum(encoded["len"])),))
    first = 0
    for part in range(DATASETS_PARTS):
        shard = encoded.shard(DATASETS_PARTS, part, contiguous=True)
        ids = np.concatenate(shard.with_format("numpy")["ids"])
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
                "smolllama": lambda: measure("ours"),
                "tiktoken batch": lambda: measure("tiktoken"),
                "datasets.map, then memmap": lambda: measure("datasets"),
            },
            write_corpus,
            {"text": "JSONL whose text is repeated"},
        )
