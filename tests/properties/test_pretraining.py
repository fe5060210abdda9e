"""Pretraining on random models and documents: packed rows equal each document alone."""

import random
from pathlib import Path

from plain_reference import Reference, assert_same, pieces
from random_cases import (
    all_batches,
    by_mask,
    collate_rows,
    evaluation_sums,
    objective_sums,
    random_args,
    random_cases,
    random_documents,
    random_model,
    random_rows,
    reference_of,
    row_start,
    validation_rows,
    write_dataset,
)


def reference_sums(reference: Reference, sequences: list[list[int]]):
    losses = [-reference.logps(ids, [True] * len(ids)) for ids in sequences]
    return reference.sums(losses, count=sum(len(ids) - 1 for ids in sequences))


@random_cases
def test_rows_equal_documents_one_by_one(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    args = random_args(rng, "P")
    model = random_model(rng, args)
    reference = reference_of(model)
    rows, documents = random_rows(rng, tmp_path, args, reference)

    places = [(rng.randrange(len(rows)), rng.randint(0, 2)) for _ in range(rng.randint(1, 3))]
    sums = objective_sums(model, args, [collate_rows(rows, places)])

    sequences = []
    for index, epoch in places:
        sequences += pieces(documents, row_start(rows, index, epoch), args.block_size)
    assert sums.count == len(places) * args.block_size
    assert_same(sums, reference_sums(reference, sequences))


@random_cases
def test_mask_equals_segments(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    args = random_args(rng, "P")
    model = random_model(rng, args)
    rows, _ = random_rows(rng, tmp_path, args, reference_of(model))

    batches = all_batches(rng, rows)
    by_segments = objective_sums(model, args, batches)
    assert by_segments.count > 0
    assert_same(objective_sums(model, args, [by_mask(batch) for batch in batches]), by_segments)


@random_cases
def test_complete_validation_equals_documents_one_by_one(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    args = random_args(rng, "P")
    model = random_model(rng, args)
    eos_id = rng.randrange(args.vocab_size)
    documents = random_documents(rng, args, eos_id)
    dataset = write_dataset(rng, tmp_path, args, "text", documents, eos_id)
    rows = validation_rows("P", dataset, args)

    # Each row of the context is a sequence of its own; the last one is shorter.
    labels = sum(map(len, documents)) - 1
    sequences = []
    for start in range(0, labels, args.block_size):
        sequences += pieces(documents, start, min(args.block_size, labels - start))
    expected = reference_sums(reference_of(model), sequences)
    assert expected.count == labels > 0

    expected.gradients = {}
    sums = evaluation_sums(model, args, rows, batch_size=rng.randint(1, 3), ranks=rng.randint(1, 3))
    assert_same(sums, expected)
