"""Rows that become no document: counted by reason, or the end of the run."""

from collections import Counter

from dataprep.turns import BadRow, EmptyText, MarkedBad, NothingToLearn
from runtime.errors import UserError


class LeftOutRows:
    """Rows of a unit that were left out, by reason, and those that stop the run once all of the unit are counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first_error: BadRow | None = None
        self.num_errors = 0

    def add(self, error: BadRow, is_on_hub: bool, skip_bad_rows: bool) -> None:
        """Count a row. The user can't correct a row of the hub, so one that teaches nothing never stops the run."""
        is_harmless = isinstance(error, MarkedBad | EmptyText) or (
            isinstance(error, NothingToLearn) and is_on_hub
        )
        if is_harmless or skip_bad_rows:
            self.counts[error.reason] += 1
            return
        self.first_error = self.first_error or error
        self.num_errors += 1

    def raise_first(self) -> None:
        """Raise UserError with the first row that stops the run and the number of all, if there is one."""
        if self.first_error is None:
            return
        rows = "row" if self.num_errors == 1 else "rows"
        raise UserError(
            f"{self.first_error}; {self.num_errors:,} bad {rows} in this part of the data: correct the data, or "
            "--skip_bad_rows leaves them out"
        )
