"""benchmarks/gpu.py: it runs on a CPU in small, and says what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy import QUIET, ROOT

PROGRAM = ROOT / "benchmarks" / "gpu.py"


def gpu(*words: str) -> subprocess.CompletedProcess:
    """Run the program in small."""
    return subprocess.run(
        [sys.executable, PROGRAM, "--tiny", *words], capture_output=True, text=True, env=QUIET, cwd=ROOT
    )


def test_the_parts_run_in_small(tmp_path: Path) -> None:
    done = gpu("where", "attention", "head", "sync", "decode", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["wrong"] == [] and list(figures)[1:] == ["where", "attention", "head", "sync", "decode"]
    errors = [value for name, (value, _) in figures["attention"].items() if name.startswith("error")]
    assert len(errors) == 32 and 0 < max(errors) < 1e-4


@pytest.mark.slow
def test_a_step_and_the_stages_run_in_small() -> None:
    done = gpu("step", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"tokens/s, compiled, documents", "tokens/s, transformers, eager"} <= figures["step"].keys()
    assert {"last losses, D, float32, minus CPU's"} <= figures["train"].keys()


def test_an_unknown_part_is_refused_in_a_line() -> None:
    done = gpu("nonsense")
    assert done.returncode == 2 and "no such part: nonsense" in done.stderr


def test_what_is_wrong_is_listed() -> None:
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import gpu; report = gpu.Report(); report.begin('head');"
        "report.add('error', 0.5, 'below 0.1', holds=False); print(report.wrong)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "WRONG" in done.stdout and "['head: error']" in done.stdout
