"""Steps whose loss or gradient is not a number: skip the step, then roll back, then stop.

Nothing of such a step reaches the weights. After --skip_limit of them in a row the run rolls back to the last
checkpoint from before them and skips their rows; if that does not help, it stops. All of it is decided from values
that all ranks share, and is kept in the checkpoints, so a resumed run decides alike.
"""

from dataclasses import dataclass, field
from pathlib import Path

from dataloader.loader import Loader
from runtime.distributed import DistributedEnv, gather_objects
from runtime.errors import RunError
from training.state import load_state, newest_sound_step

# Names on disk, in state.json, where they differ from the fields.
NAMES_ON_DISK = {"rollbacks": "returned_to", "skipped_ranges": "left_out"}


class NotFinite(Exception):
    """Step whose loss or gradient is not a number; `micro_steps` are those of this rank with such a loss."""

    def __init__(self, loss: float, norm: float, micro_steps: list[int]):
        super().__init__(f"loss {loss}, gradient norm {norm}")
        self.micro_steps = micro_steps


@dataclass
class SkipState:
    """Steps skipped so far; each checkpoint keeps it as it was then."""

    in_a_row: int = 0
    first: int = 0  # position in the data at which the failed steps in a row begin
    rollbacks: list[int] = field(default_factory=list)  # steps whose checkpoint was rolled back to
    skipped_ranges: list[list[int]] = field(default_factory=list)  # (first, count) of rows, see Loader

    @classmethod
    def from_dict(cls, stored: dict) -> "SkipState":
        """Return the state that state.json holds; a new one from an empty dict."""
        names = {on_disk: name for name, on_disk in NAMES_ON_DISK.items()}
        return cls(**{names.get(name, name): value for name, value in stored.items()})

    def to_dict(self) -> dict:
        """Return what state.json holds."""
        return {NAMES_ON_DISK.get(name, name): value for name, value in vars(self).items()}

    def add(self, first: int) -> None:
        """Count a failed step whose rows begin at a position in the data."""
        if not self.in_a_row:
            self.first = first
        self.in_a_row += 1

    def rollback_target(self, run: Path, end: int, remedy: str) -> Path:
        """Return the newest checkpoint from before the failed steps, and skip their rows, up to `end`, from now on.

        Raises RunError when there is none, or when the run has rolled back to it before.
        """
        target = newest_sound_step(run)
        if not target:
            raise RunError(
                f"{self.in_a_row} steps in a row were not finite and there is no checkpoint to roll back to: "
                f"{remedy}"
            )

        step = load_state(target)[0].step
        if step in self.rollbacks:
            raise RunError(
                f"{self.in_a_row} steps in a row were not finite, again after a rollback to {target.name}: "
                f"resume from there with --resume and {remedy}"
            )
        self.rollbacks.append(step)
        self.skipped_ranges.append([self.first, end - self.first])
        self.in_a_row = 0
        return target


def describe_rows(fault: NotFinite, loader: Loader, first: int, env: DistributedEnv) -> str:
    """Name the rows of a failed step that begins at a position in the data, and of its micro-batches without a loss."""
    size = loader.batch_size
    positions = sorted(
        (micro_step * env.world_size + rank) * size + first
        for rank, micro_steps in enumerate(gather_objects(fault.micro_steps))
        for micro_step in micro_steps
    )
    blamed = ", with a finite loss in each micro-batch"
    if positions:
        ranges = [f"{loader.row_index(p)} to {loader.row_index(p + size - 1)}" for p in positions]
        blamed = f", not finite in rows {', '.join(ranges)}"

    last = loader.row_index(loader.rows_consumed - 1)
    return f"{fault} in rows {loader.row_index(first)} to {last}{blamed}"
