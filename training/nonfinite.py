"""What becomes of steps whose loss or gradient is not a number: left out, then the way back, then the end.

Nothing of such a step reaches the weights. After --skip_limit of them in a row the run goes back to the last checkpoint
from before them and passes over their rows; if that is no cure, it stops. All of it is decided from figures that all
ranks share, and is kept in the checkpoints, so a resumed run decides alike.
"""

from dataclasses import dataclass, field
from pathlib import Path

from checkpoint import steps
from dataloader.loader import Loader
from runtime.distributed import DistributedEnv, gather_objects
from runtime.errors import RunError
from training.state import load_state


class NotFinite(Exception):
    """A step whose loss or gradient is not a number; `micro_steps` of this rank had such a loss."""

    def __init__(self, loss: float, norm: float, micro_steps: list[int]):
        super().__init__(f"loss {loss}, gradient norm {norm}")
        self.micro_steps = micro_steps


@dataclass
class SkipState:
    """What was left out so far; kept in each checkpoint as it stood then."""

    in_a_row: int = 0
    first: int = 0  # position in the data at which the steps that failed in a row begin
    returned_to: list[int] = field(default_factory=list)  # steps whose checkpoint was gone back to
    left_out: list[list[int]] = field(
        default_factory=list
    )  # (first, count): rows that are passed over, see Loader

    def add(self, first: int) -> None:
        """Count a step that failed; its rows begin at a position in the data."""
        self.first = self.first if self.in_a_row else first
        self.in_a_row += 1

    def rollback_target(self, run: Path, end: int, remedy: str) -> Path:
        """The newest checkpoint from before the steps that failed in a row, whose rows up to `end` are now left out.

        Raises RunError when there is none, or when the run has gone back to it before.
        """
        sound = [folder for folder in steps(run) if not load_state(folder)[1]["skips"]["in_a_row"]]
        if not sound:
            raise RunError(
                f"{self.in_a_row} steps in a row were not finite and there is no checkpoint to go back to: "
                f"{remedy}"
            )
        step = load_state(sound[-1])[0].step
        if step in self.returned_to:
            raise RunError(
                f"{self.in_a_row} steps in a row were not finite, again after going back to {sound[-1].name}"
                f": go on from there with --resume and {remedy}"
            )
        self.returned_to.append(step)
        self.left_out.append([self.first, end - self.first])
        self.in_a_row = 0
        return sound[-1]


def where(fault: NotFinite, loader: Loader, first: int, env: DistributedEnv) -> str:
    """The rows of a failed step that begins at a position in the data, and the micro-batches that are to blame."""
    size = loader.batch_size
    places = [
        (i * env.world_size + rank) * size + first
        for rank, micro_steps in enumerate(gather_objects(fault.micro_steps))
        for i in micro_steps
    ]
    rows = [f"{loader.row_index(place)} to {loader.row_index(place + size - 1)}" for place in sorted(places)]
    blamed = f", not finite in rows {', '.join(rows)}" if rows else ", with a finite loss in each micro-batch"
    last = loader.row_index(loader.rows_consumed - 1)
    return f"{fault} in rows {loader.row_index(first)} to {last}{blamed}"
