"""Pictures of runs: their loss curves, from metrics.jsonl.

python -m training.plots --runs checkpoints/P-stories checkpoints/S-stories_instruct --to curves.png   side by side
"""

from collections.abc import Sequence
from pathlib import Path

from config import Parser
from runtime.errors import UserError, run_cli
from training.metrics import read_metrics


def loss_curves(folder: Path) -> Path:
    """Draw training and validation loss over the tokens seen to <run>/loss_curves.png; returns the picture."""
    return draw([folder], folder / "loss_curves.png")


def draw(runs: Sequence[Path], picture: Path) -> Path:
    """Draw the loss curves of runs side by side; of preference runs also the accuracy. Returns the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only one rank draws
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8 if len(runs) == 1 else 5 * len(runs), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, folder in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        _panel(axes, folder)
    temporary = picture.with_name(picture.stem + ".tmp.png")
    figure.savefig(temporary, dpi=120)
    temporary.rename(picture)
    return picture


def _panel(axes, folder: Path) -> None:
    rows = read_metrics(folder / "metrics.jsonl")
    pairs = any("accuracy" in row for row in rows)
    for split, style in (
        ("train", {"alpha": 0.6, "linewidth": 1}),
        ("val", {"marker": "o", "markersize": 3}),
    ):
        points = [(row["tokens"], row["loss"]) for row in rows if row["split"] == split]
        if points:
            axes.plot(*zip(*points, strict=True), label=f"{split}: {points[-1][1]:.3f} at the end", **style)
    points = [(row["tokens"], row["accuracy"]) for row in rows if row["split"] == "val" and "accuracy" in row]
    if points:
        axes.plot(
            *zip(*points, strict=True), label=f"val accuracy: {points[-1][1]:.3f} at the end", linestyle="--"
        )
    axes.set(
        title=folder.name,
        xlabel="tokens",
        ylabel="loss (nats per pair)" if pairs else "loss (nats per token)",
    )
    axes.grid(alpha=0.3)
    axes.legend()


def main() -> None:
    """Draw the curves of the runs that are named."""
    parser = Parser(__doc__)
    parser.add_argument("--runs", nargs="+", required=True, metavar="DIR", help="run folders")
    parser.add_argument(
        "--to", default="curves.png", metavar="FILE", help="picture to write (default: curves.png)"
    )
    args = parser.parse_args()
    if missing := [name for name in args.runs if not (Path(name) / "metrics.jsonl").is_file()]:
        raise UserError(f"{missing[0]} is no run: it holds no metrics.jsonl")
    print(draw([Path(name) for name in args.runs], Path(args.to)))


if __name__ == "__main__":
    run_cli(main)
