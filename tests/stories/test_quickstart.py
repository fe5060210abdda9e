"""Presets of the quickstart: its datasets give them enough rows, on any number of ranks."""

import pytest

import config
from training.run_length import count_steps, fit_to_data

# Rows of an epoch, rounded down: 6,000 stories, 18,500 conversations, 1,800 pairs.
ROWS = {"stories": 7_000, "stories-instruct": 6_800, "stories-preference": 1_150}


@pytest.mark.parametrize("preset", ROWS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_preset_is_not_adapted_to_its_data(
    preset: str, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    args = config.resolve({"preset": preset, "block_size": 320})
    fitted, notes = fit_to_data(args, {"preset": preset}, ROWS[preset], ranks)
    assert not notes
    assert fitted.tokens_per_step == config.PRESETS[preset]["total_batch_size"]

    steps = count_steps(fitted, ROWS[preset])
    assert steps == config.PRESETS[preset]["total_iters"]
    assert steps * fitted.rows_per_step <= ROWS[preset]  # no row is seen twice
