"""Load test of the demo page: 20 visitors at once, one model on a CPU; failures, waits and memory.

    python benchmarks/page.py --save_checkpoint_dir checkpoints [--clients 20] [--rounds 3]      prints one JSON line

Starts gradio/app.py on this machine, sends requests to it alone, and stops it. A round is one reply for each client.
"""

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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from runtime.command_line import Parser

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def serve_page(checkpoints: str | Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start the page for these runs on a free port; yield its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    with tempfile.TemporaryDirectory() as votes_folder:
        command = [sys.executable, ROOT / "gradio" / "app.py"]
        command += ["--server_port", str(port), "--device", "cpu"]
        command += ["--save_checkpoint_dir", checkpoints, "--votes", f"{votes_folder}/votes.jsonl"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            address = process.stdout.readline().split()[0]
            wait_for_server(address)
            yield address, process
        finally:
            process.terminate()
            process.wait(20)


def wait_for_server(address: str, seconds: float = 60) -> None:
    """Wait until a server answers, or until the time is over: then the first request reports the error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=5).close()
            return
        time.sleep(0.1)


def resident_mib(process: subprocess.Popen) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    kib = int(status.split("VmRSS:")[1].split()[0])
    return kib / 1024


def request_reply(
    client: Client, seed: int, max_length: int, start: threading.Barrier, results: list[dict]
) -> None:
    """Stream one reply; append the times at which it was sent, began and ended, and the error if there is one."""
    start.wait(60)
    result = {"sent": time.perf_counter(), "error": None}
    try:
        settings = {"max_length": max_length, "temperature": 0.8, "top_k": 50, "seed": seed}
        updates = client.submit("Once upon a time", "pretrained", settings, api_name="/look")
        for text, *_ in updates:
            if isinstance(text, str) and text:  # before, only its place in the line
                result.setdefault("first", time.perf_counter())
        result["end"] = time.perf_counter()
    except Exception as error:  # any error of a client is a result of the load test
        result["error"] = repr(error)
    results.append(result)


def run_round(clients: list[Client], max_length: int = 100) -> list[dict]:
    """Send one request from each client at the same moment; return their results."""
    results: list[dict] = []
    start = threading.Barrier(len(clients))
    threads = [
        threading.Thread(target=request_reply, args=(client, seed, max_length, start, results))
        for seed, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return results


def figures(results: list[dict]) -> dict:
    """Return failures, waits for the first token, and the gap between the end of a reply and the next first token."""
    done = [result for result in results if "end" in result]
    done.sort(key=lambda result: result["first"])

    waits = [result["first"] - result["sent"] for result in done]
    durations = [result["end"] - result["first"] for result in done]
    gaps = [later["first"] - earlier["end"] for earlier, later in zip(done, done[1:], strict=False)]
    errors = {result["error"] for result in results if result["error"]}
    return {
        "failures": len(results) - len(done),
        "errors": sorted(errors),
        "first_token_s": {
            "first": round(min(waits), 2),
            "median": round(statistics.median(waits), 2),
            "last": round(max(waits), 2),
        },
        "reply_s": round(statistics.median(durations), 2),
        "next_begins_after_s": [round(min(gaps), 3), round(max(gaps), 3)],
    }


def main() -> None:
    """Start the page, measure, print the figures."""
    parser = Parser(__doc__)
    parser.add_argument("--save_checkpoint_dir", default=ROOT / "checkpoints")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for name in ("clients", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)} must be 1 or more")

    with serve_page(args.save_checkpoint_dir) as (address, process):
        clients = [Client(address, verbose=False) for _ in range(args.clients)]
        # The first request loads the model and is not measured.
        request_reply(clients[0], 0, 100, threading.Barrier(1), [])

        memory = [round(resident_mib(process))]
        rounds = []
        for _ in range(args.rounds):
            rounds.append(figures(run_round(clients)))
            memory.append(round(resident_mib(process)))

    print(json.dumps({"clients": args.clients, "rounds": rounds, "resident_mib": memory}))


if __name__ == "__main__":
    main()
