"""Every mistake of the tables: exit code 2, one line that names it, no traceback, and no file written or changed."""

from pathlib import Path

import pytest
from mistakes import Mistake, check_mistake, name_of
from tables import ROWS


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
