"""Pictures of a run: its loss curves, from metrics.jsonl."""

from pathlib import Path

from metrics import read_metrics


def loss_curves(run: Path) -> Path:
    """Draw training and validation loss over the tokens seen to <run>/loss_curves.png; returns the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only one rank draws
    from matplotlib.figure import Figure

    rows = read_metrics(run / "metrics.jsonl")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for split, style in (("train", {"alpha": 0.6, "linewidth": 1}), ("val", {"marker": "o", "markersize": 3})):
        points = [(row["tokens"], row["loss"]) for row in rows if row["split"] == split]
        if points:
            axes.plot(*zip(*points, strict=True), label=f"{split}: {points[-1][1]:.3f} at the end", **style)
    axes.set(title=run.name, xlabel="tokens", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = run / "loss_curves.png"
    temporary = run / "loss_curves.tmp.png"
    figure.savefig(temporary, dpi=120)
    temporary.rename(picture)
    return picture
