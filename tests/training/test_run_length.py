"""Runs whose length fits the data: the typed limit wins, small data still gets its steps, nothing typed is changed."""

import pytest

from config import ModelArgs, merge_settings
from training.run_length import MIN_STEPS, count_steps, fit_schedule, fit_to_data, largest_divisor

FINEWEB = 5_000_000  # rows of 512 tokens


def fit(rows: int, world_size: int = 1, **typed: object) -> tuple[ModelArgs, list[str]]:
    """Return the settings of a command line, fitted to `rows` rows an epoch, and all notes."""
    args, notes = fit_to_data(ModelArgs(**merge_settings(typed)), typed, rows, world_size)
    args, more = fit_schedule(args, typed, count_steps(args, rows))
    return args, notes + more


@pytest.mark.parametrize(
    "typed, steps",
    [({}, 1000), ({"total_iters": 50}, 50), ({"epochs": 30}, 3000), ({"epochs": 2, "total_iters": 150}, 150)],
)
def test_the_typed_limit_ends_the_run(typed: dict, steps: int) -> None:
    """Of 1,000 rows, 10 a step: the defaults are 10 epochs and 2,000 steps here."""
    args = ModelArgs(**merge_settings({"total_batch_size": 5120, "batch_size": 10, **typed}))
    if not typed:
        args = args.replace(epochs=10, total_iters=2000)
    assert count_steps(args, 1000) == steps


def test_large_data_changes_nothing() -> None:
    args, notes = fit(FINEWEB)
    assert notes == [] and args == ModelArgs()
    assert count_steps(args, FINEWEB) == 10_000


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 7, 50, 650, 5_000, 100_000])
@pytest.mark.parametrize("train", ["P", "S", "D"])
def test_any_data_gets_its_steps(
    rows: int, world_size: int, train: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    args, notes = fit(rows, world_size, train=train)
    steps = count_steps(args, rows)
    assert steps >= MIN_STEPS
    assert args.warmup_iters <= steps // 10
    rows_of_rank = args.total_batch_size // args.row_tokens // world_size
    assert args.rows_per_step == rows_of_rank * world_size  # on any number of ranks
    default = ModelArgs(**merge_settings({"train": train}))
    is_small = (
        default.epochs * rows
        < MIN_STEPS * (default.total_batch_size // default.row_tokens // world_size) * world_size
    )
    assert any(note.startswith("--total_batch_size") for note in notes) == is_small


def test_the_batch_shrinks_before_the_epochs_grow() -> None:
    args, notes = fit(650)
    assert args.epochs == 4 and args.rows_per_step == 13 and count_steps(args, 650) == 200
    assert "--total_batch_size 6656 instead of 524288" in notes[0]

    args, notes = fit(5, train="S")
    assert args.rows_per_step == 1 and args.epochs == 80 and args.dropout == args.attn_dropout == 0
    assert any("--epochs 80 instead of 3" in note for note in notes)


def test_epochs_do_not_grow_where_a_limit_was_typed() -> None:
    args, notes = fit(5, train="S", epochs=2)
    assert args.epochs == 2 and count_steps(args, 5) == 10
    args, _ = fit(5, train="S", total_iters=30)
    assert args.epochs is None and count_steps(args, 5) == 30


def test_what_was_typed_stays() -> None:
    typed = {"total_batch_size": 65536, "batch_size": 16, "warmup_iters": 700}
    args, notes = fit(50, **typed)
    assert {name: getattr(args, name) for name in typed} == typed
    assert [note.split()[0] for note in notes] == ["--epochs"]


def test_the_first_command_of_the_project_starts_as_typed() -> None:
    typed = {
        "epochs": 4,
        "block_size": 256,
        "batch_size": 128,
        "total_iters": 20000,
        "warmup_iters": 700,
        "total_batch_size": 524288,
        "micro_batch_size": 128,
        "gradient_accumulation_steps": 4096,
    }
    args, notes = fit(FINEWEB, **typed)
    assert notes == [] and {name: getattr(args, name) for name in typed} == typed


def test_a_resumed_run_counts_on_from_where_it_stands() -> None:
    args = ModelArgs(**merge_settings({"total_batch_size": 2048, "batch_size": 4, "epochs": 3}))
    assert count_steps(args, 100) == 75
    assert count_steps(args, 100, step=30, rows_consumed=120) == 75
    longer = ModelArgs(**merge_settings({"resume": True, "total_iters": 90}, args.explicit))
    assert count_steps(longer, 100, step=75, rows_consumed=300) == 90


def test_largest_divisor() -> None:
    assert [largest_divisor(12, limit) for limit in (1, 5, 7, 12, 99)] == [1, 4, 6, 12, 12]


def test_small_models_are_tuned_with_larger_rates() -> None:
    small = {"embeddings_dims": 128, "no_of_decoder_layers": 4, "no_of_heads": 4, "vocab_size": 2048}
    args, notes = fit(FINEWEB, train="S", **small)
    assert args.max_lr == 3e-3 and any(note.startswith("--max_lr 0.003 instead of 0.0002") for note in notes)
    assert args.min_lr == pytest.approx(3e-4)
    assert fit(FINEWEB, train="D", **small)[0].max_lr == 3e-5
    for typed in ({"train": "S", "max_lr": 1e-4, **small}, {"train": "S"}, {"train": "P", **small}):
        args, notes = fit(FINEWEB, **typed)
        assert args.max_lr == typed.get("max_lr", ModelArgs(**merge_settings(typed)).max_lr)
        assert not any("--max_lr" in note for note in notes)
    preset = fit(FINEWEB, preset="stories-instruct", vocab_size=2048)[0]
    assert preset.max_lr == merge_settings({"preset": "stories-instruct"})["max_lr"]


def test_an_adapter_has_its_own_optimizer_and_rate() -> None:
    """5e-4 for a width of 2,000, more for a narrow model; also with a preset, whose rates are for all weights."""
    lora = {"train": "S", "lora_rank": 8}
    args, notes = fit(FINEWEB, **lora, embeddings_dims=2000, no_of_heads=8)
    assert args.max_lr == 5e-4 and any("--max_lr 0.0005 instead of 0.0002" in note for note in notes)
    assert fit(FINEWEB, **lora, embeddings_dims=4096)[0].max_lr == 3e-4
    assert fit(FINEWEB, **{**lora, "train": "D"}, embeddings_dims=2000, no_of_heads=8)[0].max_lr == 5e-5

    args, notes = fit(FINEWEB, **lora, preset="stories-instruct", embeddings_dims=128, no_of_heads=4)
    assert (args.optimizer, args.max_lr) == ("adamw", 4e-3)
    assert any("--optimizer adamw instead of muon" in note for note in notes)
    assert fit(FINEWEB, **lora, max_lr=0.1)[0].max_lr == 0.1
