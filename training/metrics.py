"""The record of a run: metrics.jsonl in its folder, and an outside service beside it."""

import json
import math
import sys
from pathlib import Path

from runtime.files import write_text
from training.tracker import start_tracker


class Metrics:
    """Metrics of a run: rows of <run>/metrics.jsonl, which a tracker sends to an outside service, too."""

    def __init__(self, run: Path, wandb: str, settings: dict, resume_step: int = 0, tracker: str = "wandb"):
        self.path = run / "metrics.jsonl"
        self.file = None
        self.warned = False
        self.go_back(resume_step)
        self.tracker = start_tracker(run, tracker, wandb, settings)

    def go_back(self, step: int) -> None:
        """Drop a line cut off by a kill, and rows past the checkpoint that is resumed: their steps are repeated."""
        if self.file:
            self.file.close()
        self.unwritten = b""
        if self.path.is_file():
            rows = [row for row in read_metrics(self.path) if row["step"] <= step]
            write_text(self.path, "".join(_to_line(row) for row in rows))
        self.file = self.path.open("ab", buffering=0)

    def write(self, step: int, split: str, values: dict) -> None:
        """Append one row: {"step", "split", ...}; a number that is not finite is null, since JSON has no NaN."""
        self.unwritten += _to_line({"step": step, "split": split, **values}).encode()
        try:
            # What finds no room on the disk now is written later: no line is lost or cut.
            while self.unwritten:
                self.unwritten = self.unwritten[self.file.write(self.unwritten) :]
            self.warned = False
        except OSError as error:
            if not self.warned:
                print(
                    f"{self.path} cannot be written ({error.strerror}): rows wait for room; the run continues",
                    file=sys.stderr,
                )
            self.warned = True
        if self.tracker:
            self.tracker.log(step, {f"{split}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Close the file and end the run in the outside service."""
        self.file.close()
        if self.tracker:
            self.tracker.finish()


def _to_line(row: dict) -> str:
    """Return a row as a line of JSON."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict]:
    """Return the rows of a metrics.jsonl up to the first incomplete line, as a kill may leave it; null is NaN."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if row["step"] >= 0 and row["split"]:
                rows.append({name: math.nan if value is None else value for name, value in row.items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            break
    return rows


def comparable_loss(row: dict) -> float:
    """Return the validation loss of a row that can be compared with those of all other rows of its run.

    Evaluations of all rows hold, beside their loss, that of the rows of the other evaluations.
    """
    return row.get("sample_loss", row["loss"])
