"""Windows: every module can be imported, data can be prepared, a model trained and resumed.

Elsewhere it is a stand-in, a process without what only POSIX systems have. Nobody has run this on Windows yet.
"""

import json
import subprocess
import sys
from pathlib import Path

from toy import QUIET, ROOT, TINY, flags, toy_text

PROGRAM = ROOT / "tests" / "helpers" / "without_posix.py"
NO_LOCK = "cannot be locked (this system has no file locks): make sure that no other process writes there"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the stand-in in a folder."""
    command = [sys.executable, str(PROGRAM), *map(str, words)]
    result = subprocess.run(command, cwd=folder, env=QUIET, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result


def test_every_module_is_imported(tmp_path: Path) -> None:
    folders = "runtime generation stories dataprep dataloader training publishing".split()
    modules = [path.stem for folder in (ROOT, ROOT / "gradio") for path in folder.glob("*.py")]
    modules += [f"{folder}.{path.stem}" for folder in folders for path in (ROOT / folder).glob("[!_]*.py")]
    assert len(modules) > 50
    assert run(tmp_path, *modules).stdout == f"{len(modules)}\n"


def test_data_is_prepared_and_a_model_trained(tmp_path: Path) -> None:
    rows = [json.dumps({"text": text}) + "\n" for text in toy_text(200, 1)]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    words = ("--files", "corpus.jsonl", "--name", "mine", "--kind", "text", "--num_proc", 2)
    prepared = run(tmp_path, "data.py", *words, "--tokenizer", "bytes")
    assert NO_LOCK in prepared.stderr
    assert b"\r" not in (tmp_path / "data" / "mine" / "SHA256SUMS").read_bytes()

    settings = {**TINY, "dataset": "mine", "total_iters": 4, "eval_iters": 4, "save_checkpoint_iter": 2}
    plan = run(tmp_path, "trainer.py", *flags(settings), "--dry_run")
    assert "mine" in plan.stdout
    assert not (tmp_path / "checkpoints").exists()

    trained = run(tmp_path, "trainer.py", *flags(settings))
    assert NO_LOCK in trained.stderr
    assert (tmp_path / "checkpoints" / "P-mine" / "step_000004" / "model.safetensors").is_file()
    resumed = run(tmp_path, "trainer.py", *flags({**settings, "total_iters": 6}), "--resume")
    assert (tmp_path / "checkpoints" / "P-mine" / "step_000006").is_dir(), resumed.stderr
