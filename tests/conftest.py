"""What several tests share: tiny settings, a tiny tokenizer, a tiny prepared dataset. No network, no GPU."""

import faulthandler
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hub import Hub, connect

from config import ModelArgs
from dataprep.shards import FORMAT, ShardWriter, TokenDataset, id_dtype
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.files import write_json
from tokenizer import Tokenizer, byte_level

torch.set_num_threads(1)  # on a few shared cores, tiny matrices are several times faster on one thread


@pytest.fixture(autouse=True)
def watchdog_off() -> Iterator[None]:
    """Stop a watchdog that a run in this process has started: a copy of the process would wait for its lock."""
    yield
    faulthandler.cancel_dump_traceback_later()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The seeds of tests/faults/test_deals.py."""
    parser.addoption("--deal", type=int, action="append", help="play this deal alone (may be repeated)")
    parser.addoption(
        "--deals_seed", type=int, help="the first of the 300 seeds; random where it is not given"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed once; workers of pytest-xdist get the options of the main process."""
    if config.option.deals_seed is None:
        config.option.deals_seed = random.randrange(1_000_000)


@pytest.fixture
def fault(record_property: Callable[[str, object], None]) -> Callable[[], None]:
    """Counts a fault of the test; the end of the report says how many there were, and how many were survived."""
    return lambda: record_property("fault", 1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """N faults, N survived: of a test that failed, all but its last fault were."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and "faults" in report.keywords
    ]
    done = sum(name == "fault" for report in reports for name, _ in report.user_properties)
    if reports:
        seed = terminalreporter.config.getoption("--deals_seed")
        terminalreporter.write_line(f"random deals from --deals_seed {seed}")
        terminalreporter.write_line(
            f"{done} faults, {done - sum(report.failed for report in reports)} survived"
        )


@pytest.fixture
def tiny() -> ModelArgs:
    """Settings of a model that is made and run in milliseconds: grouped queries, no dropout."""
    return ModelArgs(
        embeddings_dims=32,
        no_of_decoder_layers=2,
        no_of_heads=4,
        no_kv_heads=2,
        hidden_dims=48,
        vocab_size=96,
        block_size=32,
        dropout=0.0,
        attn_dropout=0.0,
        device="cpu",
    )


@pytest.fixture
def spread() -> Callable[[Llama], Llama]:
    """Makes a fresh model's weights ten times larger: at the usual 0.02 attention is uniform and logits are flat."""

    def enlarge(model: Llama) -> Llama:
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(10 if weight.dim() == 2 else 1)
        return model

    return enlarge


@pytest.fixture(scope="session")
def env() -> DistributedEnv:
    """One process on the CPU in float32."""
    return DistributedEnv(0, 0, 1, torch.device("cpu"), torch.float32, "test")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """One token for each byte."""
    return byte_level()


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., TokenDataset]:
    """Writes documents, a list for each shard, as one split of a prepared dataset, and opens it.

    Of another kind than text, each document is (ids, what of it is learned).
    """

    def write(
        shards: Iterable[Iterable],
        split: str = "train",
        vocab_size: int = 65536,
        eos_id: int = -1,
        kind: str = "text",
    ) -> TokenDataset:
        folder = tmp_path / f"data-{split}"
        folder.mkdir()
        entries = []
        for index, documents in enumerate(shards):
            writer = ShardWriter(folder, split, index, id_dtype(vocab_size), with_loss_mask=kind != "text")
            for document in documents:
                ids, keep = (document, None) if kind == "text" else map(np.asarray, document)
                writer.add(np.asarray(ids), keep, len(ids), is_complete=True)
            entries.append(writer.close())
        meta = {
            "format": FORMAT,
            "kind": kind,
            "splits": {split: entries},
            "tokenizer": {"vocab_size": vocab_size, "eos_id": eos_id},
        }
        write_json(folder / "meta.json", meta)
        return TokenDataset(folder, split, meta)

    return write


@pytest.fixture
def hub(monkeypatch):
    """Yield a hub that this process writes to and reads from, with a token, without waiting."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with Hub({}) as served, connect(served, monkeypatch):
        yield served
