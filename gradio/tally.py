"""Tally of the votes: for each pair of models how often which was better, with the uncertainty of the share."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from itertools import combinations
from pathlib import Path

Z_95 = 1.959964  # of the normal distribution: 95 % lie within


@dataclass
class PairTally:
    """Votes on a pair of models: for the first, for the second, ties, and both bad."""

    votes: Counter = field(default_factory=Counter)

    @property
    def decided(self) -> int:
        """Return how many votes chose one of the two."""
        return self.votes["first"] + self.votes["second"]


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Return the interval in which a share lies with 95 % confidence (Wilson 1927); 0 to 1 without trials."""
    if not trials:
        return 0.0, 1.0
    share = successes / trials
    center = share + z**2 / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max((center - spread) / scale, 0.0), min((center + spread) / scale, 1.0)


def read_tally(path: Path | None) -> dict[tuple[str, str], PairTally]:
    """Return the votes of a file of ballots for each pair of models; a line that is broken is skipped."""
    pairs: dict[tuple[str, str], PairTally] = {}
    if path is None or not path.is_file():
        return pairs
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            ballot = json.loads(line)
            models, choice = sorted(set(map(str, ballot["models"]))), ballot["choice"]
        except (ValueError, KeyError, TypeError):
            continue
        for first, second in combinations(models, 2):
            outcome = {first: "first", second: "second", "tie": "tie", "bad": "bad"}.get(str(choice))
            if outcome:
                pairs.setdefault((first, second), PairTally()).votes[outcome] += 1
    return pairs


def tally_table(pairs: dict[tuple[str, str], PairTally]) -> str:
    """Return the tally as HTML; nothing without votes."""
    rows = ""
    for (first, second), tally in sorted(pairs.items()):
        won = tally.votes["first"]
        low, high = wilson_interval(won, tally.decided)
        share = "no vote for one of them"
        if tally.decided:
            share = f"{won / tally.decided:.0%} ({low:.0%} to {high:.0%})"
        rows += (
            f"<tr><th scope=row>{escape(first)} <span class=against>against</span> {escape(second)}</th>"
            f"<td>{won} : {tally.votes['second']}</td><td>{tally.votes['tie']}</td>"
            f"<td>{tally.votes['bad']}</td><td>{share}</td></tr>"
        )
    if not rows:
        return ""
    return (
        '<div class="tally" tabindex="0" role="region" aria-label="Votes so far"><h2>Votes so far</h2><table>'
        "<thead><tr><th scope=col>pair</th><th scope=col>better</th><th scope=col>tie</th>"
        "<th scope=col>both bad</th><th scope=col>share of the first, with 95 % confidence</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )
