"""Batch: its tables and its worked example agree with collate, and segments with the documents."""

import ast
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from token_rows import pair_rows, unique_conversations, unique_pairs

from dataloader.batch import Batch, Row, attention_segments, collate
from dataloader.loader import Loader, Rows
from dataloader.pairs import PairRows
from dataloader.rows import PackedRows, StreamRows
from dataprep.shards import TokenDataset
from kernels.attention import Segments

# Two rows of packed pairs: with a shared prompt, without one, and padding; then one document alone.
DOC_IDS = np.array([[0] * 9 + [1] * 5 + [2] * 2, [0] * 16])
BRANCHES = np.array([[0, 0, 0, 1, 1, 1, 1, 2, 2] + [1, 1, 2, 2, 2] + [0, 0], [0] * 16])
SEGMENTS = [[3, 0], [4, 1], [2, 1], [2, 0], [3, 0], [2, 0], [16, 0]]


def field_table(cls: type) -> dict[str, tuple[str, str, str]]:
    """Return {field: (shape, dtype, stages)} from the table in the docstring of Row or Batch."""
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in cls.__doc__.splitlines()
        if line.strip().startswith("|")
    ]
    assert cells[0] == ["field", "shape", "dtype", "stages", "meaning"]
    return {name: (shape, dtype, stages) for name, shape, dtype, stages, _ in cells[2:]}


def rows_of(stage: str, make_store: Callable[..., TokenDataset]) -> Rows:
    """Return rows of a stage, some with several documents and some positions without a label."""
    if stage == "P":
        documents = [np.arange(1, 1 + length) % 7 for length in range(5, 40)]
        return StreamRows(make_store([documents], eos_id=0), 20, seed=0)
    if stage == "S":
        return PackedRows(make_store([unique_conversations(60)[0]], kind="instruct"), 40, seed=0)
    return pair_rows(make_store, unique_pairs(30), 30)


@pytest.mark.parametrize("cls", [Row, Batch])
@pytest.mark.parametrize("stage", ["P", "S", "D"])
def test_the_table_of_fields_is_true(make_store: Callable[..., TokenDataset], cls: type, stage: str) -> None:
    rows = rows_of(stage, make_store)
    row = rows.at(0)
    batch = collate([rows.at(index) for index in range(4)])
    sizes = {"B": len(batch.tokens), "T": len(row.tokens)}
    instance = row
    if cls is Batch:
        instance = batch
        sizes["N"] = int((batch.labels != -100).sum())
    if stage == "D":
        sizes["P"] = len(instance.reference) // 2
        sizes["2P"] = len(instance.reference)

    table = field_table(cls)
    assert tuple(table) == cls._fields
    for name, (shape, dtype, stages) in table.items():
        value = getattr(instance, name)
        if stage not in stages.split():
            assert value is None
        elif name == "loss_positions" and stage == "P":
            assert value is None, "every position of a text has a label"
        elif dtype == "Segments":
            assert value.query_ends[-1] == batch.tokens.numel() == value.rows[:, 0].sum()
        elif dtype == "list[int]":
            assert len(value) == sizes[shape]
        else:
            expected = [int(sizes.get(letter, letter)) for letter in re.findall(r"\w+", shape)]
            assert list(value.shape) == expected, name
            assert str(value.dtype).removeprefix("torch.") == dtype, name


def test_the_pair_in_the_docstring_is_what_collate_makes(make_store: Callable[..., TokenDataset]) -> None:
    written = {
        name: ast.literal_eval(value)
        for name, value in re.findall(r"^ {8}(\w+) +(\[.*\])$", Batch.__doc__, re.MULTILINE)
    }
    assert tuple(sorted(written)) == tuple(sorted(Batch._fields))

    prompt = [11, 12, 13, 14]
    loss_mask = [False] * 4 + [True] * 2
    answers = [(prompt + [21, 22], loss_mask), (prompt + [31, 32], loss_mask)]
    rows = PairRows(make_store([answers], kind="preference"), 5, seed=0)
    rows = rows.with_reference(np.array([[-3.5, -4.25]], np.float32))
    batch = collate([rows.at(0)])
    for name, value in batch._asdict().items():
        if isinstance(value, Segments):
            value = value.rows
        if isinstance(value, torch.Tensor):
            value = value.tolist()
        assert value == written[name], name


def test_a_batch_of_one_text_has_tokens_and_labels_only(make_store: Callable[..., TokenDataset]) -> None:
    rows = StreamRows(make_store([[np.arange(1003)]]), 10, seed=3)
    batch = Loader(rows, 4, 0, 1).next(torch.device("cpu"))
    assert batch.tokens.shape == batch.labels.shape == (4, 10)
    assert batch.tokens.dtype == batch.labels.dtype == torch.int64
    assert torch.equal(batch.tokens[:, 1:], batch.labels[:, :-1])
    assert all(value is None for value in batch[2:])


def test_a_batch_moves_to_a_device(make_store: Callable[..., TokenDataset]) -> None:
    rows = rows_of("D", make_store)
    batch = collate([rows.at(0), rows.at(1)])
    moved = batch.to(torch.device("meta"))
    for name, value in batch._asdict().items():
        if isinstance(value, torch.Tensor):
            assert getattr(moved, name).device.type == "meta"
        elif isinstance(value, Segments):
            assert moved.segments.rows is None  # they are for a CPU
            assert {part.device.type for part in moved.segments[1:]} == {"meta"}
        else:
            assert getattr(moved, name) == value
    on_device = collate([rows.at(0), rows.at(1)], torch.device("meta"))
    assert on_device.reference.device.type == "meta"


def test_segments_are_documents_and_branches() -> None:
    assert attention_segments(DOC_IDS, BRANCHES).tolist() == SEGMENTS
    assert attention_segments(DOC_IDS, None).tolist() == [[9, 0], [5, 0], [2, 0], [16, 0]]
    assert attention_segments(np.array([[0, 0], [0, 1]]), None).tolist() == [[2, 0], [1, 0], [1, 0]]
    example = attention_segments(np.zeros((1, 7), int), np.array([[0, 0, 0, 1, 1, 2, 2]]))
    assert example.tolist() == [[3, 0], [2, 1], [2, 1]]
