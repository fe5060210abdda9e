"""Kills at any moment of a preparation, and a hub that stumbles: nothing is lost.  python -m pytest -m faults"""

import json
import os
import random
import shutil
import signal
import time

import corpus_hub
import pytest
from examples import TEXTS, Inline, files
from forks import Forked, start
from injected_faults import dies_at_write

import data
from dataprep import prepare, registry, shards, worker

stumbling = corpus_hub.server  # the fixture: a hub on this machine


@pytest.mark.faults
def test_twenty_kills_of_a_preparation_change_nothing(tmp_path, fault):
    """At a write or after a time; also a shard's, and while shards are taken in."""
    corpus, rng = tmp_path / "rows.jsonl", random.Random(7)
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def prepared(data_dir, *words, kill=None, log=tmp_path / "log.txt"):
        def before():
            prepare.ProcessPoolExecutor, worker._end_with_main = Inline, lambda: None
            registry.unit_bytes = lambda total: 3_000
            if kill and kill < 0:
                dies_at_write(-kill)(0)

        log.touch()
        words = [
            "--files",
            str(corpus),
            "--name",
            "mine",
            "--tokenizer",
            "bytes",
            "--data_dir",
            str(data_dir),
            *words,
        ]
        process = Forked([start(log, data.main, words, {}, before)], log)
        if kill and kill > 0:
            time.sleep(kill)
            os.kill(process.pids[0], signal.SIGKILL)
        return process.wait()[0]

    assert prepared(tmp_path / "whole") == 0
    for number in range(20):
        fault()
        words = ["--shard", f"{number % 2 + 1}/2"] if number < 10 else []
        assert prepared(
            tmp_path / "data", *words, kill=rng.uniform(0.05, 0.5) if number % 3 else -rng.randint(5, 90)
        ) in (0, -signal.SIGKILL)
        if (tmp_path / "data" / "mine").is_dir():
            assert files(tmp_path / "data" / "mine") == files(tmp_path / "whole" / "mine")
            shutil.rmtree(tmp_path / "data" / "mine")
    assert prepared(tmp_path / "data") == 0
    assert files(tmp_path / "data" / "mine") == files(tmp_path / "whole" / "mine")
    shards.verify_dataset(tmp_path / "data" / "mine")


@pytest.mark.faults
@pytest.mark.parametrize("what", corpus_hub.FAULTS)
def test_the_hub_stumbles_and_nothing_is_lost(stumbling, fault, what):
    match, how = corpus_hub.FAULTS[what]
    stumbling.fault(match, **how)
    fault()
    assert corpus_hub.read() == corpus_hub.ROWS
