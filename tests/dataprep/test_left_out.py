"""Rows that become no document: which of them stop the run, and what is said then."""

import pytest

from dataprep.left_out import LeftOutRows
from dataprep.turns import BadRow, EmptyText, MarkedBad, NothingToLearn, UnreadKey
from runtime.errors import UserError

STOPS = {  # error -> stops the run (from a file, from the hub)
    BadRow: (True, True),
    UnreadKey: (True, True),
    NothingToLearn: (True, False),
    EmptyText: (False, False),
    MarkedBad: (False, False),
}


@pytest.mark.parametrize("kind", STOPS)
def test_what_stops_a_run(kind: type[BadRow]) -> None:
    for is_on_hub, stops in zip((False, True), STOPS[kind], strict=True):
        left_out = LeftOutRows()
        left_out.add(kind("row 1: x"), is_on_hub, skip_bad_rows=False)
        assert (left_out.first_error is not None) == stops == (not left_out.counts)

        left_out = LeftOutRows()
        left_out.add(kind("row 1: x"), is_on_hub, skip_bad_rows=True)
        left_out.raise_first()
        assert left_out.counts == {kind.reason: 1}


def test_the_first_row_and_the_number_of_all_are_said() -> None:
    left_out = LeftOutRows()
    for number in range(1, 1201):
        left_out.add(BadRow(f"a.jsonl row {number}: x"), is_on_hub=False, skip_bad_rows=False)
    with pytest.raises(UserError, match="^a.jsonl row 1: x; 1,200 bad rows in .*--skip_bad_rows"):
        left_out.raise_first()
