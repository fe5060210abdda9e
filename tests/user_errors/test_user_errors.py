"""Every mistake of the tables: exit code 2, one line that names it, no traceback, and no file written or changed."""

import subprocess
import sys
from pathlib import Path

import pytest
from mistakes import Mistake, check_mistake, name_of
from tables import ROWS
from toy import QUIET, ROOT


@pytest.mark.parametrize("mistake", ROWS, ids=name_of)
def test_a_mistake_gets_one_line_and_changes_nothing(
    mistake: Mistake,
    mistaken_folder: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_mistake(mistake, mistaken_folder, capsys, monkeypatch)


def test_there_are_many_rows() -> None:
    assert len({row.command for row in ROWS}) >= 200


@pytest.mark.parametrize(
    "words, line",
    [
        (["trainer.py", "--dataset", "nosuch"], "error: no prepared dataset in data/nosuch"),
        (
            ["evaluation.py", "--modl", "x"],
            "error: --modl is no flag of evaluation.py: did you mean --model?",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_process_ends_so_too(words: list[str], line: str, tmp_path: Path) -> None:
    script = str(ROOT / words[0])
    done = subprocess.run(
        [sys.executable, script, *words[1:]], capture_output=True, text=True, cwd=tmp_path, env=QUIET
    )
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert done.stdout == "" and list(tmp_path.iterdir()) == []
