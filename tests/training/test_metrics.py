"""The record of a run: rows on disk whatever happens."""

import json
import resource
from pathlib import Path

import pytest

from training.metrics import Metrics, read_metrics


@pytest.mark.parametrize("line", [b'{"step": 2, "spl', b"5", b'{"a": 1}', b"null", b"\xff\xfe"])
def test_rows_end_at_the_first_line_that_is_not_whole(tmp_path: Path, line: bytes) -> None:
    good = b'{"step": 1, "split": "train", "loss": 2.5}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n" + good)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "split": "train", "loss": 2.5}]


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, "disabled", {})
    metrics.write(1, "train", {"loss": 2.5, "tokens": 100})
    metrics.write(1, "val", {"loss": 2.0, "tokens": 100})
    rows = [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]  # before the end
    assert (
        rows
        == [
            {"step": 1, "split": "train", "loss": 2.5, "tokens": 100},
            {"step": 1, "split": "val", "loss": 2.0, "tokens": 100},
        ]
        == read_metrics(tmp_path / "metrics.jsonl")
    )
    metrics.close()


def test_rows_wait_for_room_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """No file may grow past 100 bytes for three rows: a row is written in part, the rest and the next ones later."""
    metrics, path = Metrics(tmp_path, "disabled", {}), tmp_path / "metrics.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    metrics.write(1, "train", {"loss": 1.0, "tokens": 100})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        for step in (2, 3, 4):
            metrics.write(step, "train", {"loss": 1.0, "tokens": 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == 100 and [row["step"] for row in read_metrics(path)] == [1]
    metrics.write(5, "train", {"loss": 1.0, "tokens": 100})
    metrics.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "rows wait for room; the run continues" in said


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    rows = [{"step": 1, "split": "train"}, {"step": 2, "split": "val"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    assert read_metrics(path) == rows


def test_a_resumed_run_forgets_what_it_makes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(tmp_path, "disabled", {})
    for step in range(1, 6):
        metrics.write(step, "train", {"loss": float(step)})
    metrics.close()
    with path.open("a") as file:
        file.write('{"step": 6, "spl')
    metrics = Metrics(tmp_path, "disabled", {}, resume_step=3)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    metrics.write(4, "train", {"loss": 0.5})
    metrics.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 0.5),
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
