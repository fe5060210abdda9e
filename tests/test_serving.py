"""Exported models behind OpenAI-compatible servers of others, asked by OpenAI's client: pip install ".[serving]"."""

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from exports import call, greedy_text, train_two_runs
from toy import QUIET

import export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("openai", "llama_cpp", "starlette_context")),
        reason='needs pip install ".[serving]"',
    ),
]
START_SECONDS = 120
MESSAGES = [{"role": "user", "content": "Say fox"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Return the folder of a short fine-tuning run."""
    return train_two_runs(tmp_path_factory.mktemp("runs")) / "S-asked"


def transformers_serve(folder: Path) -> list[object]:
    """Return the command of transformers' server on an exported folder."""
    return [Path(sys.executable).with_name("transformers"), "serve", folder, "--device", "cpu"]


def llama_cpp_server(folder: Path) -> list[object]:
    """Return the command of llama.cpp's server on an exported GGUF file."""
    return [sys.executable, "-m", "llama_cpp.server", "--model", next(folder.glob("*.gguf")), "--n_ctx", "0"]


@pytest.fixture
def port() -> int:
    """Return a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def serving(command: list[object], port: int, log: Path) -> Iterator[None]:
    """Run a server until the context ends; wait until it listens."""
    with log.open("w") as output:
        server = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
            env={**QUIET, "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and server.poll() is None:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("flags", "server"),
    [((), transformers_serve), (("--format", "gguf"), llama_cpp_server)],
    ids=["transformers serve", "llama_cpp.server"],
)
def test_the_servers_answer_as_we_do(run, tmp_path, port, flags, server, monkeypatch, capsys) -> None:
    from openai import OpenAI

    folder = tmp_path / "made"
    call(export, monkeypatch, capsys, "--model", run, "--to", folder, *flags)
    for _ in serving(server(folder), port, tmp_path / "log"):
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60, max_retries=3)
        request = {"model": str(folder), "messages": MESSAGES, "temperature": 0, "max_tokens": 30}
        whole = client.chat.completions.create(**request).choices[0].message.content
        parts = client.chat.completions.create(**request, stream=True)
        streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert whole.strip() == streamed.strip() == greedy_text(run).strip(), (tmp_path / "log").read_text()
    assert len(whole) > 10
