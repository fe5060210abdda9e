"""Small things for the tests of the scripts: a prepared dataset of real sentences, and runs of the trainer on it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import config
import distributed
import plots
import trainer as trainer_script
from integrity import seal
from store import FORMAT, ShardWriter, write_json
from tokenizer import byte_level

ROOT = Path(__file__).resolve().parent.parent
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}
WORDS = "the old fox ran over a red hill and saw the small boat on the lake near the gate".split()

# A run of 6 steps, 256 tokens each, in float32 with dropout, so that generators matter.
TINY = {"train": "P", "dataset": "toy", "device": "cpu", "dtype": "float32", "block_size": 32, "batch_size": 8,
        "total_batch_size": 256, "embeddings_dims": 32, "no_of_decoder_layers": 2, "no_of_heads": 4, "no_kv_heads": 2,
        "total_iters": 6, "warmup_iters": 2, "eval_iters": 3, "eval_check": 2, "save_checkpoint_iter": 2,
        "max_lr": 1e-2, "prompt": "the fox", "max_length": 5, "wandb": "disabled"}


def toy_text(sentences: int, seed: int) -> list[str]:
    """Sentences of a small world, the same ones for the same seed."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) + "." for _ in range(sentences)]


def toy_dataset(data_dir: Path, name: str = "toy", sentences: int = 400) -> Path:
    """A prepared byte-level dataset of two training shards and one validation shard."""
    folder, tokenizer = data_dir / name, byte_level()
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    splits: dict[str, list[dict]] = {"train": [], "val": []}
    for split, index, count in ("train", 0, sentences), ("train", 1, sentences // 2), ("val", 0, sentences // 8):
        writer = ShardWriter(folder, split, index, np.uint16, with_keep=False)
        for text in toy_text(count, seed=index if split == "train" else 99):
            ids = np.append(tokenizer.encode_array(text), np.uint32(tokenizer.eos_id))
            writer.add(ids, None, len(text), ended=True)
        splits[split].append(writer.close())
    write_json(folder / "meta.json", {
        "format": FORMAT, "name": name, "kind": "text", "source": {}, "splits": splits, "plan": {},
        "tokenizer": {"name": "bytes", "hash": tokenizer.hash, "vocab_size": tokenizer.vocab_size, "eos_id": 256}})
    seal(folder, {})
    return folder


def flags(settings: dict) -> list[str]:
    """Settings as words of a command line."""
    words = []
    for name, value in settings.items():
        words += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return words


def trainer(folder: Path, *extra: str, ranks: int = 1, code: str | None = None,
            **settings) -> subprocess.CompletedProcess:
    """Run trainer.py on the toy dataset in folder/data; `code` is Python that runs in its process before main()."""
    words = [*flags({**TINY, "data_dir": folder / "data", "save_checkpoint_dir": folder / "runs", **settings}), *extra]
    if code is not None:
        program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport torch\n"
                   f"torch.set_num_threads(1)\nimport trainer\n{code}\ntrainer.run(trainer.main)"]
    elif ranks > 1:
        program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}",
                   str(ROOT / "trainer.py")]
    else:
        program = [sys.executable, str(ROOT / "trainer.py")]
    return subprocess.run(program + words, capture_output=True, text=True, timeout=300, cwd=folder, env=QUIET)


@dataclass
class Forked:
    """Ranks of a trainer in processes that are copies of this one, so that none of them imports torch again."""

    pids: list[int]
    log: Path

    def wait(self, timeout: float = 120) -> list[int]:
        """The exit status of each rank, minus the signal that ended it."""
        deadline, codes = time.time() + timeout, {}
        while len(codes) < len(self.pids):
            for pid in set(self.pids) - codes.keys():
                done, status = os.waitpid(pid, os.WNOHANG)
                codes |= {pid: os.waitstatus_to_exitcode(status)} if done else {}
            if time.time() > deadline:
                for pid in set(self.pids) - codes.keys():
                    os.kill(pid, signal.SIGKILL)
                raise TimeoutError(self.said)
            time.sleep(0.01)
        return [codes[pid] for pid in self.pids]

    @property
    def said(self) -> str:
        """What the ranks have printed."""
        return self.log.read_text()


def fork(folder: Path, *extra: str, ranks: int = 1, before: Callable[[int], object] | None = None,
         environment: dict[str, str] | None = None, **settings) -> Forked:
    """Start trainer.py on the toy dataset as trainer() does; `before` is called with the rank in each process first."""
    words = [*flags({**TINY, "data_dir": folder / "data", "save_checkpoint_dir": folder / "runs", **settings}), *extra]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pids, log = [], folder / f"log-{time.time_ns()}.txt"
    log.touch()
    for rank in range(ranks):
        pids.append(os.fork())
        if not pids[-1]:
            _become_trainer(words, log, before, rank, {
                **({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port} if ranks > 1 else {}), **(environment or {})})
    return Forked(pids, log)


def _become_trainer(words: list[str], log: Path, before: Callable | None, rank: int, environment: dict) -> None:
    code = 99
    try:
        distributed.peak_flops = lambda env: None  # both take seconds and are not what is tested with forks
        plots.loss_curves = lambda folder: None
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(handle, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        sys.__stderr__, sys.argv = sys.stderr, ["trainer.py", *words]
        os.environ.update(environment)
        if before:
            before(rank)
        config.run(trainer_script.main)
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def metrics(run: Path, split: str = "train") -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if row["split"] == split]
