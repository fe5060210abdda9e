"""Flags of data.py that do not go together, or change nothing beside the others."""

import prepared
import pytest

command = prepared.command


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--files a.txt --name c --row 2", "--row goes with --show"),
        ("--files a.txt --name c --block_size 8", "--block_size goes with --show"),
        ("--files a.txt --name c --split val", "--split goes with --hub or --show"),
        ("--show c --max_tokens 5", "--max_tokens changes nothing of what --show prints"),
        ("--show c --update", "--update changes nothing of what --show prints"),
        ("--dpo --val_fraction 0.3", "--dpo brings its own validation set"),
        (f"--files a.txt --name {'x' * 300}", "--name is longer than 200 bytes"),
    ],
)
def test_flags_that_change_nothing_are_refused(command, flags: str, words: str) -> None:
    code, _, err = command(*flags.split())
    assert code == 2 and words in err and len(err.splitlines()) == 1
