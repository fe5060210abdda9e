"""The scripts as a user calls them, through their command lines: data, trainer, evaluation, inference."""

import json
import math
import subprocess
import sys

import pytest
from toy import QUIET, ROOT, TINY, flags, toy_text


def script(folder, name, *words, piped=""):
    """Run a script in a folder, with a text on its stdin; returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env=QUIET,
        input=piped,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where corpus.txt was prepared and trained on."""
    tmp = tmp_path_factory.mktemp("scripts")
    (tmp / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in toy_text(800, 1)))
    script(tmp, "data.py", "--files", "corpus.jsonl", "--name", "mine", "--kind", "text", "--num_proc", 2)
    settings = {**TINY, "dataset": "mine", "total_iters": 30, "eval_iters": 30, "save_checkpoint_iter": 30}
    script(tmp, "trainer.py", *flags(settings))
    return tmp


def test_gpt2_bpe_corpus_trains_through_the_command_line(folder):
    meta = json.loads((folder / "data" / "mine" / "meta.json").read_text())
    assert meta["tokenizer"]["name"] == "gpt2" and meta["tokenizer"]["vocab_size"] == 50257
    config = json.loads((folder / "checkpoints" / "P-mine" / "step_000030" / "config.json").read_text())
    assert config["vocab_size"] == 50304


def test_evaluation_prints_one_json_object(folder):
    words = ("--model", "checkpoints/P-mine", "--dataset", "mine", "--json", "--device", "cpu")
    done = script(folder, "evaluation.py", *words)
    result = json.loads(done.stdout)
    assert result["loss"] < math.log(50304) - 1
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    val = json.loads((folder / "data" / "mine" / "meta.json").read_text())["splits"]["val"]
    assert result["tokens"] == sum(shard["tokens"] for shard in val) - 1
    nats = result["loss"] * result["tokens"]
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(shard["bytes"] for shard in val))


def test_completion_alone_goes_to_stdout(folder):
    words = ("--model", "checkpoints/P-mine", "--prompt", "the old fox", "--max_length", 8, "--device", "cpu")
    greedy = [script(folder, "inference_sft.py", *words, "--temperature", 0) for _ in range(2)]
    assert (
        greedy[0].stdout == greedy[1].stdout and greedy[0].stdout.endswith("\n") and len(greedy[0].stdout) > 4
    )
    assert "tokens/s" in greedy[0].stderr and "the old fox" not in greedy[0].stdout.splitlines()[0][:3]
    sampled = [
        script(folder, "inference_sft.py", *words, "--temperature", 1.5, "--seed", seed) for seed in (1, 1, 2)
    ]
    assert sampled[0].stdout == sampled[1].stdout != sampled[2].stdout


def test_prompts_come_from_stdin_and_conversations_line_by_line(folder):
    words = ("--model", "pretrained", "--max_length", 8, "--device", "cpu", "--temperature", 0)
    given = script(folder, "inference_sft.py", *words, "--prompt", "the old fox", piped="not this")
    assert "continues the text" in given.stderr
    piped = script(folder, "inference_sft.py", *words, piped="the old fox\n")
    assert piped.stdout == given.stdout
    chat = script(folder, "inference_sft.py", *words, "--chat", piped="the old fox\n\nand the boat\n")
    assert chat.stdout.startswith(given.stdout) and len(chat.stdout.splitlines()) >= 2
    assert chat.stderr.count("tokens/s") == 2
    begun = script(
        folder, "inference_sft.py", *words, "--chat", "--prompt", "the old fox", piped="and the boat\n"
    )
    assert begun.stdout == chat.stdout
