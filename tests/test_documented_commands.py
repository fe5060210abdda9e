"""Each command of README.md and docs/ runs, in the order of the pages, in a copy of the repository: the slow proof.

Flags that make runs small are added to the commands; the files that they name, and a hub with the datasets, are made
here.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import parquet
from guests import CHATML, write_guest, write_random_llama
from hub import Hub
from pages import PAGES, shell_blocks
from toy import ROOT

pytestmark = pytest.mark.slow

# The pages in the order in which a person reads them: later ones use what earlier ones made.
ORDER = ["README.md", "DATA.md", "TRAINING.md", "USING.md", "FAQ.md"]
SCRIPT = re.compile(
    r"\b(?:data|trainer|evaluation|inference_sft|export|download_model_weight|tokenizer|app)\.py\b"
)
SMALL_MODEL = "--embeddings_dims 32 --no_of_heads 4 --no_of_decoder_layers 2 --hidden_dims 48 --block_size 64"
SMALL_RUN = (
    "--device cpu --dtype float32 --no-compile --batch_size 4 --micro_batch_size 2 --total_batch_size 512"
)
FEW_STEPS = (
    "--total_iters 4 --warmup_iters 1 --eval_check 1 --eval_iters 4 --save_checkpoint_iter 2 --max_length 8"
)
QUICKSTART = [
    "python data.py --stories",
    "python trainer.py --preset stories",
    "python trainer.py --preset stories-instruct --init_from checkpoints/P-stories",
    "python trainer.py --preset stories-preference --init_from checkpoints/S-stories_instruct",
]
# Commands that need what a test has not: why they are left out.
LEFT_OUT = {
    "git clone": "the copy is there",
    "install.sh": "tests/test_install.py",
    "source .venv": "the tests' environment is active",
    "pip install": "no network; the page is run without it",
    "--lm_eval": "needs lm-eval",
    "--model_type": "published weights of another shape: tests/test_download_model_weight.py",
    "--nnodes": "several machines: tests/test_elastic.py",
    "transformers serve": "needs the serving extra",
    "app.py --model": "a server: tests/page/",
    "python -m pytest": "these are the tests",
    "export TORCH_": "a variable",
}
WORDS = "the old sea and a small boat went to the hill where a red bird sang all day ".split()


def text(seed: int, words: int = 4000) -> str:
    """Return a text whose words depend on the seed."""
    return " ".join(WORDS[(seed + n * n + n // 7) % len(WORDS)] for n in range(words)) + "."


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def instructions(count: int) -> list[dict]:
    return [
        {"instruction": f"Say {n}", "input": "", "output": f"It is {text(n, 3 + n % 20)}"}
        for n in range(count)
    ]


def pairs(count: int) -> list[dict]:
    return [
        {"prompt": f"Say {n}", "chosen": f"It is {text(n, 5)}", "rejected": f"no {text(n + 1, 5)}"}
        for n in range(count)
    ]


def chats(count: int) -> list[dict]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Say {n}"},
                {"role": "assistant", "content": f"It is {text(n, 5)}"},
            ]
        }
        for n in range(count)
    ]


FINEWEB_CONFIGS = b"""---
configs:
- config_name: default
  data_files: data/*.parquet
- config_name: sample-10BT
  data_files: sample/10BT/*.parquet
---
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with the files that the pages name."""
    folder = tmp_path_factory.mktemp("documented") / "smolllama"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "checkpoints", "data", "build", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)

    (folder / "book.txt").write_text(text(0, 30_000))
    (folder / "tinyshakespeare.txt").write_text(text(1, 30_000))
    (folder / "more.jsonl").write_text(jsonl([{"text": text(n, 200)} for n in range(50)]))
    (folder / "table.parquet").write_bytes(parquet([text(n, 200) for n in range(50)]))
    (folder / "answers.jsonl").write_text(jsonl(instructions(60)))
    (folder / "questions.jsonl").write_text(
        jsonl([{"prompt": row["instruction"]} for row in instructions(5)])
    )
    write_guest(folder / "FOLDER", CHATML, as_file=True)
    write_random_llama(folder / "FOLDER")
    for name in ("pairs.jsonl", "votes.jsonl"):
        (folder / name).write_text(jsonl(pairs(60)))
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Serve the named datasets."""
    texts = parquet([text(n, 300) for n in range(200)])
    stories = {"data/train-0.parquet": texts, "data/validation-0.parquet": parquet([text(9, 300)] * 4)}
    preferences = jsonl(pairs(80))
    repos = {
        "HuggingFaceFW/fineweb": {
            "README.md": FINEWEB_CONFIGS,
            "data/000.parquet": texts,
            "sample/10BT/000.parquet": texts,
        },
        "HuggingFaceFW/fineweb-edu": {"sample/10BT/000.parquet": texts},
        "karpathy/climbmix-400b-shuffle": {"shard_00000.parquet": texts, "shard_06542.parquet": texts},
        "karpathy/tiny_shakespeare": {
            f"default/{split}/0000.parquet": texts for split in ("train", "validation", "test")
        },
        "HuggingFaceTB/smol-smoltalk": {
            f"data/{split}-0.parquet": preference_table(jsonl(chats(80))) for split in ("train", "test")
        },
        "roneneldan/TinyStories": stories,
        "yahma/alpaca-cleaned": {"alpaca_data_cleaned.json": json.dumps(instructions(200)).encode()},
        "trl-lib/ultrafeedback_binarized": {
            f"data/{split}-0.parquet": preference_table(preferences) for split in ("train", "test")
        },
    }
    with Hub(repos) as hub:
        yield hub


def preference_table(rows: str) -> bytes:
    """Return the rows, JSON lines, as a Parquet file."""
    import io

    import pyarrow.json
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.json.read_json(io.BytesIO(rows.encode())), file)
    return file.getvalue()


def small(command: str) -> str:
    """Return a command with smaller sizes."""
    command = command.replace("--nproc_per_node=gpu", "--nproc_per_node=1")
    if "trainer.py" not in command:
        return command

    flags = f"{SMALL_RUN} {FEW_STEPS}"
    if "--micro_batch_size" in command:
        flags = flags.replace("--micro_batch_size 2", "")
    if "--total_iters" in command:
        command = re.sub(r"--total_iters \d+", "--total_iters 40", command)
        flags = flags.replace("--total_iters 4", "")
    if "--budget" in command:
        command = re.sub(r"--budget \w+", "--budget 1m", command)
        flags = f"{SMALL_RUN} --device cpu"
    if "--init_from" not in command and "--resume" not in command:
        flags += f" {SMALL_MODEL}"
    return f"{command} {flags}"


def run(command: str, folder: Path, hub: Hub) -> str:
    """Run a shell command as a person would, at most two minutes. Return what went wrong, or ""."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "cache"),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "WANDB_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        input="Hello\nWhat is it?\n",
        capture_output=True,
        text=True,
        timeout=180,
    )
    if done.returncode or "Traceback" in done.stderr:
        return f"{command}\nexit code {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"
    return ""


def commands_of(page: str) -> list[str]:
    (path,) = (path for path in PAGES if path.name == page)
    lines = shell_blocks(path.read_text(encoding="utf-8")).splitlines()
    return [
        line.strip() for line in lines if SCRIPT.search(line) and not any(part in line for part in LEFT_OUT)
    ]


@pytest.mark.parametrize("page", ORDER)
def test_commands_of_a_page_run(page: str, copy: Path, hub: Hub) -> None:
    if page == "README.md":
        for command in QUICKSTART:
            assert not run(small(command), copy, hub)
    commands = commands_of(page)
    assert len(commands) >= 5
    failures = [failure for command in commands if (failure := run(small(command), copy, hub))]
    assert not failures, "\n\n".join(failures)


def test_no_page_with_commands_is_forgotten() -> None:
    with_commands = {path.name for path in PAGES if commands_of(path.name)}
    assert with_commands - {"CONTRIBUTING.md"} == set(ORDER)


def test_what_is_left_out_is_in_the_pages() -> None:
    everything = "\n".join(shell_blocks(path.read_text(encoding="utf-8")) for path in PAGES)
    assert [part for part in LEFT_OUT if part not in everything] == []


def test_reads_flags_as_a_shell_does() -> None:
    assert all(shlex.split(command, comments=True) for page in ORDER for command in commands_of(page))
