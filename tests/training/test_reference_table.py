"""The table of the reference: made once, of every pair, by one run at a time, and continued after a kill."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import toy_rows, write_rows

from dataloader.batch import Batch, collate
from dataloader.pairs import PairRows
from dataprep.shards import TokenDataset, read_meta
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from runtime.files import folder_lock
from runtime.watchdog import StopRequested
from training import reference_table
from training.objectives import completion_logps
from training.reference_table import compute_table, make_table, read_part, read_table, table_path, write_part


def go_on() -> None:
    """Check for a stop signal, of which there is none."""


@pytest.fixture
def rows(tmp_path: Path) -> PairRows:
    """23 pairs, of which a context of 64 tokens makes the last equal."""
    long = {"prompt": "Hi", "chosen": "word " * 20 + "a", "rejected": "word " * 20 + "b"}
    folder = write_rows(tmp_path / "pairs", "preference", {"train": [[*toy_rows("preference", 22, 5), long]]})
    return PairRows(TokenDataset(folder, "train", read_meta(folder)), 64, seed=0)


def test_a_table_holds_each_pair_under_the_model(
    model: Llama, rows: PairRows, env: DistributedEnv, tmp_path: Path
) -> None:
    path, calls = table_path(tmp_path, "key", "train"), []

    def score(batch: Batch) -> torch.Tensor:
        calls.append(batch)
        return completion_logps(model, batch)

    table = make_table(path, rows, score, 3, env, go_on)
    assert path == tmp_path / "reference" / "key-train.npy"
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, "key-train.sha256"]
    assert table.shape == (23, 2) and table.dtype == np.float32 and len(calls) == -(-len(rows) // 3) > 1
    for pair in range(22):
        for side in range(2):
            ids, keep = rows.dataset.document(2 * pair + side)
            with torch.no_grad():
                logps = model(torch.from_numpy(ids)[None])[0].log_softmax(-1)
            alone = sum(logps[place - 1, ids[place]].item() for place in np.flatnonzero(keep))
            assert table[pair, side] == pytest.approx(alone, rel=1e-5)
    assert np.array_equal(table[22], [0, 0])  # left out of the rows

    def never(batch: Batch) -> torch.Tensor:
        raise AssertionError("it is known already")

    assert np.array_equal(make_table(path, rows, never, 3, env, go_on), table)
    batch = collate([rows.with_reference(table).at(0)])
    assert np.array_equal(batch.reference.view(-1, 2), table[rows.members[0]])


def test_ranks_take_shares_of_a_table(
    model: Llama, rows: PairRows, env: DistributedEnv, tmp_path: Path
) -> None:
    def score(batch: Batch) -> torch.Tensor:
        return completion_logps(model, batch)

    whole = make_table(tmp_path / "alone" / "a.npy", rows, score, 100, env, go_on)
    (tmp_path / "shared").mkdir()
    shares = [
        compute_table(
            tmp_path / "shared" / f"{rank}.npy",
            rows,
            score,
            2,
            dataclasses.replace(env, rank=rank, world_size=3),
            go_on,
        )
        for rank in range(3)
    ]
    assert all((share == 0).all(1).sum() > 1 for share in shares)  # nobody scored them all
    np.testing.assert_allclose(sum(shares), whole, rtol=1e-5)
    assert [path.name for path in (tmp_path / "shared").glob("*.npy")] == ["0.npy"]  # one rank writes


@pytest.mark.parametrize("end", [KeyboardInterrupt, StopRequested])
def test_a_stopped_run_leaves_its_part_and_the_next_one_continues(
    model: Llama,
    rows: PairRows,
    env: DistributedEnv,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: type[BaseException],
) -> None:
    if end is KeyboardInterrupt:  # as a kill: what was last saved is left
        monkeypatch.setattr(reference_table, "PART_SECONDS", 0.0)
    calls: list[Batch] = []

    def score(batch: Batch) -> torch.Tensor:
        calls.append(batch)
        return completion_logps(model, batch)

    def stop() -> None:
        if len(calls) == 4:
            raise end

    unbroken = make_table(tmp_path / "whole" / "a.npy", rows, score, 1, env, go_on)
    total = len(calls)
    calls.clear()

    path = tmp_path / "broken" / "a.npy"
    with pytest.raises(end):
        make_table(path, rows, score, 1, env, stop)
    assert [file.name for file in path.parent.iterdir()] == ["a.part.npz"]
    assert read_part(path.with_suffix(".part.npz"), rows)[0] == 4

    calls.clear()
    assert np.array_equal(make_table(path, rows, score, 1, env, go_on), unbroken)
    assert len(calls) == total - 4
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.npy", "a.sha256"]


def test_a_part_that_is_damaged_or_of_other_data_is_not_used(rows: PairRows, tmp_path: Path) -> None:
    path = tmp_path / "a.part.npz"
    assert read_part(path, rows) is None
    write_part(path, 3, np.ones((23, 2), np.float32))
    done, table = read_part(path, rows)
    assert done == 3 and table.sum() == 46

    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    for content in bytes(data), data[:-20], b"", b"no archive":
        path.write_bytes(content)
        assert read_part(path, rows) is None, content[:20]
    for done, pairs in (3, 22), (-1, 23), (1000, 23):
        write_part(path, done, np.ones((pairs, 2), np.float32))
        assert read_part(path, rows) is None


def test_one_run_makes_a_table_and_the_other_waits_for_it(
    model: Llama, rows: PairRows, env: DistributedEnv, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "reference" / "a.npy"
    path.parent.mkdir()
    waiting, results = [], []

    def count() -> None:
        waiting.append(1)

    def never(batch: Batch) -> torch.Tensor:
        raise AssertionError("the other run has made it")

    def second() -> None:
        results.append(make_table(path, rows, never, 3, env, count))

    other = threading.Thread(target=second)
    with folder_lock(path.parent):
        other.start()
        while not waiting:
            pass
        table = compute_table(path, rows, lambda batch: completion_logps(model, batch), 3, env, go_on)
    other.join(30)
    assert len(results) == 1 and np.array_equal(results[0], table)
    assert capsys.readouterr().out.count("waiting for it") == 1


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda path: path.with_suffix(".sha256").write_text("0" * 64), "is damaged .* delete both"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cannot be read .*delete the file"),
        (lambda path: path.write_bytes(b""), "cannot be read .*delete the file"),
        (lambda path: path.write_text("not an array"), "cannot be read .*delete the file"),
        (lambda path: np.save(path, np.zeros((22, 2))), "holds 22 pairs, the data 23: delete the file"),
        (lambda path: np.save(path, np.array([{}], object)), "cannot be read .*delete the file"),
    ],
)
def test_a_damaged_table_is_refused(
    rows: PairRows, env: DistributedEnv, tmp_path: Path, harm, words: str
) -> None:
    path = tmp_path / "table.npy"
    np.save(path, np.ones((23, 2), np.float32))
    assert np.array_equal(read_table(path, 23), np.ones((23, 2)))
    harm(path)
    with pytest.raises(UserError, match=words) as error:
        make_table(path, rows, lambda batch: None, 3, env, go_on)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
