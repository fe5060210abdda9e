"""Small things for the tests of the scripts: a prepared dataset of real sentences, and runs of the trainer on it."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

from dataprep.documents import row_documents
from dataprep.shards import FORMAT, ShardWriter
from runtime.checksums import write_checksums
from runtime.files import write_json
from tokenizer import byte_level

ROOT = Path(__file__).resolve().parents[2]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}
WORDS = "the old fox ran over a red hill and saw the small boat on the lake near the gate".split()

# A run of 6 steps, 256 tokens each, in float32 with dropout, so that generators matter.
TINY = {
    "train": "P",
    "dataset": "toy",
    "device": "cpu",
    "dtype": "float32",
    "block_size": 32,
    "batch_size": 8,
    "total_batch_size": 256,
    "embeddings_dims": 32,
    "no_of_decoder_layers": 2,
    "no_of_heads": 4,
    "no_kv_heads": 2,
    "total_iters": 6,
    "warmup_iters": 2,
    "eval_iters": 3,
    "eval_check": 2,
    "save_checkpoint_iter": 2,
    "max_lr": 1e-2,
    "prompt": "the fox",
    "max_length": 5,
    "wandb": "disabled",
}


def toy_text(sentences: int, seed: int) -> list[str]:
    """Sentences of a small world, the same ones for the same seed."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) + "." for _ in range(sentences)]


def toy_rows(kind: str, count: int, seed: int) -> list[dict]:
    """Rows of a kind: sentences; words to be said again; the same, and to be preferred over a refusal."""
    rng = random.Random(seed)
    if kind == "text":
        return [{"text": text} for text in toy_text(count, seed)]
    asked = [(rng.choice(WORDS), rng.randint(1, 3)) for _ in range(count)]
    if kind == "instruct":
        return [
            {"instruction": f"Say {word}", "input": "twice" * (n == 2), "output": " ".join([word] * n)}
            for word, n in asked
        ]
    return [
        {"prompt": f"Say {word}", "chosen": " ".join([word] * n), "rejected": f"no {rng.choice(WORDS)}"}
        for word, n in asked
    ]


def write_rows(folder: Path, kind: str, splits: dict[str, list[list[dict]]]) -> Path:
    """Rows, a list for each shard of a split, as a prepared byte-level dataset."""
    tokenizer = byte_level()
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    entries: dict[str, list[dict]] = {split: [] for split in splits}
    for split, shards in splits.items():
        for index, rows in enumerate(shards):
            writer = ShardWriter(folder, split, index, np.uint16, with_loss_mask=kind != "text")
            for document in row_documents(((row, "a row") for row in rows), kind, tokenizer):
                for ids, keep, size in document.token_parts:
                    writer.add(ids, keep, size, is_complete=True)
            entries[split].append(writer.close())
    write_json(
        folder / "meta.json",
        {
            "format": FORMAT,
            "name": folder.name,
            "kind": kind,
            "source": {},
            "splits": entries,
            "plan": {},
            "tokenizer": {
                "name": "bytes",
                "hash": tokenizer.hash,
                "vocab_size": tokenizer.vocab_size,
                "eos_id": 256,
            },
        },
    )
    write_checksums(folder, {})
    return folder


def toy_dataset(data_dir: Path, name: str = "toy", sentences: int = 400, kind: str = "text") -> Path:
    """A prepared byte-level dataset of two training shards and one validation shard."""
    return write_rows(
        data_dir / name,
        kind,
        {
            "train": [toy_rows(kind, sentences, 0), toy_rows(kind, sentences // 2, 1)],
            "val": [toy_rows(kind, sentences // 8, 99)],
        },
    )


def flags(settings: dict) -> list[str]:
    """Settings as words of a command line."""
    words = []
    for name, value in settings.items():
        words += (
            [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
        )
    return words


def trainer(
    folder: Path, *extra: str, ranks: int = 1, code: str | None = None, **settings
) -> subprocess.CompletedProcess:
    """Run trainer.py on the toy dataset in folder/data; `code` is Python that runs in its process before main()."""
    words = [
        *flags({**TINY, "data_dir": folder / "data", "save_checkpoint_dir": folder / "runs", **settings}),
        *extra,
    ]
    if code is not None:
        program = [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport torch\n"
            f"torch.set_num_threads(1)\nimport trainer\n{code}\n"
            "from runtime.errors import run_cli\nrun_cli(trainer.main)",
        ]
    elif ranks > 1:
        program = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={ranks}",
            str(ROOT / "trainer.py"),
        ]
    else:
        program = [sys.executable, str(ROOT / "trainer.py")]
    return subprocess.run(program + words, capture_output=True, text=True, timeout=300, cwd=folder, env=QUIET)


def metrics(run: Path, split: str = "train") -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    return [
        row
        for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if row["split"] == split
    ]
