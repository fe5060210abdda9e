"""Twenty people at the page at once, one model on a CPU: who fails, how long each waits, what memory does.

    python benchmarks/page.py --save_checkpoint_dir checkpoints [--clients 20] [--rounds 3]      prints one JSON line

Starts gradio/app.py on this machine, sends to it alone, and ends it. A round is one reply for each client.
"""

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from gradio_client import Client

ROOT = Path(__file__).resolve().parent.parent
SAMPLING = (0.8, 50, 1.0, 0.0, 1.0, 0.0)  # temperature, top_k, top_p, min_p and the two penalties


@contextlib.contextmanager
def served(checkpoints: str | Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The page, started for these runs on a free port of this machine: its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    votes = tempfile.TemporaryDirectory()
    process = subprocess.Popen(
        [
            sys.executable,
            ROOT / "gradio" / "app.py",
            "--server_port",
            str(port),
            "--device",
            "cpu",
            "--save_checkpoint_dir",
            checkpoints,
            "--votes",
            f"{votes.name}/votes.jsonl",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().split()[0]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=5).close()
                break
            time.sleep(0.1)
        yield address, process
    finally:
        process.terminate()
        process.wait(20)
        votes.cleanup()


def memory(process: subprocess.Popen) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def ask(client: Client, seed: int, max_length: int, start: threading.Barrier, results: list[dict]) -> None:
    """One reply, streamed; appends when it was sent, began, ended, and what went wrong."""
    start.wait(60)
    result = {"sent": time.perf_counter(), "error": None}
    try:
        for _ in client.submit(
            "Once upon a time", "pretrained", max_length, *SAMPLING, seed, api_name="/look"
        ):
            result.setdefault("first", time.perf_counter())
        result["end"] = time.perf_counter()
    except Exception as error:  # whatever a client meets is a figure here
        result["error"] = repr(error)
    results.append(result)


def one_round(clients: list[Client], max_length: int = 100) -> list[dict]:
    """All clients ask at the same moment."""
    results: list[dict] = []
    start = threading.Barrier(len(clients))
    threads = [
        threading.Thread(target=ask, args=(client, seed, max_length, start, results))
        for seed, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return results


def figures(results: list[dict]) -> dict:
    """Failures, waits to the first token, and how soon after one reply's end the next one began."""
    done = sorted((result for result in results if "end" in result), key=lambda result: result["first"])
    waits = [result["first"] - result["sent"] for result in done]
    gaps = [later["first"] - earlier["end"] for earlier, later in zip(done, done[1:], strict=False)]
    return {
        "failures": len(results) - len(done),
        "errors": sorted({r["error"] for r in results if r["error"]}),
        "first_token_s": {
            "first": round(min(waits), 2),
            "median": round(statistics.median(waits), 2),
            "last": round(max(waits), 2),
        },
        "turn_s": round(statistics.median(result["end"] - result["first"] for result in done), 2),
        "next_begins_after_s": [round(min(gaps), 3), round(max(gaps), 3)],
    }


def main() -> None:
    """Start the page, measure, end it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save_checkpoint_dir", default=ROOT / "checkpoints")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with served(args.save_checkpoint_dir) as (address, process):
        clients = [Client(address, verbose=False) for _ in range(args.clients)]
        ask(clients[0], 0, 100, threading.Barrier(1), [])  # loads the model
        resident, rounds = [memory(process)], []
        for _ in range(args.rounds):
            rounds.append(figures(one_round(clients)))
            resident.append(memory(process))
    print(
        json.dumps({"clients": args.clients, "rounds": rounds, "resident_mib": [round(m) for m in resident]})
    )


if __name__ == "__main__":
    main()
