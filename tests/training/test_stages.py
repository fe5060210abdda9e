"""The table of stages: each kind of data has one, and only DPO needs a reference."""

from config import STAGE_DEFAULTS, ModelArgs
from training.objectives import next_token
from training.stages import STAGES


def test_each_stage_has_its_kind_of_data_and_its_defaults() -> None:
    assert STAGES.keys() == STAGE_DEFAULTS.keys()
    assert {stage.kind for stage in STAGES.values()} == {"text", "instruct", "preference"}
    assert [train for train, stage in STAGES.items() if stage.needs_reference] == ["D"]


def test_pretraining_and_fine_tuning_share_an_objective() -> None:
    args = ModelArgs()
    assert STAGES["P"].objective(args) is STAGES["S"].objective(args) is next_token
    assert STAGES["D"].objective(args) is not next_token
