"""Fine-tuning on random models and conversations: packed rows equal each conversation alone."""

import random
from pathlib import Path

from plain_reference import assert_same, truncate
from random_cases import (
    all_batches,
    by_mask,
    objective_sums,
    random_args,
    random_cases,
    random_model,
    random_rows,
    reference_of,
)


@random_cases
def test_rows_equal_conversations_one_by_one(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    args = random_args(rng, "S")
    model = random_model(rng, args)
    reference = reference_of(model)
    rows, conversations = random_rows(rng, tmp_path, args, reference)

    losses = []
    count = 0
    for conversation in conversations:
        ((ids, loss_mask),) = truncate([conversation], args.block_size + 1)
        assert any(loss_mask[1:])
        losses.append(-reference.logps(ids, loss_mask))
        count += sum(loss_mask[1:])
    expected = reference.sums(losses, count)

    batches = all_batches(rng, rows)
    assert_same(objective_sums(model, args, batches), expected)
    assert_same(objective_sums(model, args, [by_mask(batch) for batch in batches]), expected)
