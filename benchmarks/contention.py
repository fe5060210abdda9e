"""What waiting OpenMP threads cost: a training step with spinning and with passive threads, cores idle and one busy.

python benchmarks/contention.py            prints one JSON line; about two minutes on two cores
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEP = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import torch
from dataloader.batch import Batch
from config import ModelArgs
from model import Llama
from training.objectives import next_token
torch.manual_seed(0)
model = Llama(ModelArgs(vocab_size=2048, embeddings_dims=128, no_of_decoder_layers=4, no_of_heads=4, block_size=256,
                        dropout=0.0, attn_dropout=0.0))
batch = Batch(*torch.randint(2048, (2, 8, 256)))
for i in range(8):
    t0 = time.perf_counter()
    next_token(model, batch)[0].backward()
    if i > 1: print(2048 / (time.perf_counter() - t0))
"""


def tokens_per_second(policy: str) -> float:
    """Median over the steps of a process of its own."""
    env = {**os.environ, "OMP_WAIT_POLICY": policy}
    done = subprocess.run([sys.executable, "-c", STEP], env=env, capture_output=True, text=True, check=True)
    return statistics.median(map(float, done.stdout.split()))


def measure(runs: int = 3) -> dict[str, float]:
    """{"idle active", "idle passive", "busy active", "busy passive"}: medians over interleaved processes."""
    speeds: dict[str, list[float]] = {}
    for _ in range(runs):
        for cores in ("idle", "busy"):
            rival = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if cores == "busy" else None
            time.sleep(0.5)
            for policy in ("active", "passive"):
                speeds.setdefault(f"{cores} {policy}", []).append(tokens_per_second(policy))
            if rival:
                rival.kill()
    return {name: round(statistics.median(values)) for name, values in speeds.items()}


if __name__ == "__main__":
    print(json.dumps({"cores": os.cpu_count(), "tokens_per_second": measure()}))
