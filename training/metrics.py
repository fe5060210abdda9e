"""The record of a run: metrics.jsonl in its folder, and Weights & Biases where it can be had."""

import json
import math
import os
import sys
from pathlib import Path

from runtime.files import write_text

FINISH_SECONDS = 60  # how long the end of a run waits for wandb
WANDB_ID = "wandb_id"  # file of a run's folder: a resumed run stays one run of wandb


class Metrics:
    """Metrics of a run: rows of <run>/metrics.jsonl, sent to wandb too; wandb never stops a run."""

    def __init__(self, run: Path, wandb: str, settings: dict, resume_step: int = 0):
        self.path = run / "metrics.jsonl"
        self.file = None
        self.warned = False
        self.go_back(resume_step)
        self.wandb = None
        if (mode := wandb_mode(wandb)) != "disabled":
            self.wandb = _start_wandb(run, mode, settings)

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
        self._call_wandb("log", {f"{split}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Close the file and finish the wandb run."""
        self.file.close()
        self._call_wandb("finish")

    def _call_wandb(self, method: str, *values: dict, **options: int) -> None:
        if self.wandb:
            try:
                getattr(self.wandb, method)(*values, **options)
            except Exception as error:  # an optional service: none of its errors may stop training
                print(f"wandb stopped ({type(error).__name__}: {error}); the run continues", file=sys.stderr)
                self.wandb = None


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
        except (ValueError, TypeError, KeyError):
            break
    return rows


def comparable_loss(row: dict) -> float:
    """Return the validation loss of a row that can be compared with those of all other rows of its run.

    Evaluations of all rows hold, beside their loss, that of the rows of the other evaluations.
    """
    return row.get("sample_loss", row["loss"])


def wandb_mode(flag: str) -> str:
    """Return online, offline or disabled: --wandb if typed, else WANDB_MODE; auto where neither decides."""
    if flag != "auto":
        return flag
    # The modes that wandb documents, and their names in its earlier versions.
    known = {
        "online": "online",
        "run": "online",
        "offline": "offline",
        "dryrun": "offline",
        "disabled": "disabled",
    }
    return known.get(os.environ.get("WANDB_MODE", ""), "auto")


def _start_wandb(run: Path, mode: str, settings: dict):
    """Return a wandb run, or None with a line that says why; never prompts, never waits long."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or it would send something when offline, too
    try:
        import wandb  # seconds to import, and only one rank logs

        if mode != "offline" and not wandb.login(prompt=False, verify=False):
            if mode == "online":
                print(
                    "not logged in to wandb, so it records offline (to change that: wandb login)",
                    file=sys.stderr,
                )
            mode = "offline"
        # At the end, what could not be sent to a server that is gone stays on disk, for `wandb sync`.
        quiet = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=30,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
            x_disable_stats=True,
        )
        wandb_run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "smolllama"),
            name=os.environ.get("WANDB_NAME", run.name),
            id=_read_wandb_id(run),
            resume="allow",
            dir=run,
            config=settings,
            settings=quiet,
            mode="offline" if mode == "offline" else "online",
        )
        write_text(run / WANDB_ID, wandb_run.id)
        return wandb_run
    except Exception as error:  # an optional service: its faults, of any kind, must not stop training
        reason = " ".join(str(error).split())
        print(
            f"wandb is off ({type(error).__name__}: {reason}); metrics are in {run / 'metrics.jsonl'}",
            file=sys.stderr,
        )
        return None


def _read_wandb_id(run: Path) -> str | None:
    """Return the id under which wandb knows a run that is resumed; None lets wandb choose one."""
    path = run / WANDB_ID
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None
