"""Loss curves of the runs as SVG figures, one figure for each run."""

from collections.abc import Iterable, Sequence
from html import escape

# Size of a figure in the SVG's own units; the style sheet stretches it to the width of the card.
WIDTH = 320
HEIGHT = 150

SPLIT_NAMES = {"train": "training", "val": "validation"}


def loss_curves(runs: Iterable[tuple[str, Sequence[dict]]]) -> str:
    """Return the figures of runs (name, rows of metrics.jsonl) beside each other."""
    figures = "".join(loss_curve(name, rows) for name, rows in runs)
    return f'<h2>Loss curves</h2><div class="curves">{figures}</div>'


def loss_curve(name: str, rows: Sequence[dict]) -> str:
    """Return training and validation loss of a run over its tokens as a figure."""
    curves = _points_by_split(rows)
    if not curves:
        return f'<figure class="curve"><figcaption>{escape(name)}: no measurements</figcaption></figure>'

    points = [point for curve in curves.values() for point in curve]
    max_tokens = max(tokens for tokens, _ in points)
    min_loss = min(loss for _, loss in points)
    max_loss = max(loss for _, loss in points)
    # A run with one loss has no range: any divisor > 0 puts its point at the top.
    loss_range = max(max_loss - min_loss, 1e-9)

    def svg_points(curve: list[tuple[float, float]]) -> str:
        scaled = []
        for tokens, loss in curve:
            x = tokens / max_tokens * WIDTH
            y = (max_loss - loss) / loss_range * HEIGHT  # SVG's y axis points down
            scaled.append(f"{x:.1f},{y:.1f}")
        return " ".join(scaled)

    lines = "".join(
        f'<polyline class="{split}" points="{svg_points(curve)}" />' for split, curve in curves.items()
    )
    last_losses = ", ".join(f"{SPLIT_NAMES[split]} {curve[-1][1]:.3f}" for split, curve in curves.items())

    return (
        f'<figure class="curve"><figcaption><strong>{escape(name)}</strong> {last_losses}</figcaption>'
        # The view box is a little larger than the curves, so that thick lines at the border stay visible.
        f'<svg viewBox="-2 -4 {WIDTH + 4} {HEIGHT + 8}" role="img" preserveAspectRatio="none" '
        f'aria-label="Loss of {escape(name)}: {last_losses} after {max_tokens:,} tokens">{lines}</svg>'
        f'<div class="axis"><span>{max_loss:.2f} to {min_loss:.2f}</span>'
        f"<span>{max_tokens / 1e6:.2f}M tokens</span></div></figure>"
    )


def _points_by_split(rows: Sequence[dict]) -> dict[str, list[tuple[int, float]]]:
    """Return the points (tokens, loss) of each split that has some."""
    curves = {}
    for split in SPLIT_NAMES:
        points = [(row["tokens"], row["loss"]) for row in rows if row["split"] == split]
        if points:
            curves[split] = points
    return curves
