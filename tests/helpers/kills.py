"""Places where a training process kills itself, as functions that arm it; and comparisons of finished runs.

A subprocess is armed by `trainer(folder, code=in_subprocess("in_step", 4))`, a forked one by `before=`.
"""

import os
import signal
from pathlib import Path

import torch
from safetensors.torch import load_file
from toy import metrics


def die() -> None:
    """Kill this process as the system would."""
    os.kill(os.getpid(), signal.SIGKILL)


def signal_in_step(number: int, step: int) -> None:
    """Send a signal to this process at the start of a step."""
    import trainer

    real, calls = trainer.train_step, [0]

    def train_step(*args: object) -> object:
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), number)
        return real(*args)

    trainer.train_step = train_step


def in_step(step: int = 4) -> None:
    """Kill at the start of a step."""
    signal_in_step(signal.SIGKILL, step)


def in_writing_the_optimizer(call: int = 3) -> None:
    """Kill with half of a file of the training state written: two files a checkpoint."""
    real, calls = torch.save, [0]

    def save(value: object, path: Path) -> None:
        calls[0] += 1
        if calls[0] == call:
            path.write_bytes(b"half")
            die()
        real(value, path)

    torch.save = save


def before_latest(step: int = 4) -> None:
    """Kill after the folder of a step has its name and before `latest` names it."""
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name == "latest.tmp" and self.read_text() == f"step_{step:06d}":
            die()
        return real(self, target)

    Path.replace = replace


def in_pruning(step: int = 2) -> None:
    """Kill when some files of an old step are removed and others are not."""
    import shutil

    real = shutil.rmtree

    def rmtree(path: Path, *args: object, **options: object) -> None:
        if path.name == f".step_{step:06d}.old" and path.exists():
            next(path.glob("*.safetensors")).unlink()
            die()
        real(path, *args, **options)

    shutil.rmtree = rmtree


def in_writing_the_reference() -> None:
    """Kill with a part of DPO's reference table written."""
    from training import reference_table

    real = reference_table.np.save

    def save(file, table) -> None:
        real(file, table[:9])
        file.flush()
        die()

    reference_table.np.save = save


# (where, how the process is armed, the newest step that stays complete)
KILLS = [
    ("in the middle of step 4", in_step, 2),
    ("while the optimizer of step 4 is being written", in_writing_the_optimizer, 2),
    ("after the folder of step 4 has its name and before `latest` names it", before_latest, 2),
    ("while step 2 is being pruned", in_pruning, 4),
]


def in_subprocess(name: str, *arguments: object) -> str:
    """Return Python that arms a subprocess with a function of this file."""
    return f"sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport kills\nkills.{name}(*{arguments!r})"


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights of step 6."""
    return load_file(run / "step_000006" / "model.safetensors")


def same_run(a: Path, b: Path) -> bool:
    """Check whether two finished runs have the same weights and the same metrics, bit for bit."""
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys() and len(left) > 10
    timeless = [
        [
            {k: v for k, v in row.items() if k not in ("tokens_per_second", "mfu")}
            for row in metrics(run, split)
        ]
        for run in (a, b)
        for split in ("train", "val")
    ]
    return all(torch.equal(left[name], right[name]) for name in left) and timeless[:2] == timeless[2:]
