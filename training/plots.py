"""Loss curves of runs, from metrics.jsonl.

python -m training.plots --runs checkpoints/P-stories checkpoints/S-stories_instruct --to curves.png   side by side
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("matplotlib")

from collections.abc import Sequence
from pathlib import Path

from config import Parser
from runtime.errors import UserError, run_cli
from training.metrics import read_metrics


def loss_curves(folder: Path) -> Path:
    """Draw training and validation loss over tokens to <run>/loss_curves.png; return the picture's path."""
    return draw([folder], folder / "loss_curves.png")


def draw(runs: Sequence[Path], picture: Path) -> Path:
    """Draw the loss curves of runs side by side, of DPO runs also the accuracy; return the picture's path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only one rank draws
    from matplotlib.figure import Figure

    width = 8 if len(runs) == 1 else 5 * len(runs)
    figure = Figure(figsize=(width, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, folder in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        _panel(axes, folder)
    temporary = picture.with_name(picture.stem + ".tmp.png")
    figure.savefig(temporary, dpi=120)
    temporary.replace(picture)
    return picture


def _panel(axes, folder: Path) -> None:
    """Draw the curves of one run."""
    rows = read_metrics(folder / "metrics.jsonl")
    _curve(axes, rows, "train", "loss", "train", alpha=0.6, linewidth=1)
    _curve(axes, rows, "val", "loss", "val", marker="o", markersize=3)
    _curve(axes, rows, "val", "accuracy", "val accuracy", linestyle="--")

    unit = "pair" if any("accuracy" in row for row in rows) else "token"
    axes.set(title=folder.name, xlabel="tokens", ylabel=f"loss (nats per {unit})")
    axes.grid(alpha=0.3)
    axes.legend()


def _curve(axes, rows: list[dict], split: str, name: str, label: str, **style: object) -> None:
    """Draw one value of the rows of a split over tokens, with its last value in the legend."""
    points = [(row["tokens"], row[name]) for row in rows if row["split"] == split and name in row]
    if points:
        tokens, values = zip(*points, strict=True)
        axes.plot(tokens, values, label=f"{label}: {values[-1]:.3f} at the end", **style)


def main() -> None:
    """Draw the curves of the given runs."""
    parser = Parser(__doc__)
    parser.add_argument("--runs", nargs="+", required=True, metavar="DIR", help="run folders")
    parser.add_argument(
        "--to", default="curves.png", metavar="FILE", help="picture to write (default: curves.png)"
    )
    args = parser.parse_args()
    if missing := [name for name in args.runs if not (Path(name) / "metrics.jsonl").is_file()]:
        raise UserError(f"{missing[0]} is not a run folder (metrics.jsonl is missing)")
    picture = Path(args.to)
    if picture.suffix != ".png" or picture.is_dir() or not picture.parent.is_dir():
        raise UserError(f"--to {picture} must be a file that ends in .png, in a folder that is there")
    print(draw([Path(name) for name in args.runs], picture))


if __name__ == "__main__":
    run_cli(main)
