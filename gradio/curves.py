"""Curves of runs as SVG figures: several runs of a stage in one figure, for each measure that tells of the stage."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

# Size of a figure in the SVG's own units; the style sheet stretches it to the width of the card.
WIDTH = 320
HEIGHT = 150
MAX_POINTS = 80  # of a line: a step's own measures are noise
NUM_COLORS = 6

STAGES = {"P": "Pretraining", "S": "Supervised fine-tuning", "D": "Preference optimization (DPO)"}
# DPO's loss is noisy; that the chosen answers stay probable is seen in their log-probability alone.
MEASURES = {
    "P": {"loss": "loss"},
    "S": {"loss": "loss"},
    "D": {
        "accuracy": "pairs whose chosen answer has the higher reward",
        "margin": "margin of the rewards",
        "chosen_logps": "log-probability of the chosen answers",
    },
}


@dataclass(frozen=True)
class RunCurves:
    """Run with the letter of its stage and the rows of its metrics.jsonl."""

    name: str
    stage: str
    rows: Sequence[dict]


def curves_page(runs: Iterable[RunCurves]) -> str:
    """Return the figures of all runs, grouped by stage."""
    runs = list(runs)
    sections = ""
    for stage, title in STAGES.items():
        of_stage = [run for run in runs if run.stage == stage]
        if of_stage:
            figures = "".join(figure(of_stage, name, words) for name, words in MEASURES[stage].items())
            sections += f'<h2>{title}</h2><div class="curves">{figures}</div>'
    return sections or '<p class="note">No run is chosen, or there is none yet.</p>'


def figure(runs: Sequence[RunCurves], measure: str, words: str) -> str:
    """Return one measure of several runs over their tokens: thin lines in training, thick ones in validation."""
    lines = {
        (number, split): points
        for number, run in enumerate(runs)
        for split in ("train", "val")
        if (points := _points(run.rows, split, measure))
    }
    legend = "".join(_legend(number, run.name, lines) for number, run in enumerate(runs))
    caption = f"<figcaption><strong>{escape(words)}</strong>{legend}</figcaption>"
    if not lines:
        return f'<figure class="curve">{caption}<p class="note">no measurements yet</p></figure>'

    points = [point for line in lines.values() for point in line]
    max_tokens = max(tokens for tokens, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    spread = max(high - low, 1e-9)  # lines with one value have no range: any divisor > 0 puts them at the top

    def svg_points(line: list[tuple[float, float]]) -> str:
        scaled = []
        for tokens, value in line:
            x = tokens / max_tokens * WIDTH
            y = (high - value) / spread * HEIGHT  # SVG's y axis points down
            scaled.append(f"{x:.1f},{y:.1f}")
        return " ".join(scaled)

    drawn = "".join(
        f'<polyline class="{split} run-{number % NUM_COLORS}" points="{svg_points(line)}" />'
        for (number, split), line in lines.items()
    )
    names = ", ".join(run.name for run in runs)
    label = escape(f"{words} of {names}, from {low:.3g} to {high:.3g} over {max_tokens:,} tokens")
    return (
        f'<figure class="curve">{caption}<div class="plot"><span class="high">{high:.3g}</span>'
        f'<span class="low">{low:.3g}</span>'
        # The view box is a little larger than the curves, so that thick lines at the border stay visible.
        f'<svg viewBox="-2 -4 {WIDTH + 4} {HEIGHT + 8}" role="img" preserveAspectRatio="none" '
        f'aria-label="{label}">{drawn}</svg></div>'
        f'<div class="axis"><span>0</span><span>{max_tokens / 1e6:.2f}M tokens</span></div></figure>'
    )


def _legend(number: int, name: str, lines: dict) -> str:
    """Return a run's colour, name and last values."""
    names = {"train": "training", "val": "validation"}
    values = ", ".join(
        f"{names[split]} {lines[number, split][-1][1]:.3f}" for split in names if (number, split) in lines
    )
    return (
        f'<span class="legend"><i class="run-{number % NUM_COLORS}"></i> {escape(name)} '
        f"<span>{values or 'no measurements'}</span></span>"
    )


def _points(rows: Sequence[dict], split: str, measure: str) -> list[tuple[float, float]]:
    """Return the points (tokens, value) of a split; of many, means of neighbours."""
    points = [
        (row["tokens"], row[measure])
        for row in rows
        if row["split"] == split
        and row.get("tokens")
        and isinstance(row.get(measure), int | float)
        and math.isfinite(row[measure])
    ]
    group = math.ceil(len(points) / MAX_POINTS)
    if group < 2:
        return points
    thinned = []
    for start in range(0, len(points), group):
        neighbours = points[start : start + group]
        mean = sum(value for _, value in neighbours) / len(neighbours)
        thinned.append((neighbours[-1][0], mean))
    return thinned
