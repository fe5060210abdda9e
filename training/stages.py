"""The three stages as one table: kind of data, rows, objective."""

from collections.abc import Callable
from dataclasses import dataclass

from config import ModelArgs
from dataloader.loader import Rows
from dataloader.pairs import PairRows
from dataloader.rows import PackedRows, StreamRows, StreamValidation
from training.objectives import Objective, next_token, preference


@dataclass(frozen=True)
class Stage:
    """Differences between one stage and another."""

    name: str
    kind: str  # of prepared data
    rows: Callable[..., Rows]  # (dataset, block_size, seed), texts also document_mask
    validation_rows: Callable[..., Rows]
    objective: Callable[[ModelArgs], Objective]
    needs_reference: bool = False  # log-probs of the answers under the starting weights


def _next_token(args: ModelArgs) -> Objective:
    """Return the objective of pretraining and SFT, which has no settings."""
    return next_token


STAGES = {
    "P": Stage("pretraining", "text", StreamRows, StreamValidation, _next_token),
    "S": Stage("fine-tuning", "instruct", PackedRows, PackedRows, _next_token),
    "D": Stage("preference alignment", "preference", PairRows, PairRows, preference, needs_reference=True),
}
