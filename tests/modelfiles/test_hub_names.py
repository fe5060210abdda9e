"""Which names are repositories of the hub."""

from pathlib import Path

import pytest

from modelfiles.hub_names import is_hub_name


@pytest.mark.parametrize(
    "name, expected",
    [
        ("HuggingFaceTB/SmolLM2-135M", True),
        ("me/a.b-c_1", True),
        ("gpt2", False),
        ("a/b/c", False),
        ("../a", False),
        ("./a", False),
        ("/a/b", False),
        ("a/b c", False),
        ("runs/P-fw", False),  # --save_checkpoint_dir, which is not there yet
        ("here/not-there", False),
        ("here/there", False),
    ],
)
def test_folders_of_this_machine_come_first(
    name: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "there").mkdir(parents=True)
    assert is_hub_name(name, "runs") is expected
