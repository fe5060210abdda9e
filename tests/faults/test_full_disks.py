"""Full disks: a warning while the run continues, one line at its end.

The default suite takes a short form; all of it, some minutes:  python -m pytest -m faults
"""

import os
import re
import shutil
import subprocess

import pytest
import torch
from forks import fork
from injected_faults import STAGES, assert_same_run, disk_usage_lies, no_room

import checkpoint
from runtime import errors
from training import state


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_small_disk_that_is_really_full(place, unbroken, tmp_path, fault):
    """A tmpfs with room for one checkpoint and a half: the first is kept, the rest fail, until something is removed."""
    disk, step = tmp_path / "disk", unbroken("P") / "step_000006"
    disk.mkdir()
    room = 200_000 + int(1.7 * sum(path.stat().st_size for path in step.rglob("*") if path.is_file()))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        fault()
        (disk / "ballast").write_bytes(bytes(200_000))
        failed = fork(
            place, save_checkpoint_dir=disk, run_name="small", before=disk_usage_lies, **STAGES["P"]
        )
        assert failed.wait() == [1], failed.said
        assert "warning: the checkpoint of step" in failed.said and "make room, then go on" in failed.said
        assert "Traceback" not in failed.said
        assert [step.name for step in checkpoint.steps(disk / "small")] == ["step_000002"]
        (disk / "ballast").unlink()
        done = fork(
            place,
            "--resume",
            save_checkpoint_dir=disk,
            run_name="small",
            keep_checkpoints=1,
            before=disk_usage_lies,
        )
        assert done.wait() == [0], done.said
        assert_same_run(disk / "small", unbroken("P"))
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_costs_no_more_than_a_warning(place, unbroken):
    """The save of step 4 finds no room, that of step 6 does."""
    done = fork(place, run_name="full", before=no_room(4, 5), **STAGES["P"])
    assert done.wait() == [0], done.said
    assert re.search(
        r"warning: the checkpoint of step 4 could not be written to .*runs/full \(.*\); the newest is "
        r"step_000002: make room; the run continues",
        done.said,
    )
    assert_same_run(place / "runs" / "full", unbroken("P"))
    assert not (place / "runs" / "full" / "step_000004").exists()


def test_a_full_disk_at_the_end_is_one_line_and_the_run_goes_on_from_what_there_was(place, unbroken):
    failed = fork(place, run_name="fuller", before=no_room(5, 6), keep_checkpoints=1, **STAGES["P"])
    assert failed.wait() == [1]
    assert (
        "error: the checkpoint of step 6 could not be written" in failed.said
        and "Traceback" not in failed.said
    )
    assert "the newest is step_000004: make room, then rerun with --resume" in failed.said
    done = fork(place, "--resume", run_name="fuller", keep_checkpoints=1)
    assert done.wait() == [0], done.said
    assert_same_run(place / "runs" / "fuller", unbroken("P"))


def test_too_little_space_is_seen_before_anything_is_written(place, monkeypatch, tmp_path):
    free = shutil.disk_usage(place)._replace(free=1000)
    monkeypatch.setattr(state.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(
        errors.RunError, match=r"step 5 could not .* it needs 0.02 GB, 0.00 GB are free: make room"
    ):
        state.save(tmp_path, state.TrainState(5, 0, 0), torch.nn.Module(), None, {}, {}, {})
    assert not list(tmp_path.iterdir())
