"""A flipped bit in any file is one line with the file and the remedy.

The default suite takes a short form; all of it, some minutes:  python -m pytest -m faults
"""

import random
import re
import shutil

import pytest
from forks import fork
from injected_faults import STAGES, damaged_one_by_one, flip, whole_step

import checkpoint
from dataprep import shards
from runtime.errors import UserError
from training import reference_table


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_every_file_of_a_checkpoint_and_of_a_dataset_with_a_flipped_bit(
    place, unbroken, tmp_path, fault, stage
):
    step, rng = (
        shutil.copytree(unbroken(stage) / "step_000006", tmp_path / "step_000006"),
        random.Random(ord(stage)),
    )
    folder = shutil.copytree(
        place / "data" / STAGES[stage].get("dataset", "toy"),
        tmp_path / "data",
        ignore=shutil.ignore_patterns("reference"),
    )
    for where, whole in (step, whole_step), (folder, shards.verify_dataset):
        for _ in damaged_one_by_one(where, rng):
            fault()
            with pytest.raises(UserError, match=re.escape(str(where))):
                whole(where)


def test_a_flipped_bit_in_the_reference_of_preferences_is_named(place, unbroken):
    """The table stops a run that resumes; its remedy is to make the table again."""
    unbroken("D")
    tables = sorted((place / "data" / "toy-preference" / "reference").glob("*"))
    assert [path.suffix for path in tables] == [".npy", ".sha256"] * 2
    for path in tables:
        whole = path.read_bytes()
        flip(path, random.Random(8))
        with pytest.raises(UserError, match=f"{path.stem}.npy is damaged"):
            reference_table.read_table(path.with_suffix(".npy"), 0)
        path.write_bytes(whole)


def test_a_flipped_bit_in_any_file_of_a_checkpoint_or_dataset_is_named(place, unbroken, tmp_path):
    rng, seen = random.Random(3), 0
    step = shutil.copytree(unbroken("P") / "step_000006", tmp_path / "run" / "step_000006")
    data = shutil.copytree(place / "data" / "toy", tmp_path / "toy")
    for folder, whole in (step, whole_step), (data, shards.verify_dataset):
        whole(folder)
        for path in damaged_one_by_one(folder, rng):
            with pytest.raises(UserError, match=re.escape(str(folder))) as said:
                whole(folder)
            assert path.name in str(said.value) or path.name == "SHA256SUMS"
            seen += 1
        whole(folder)
    assert seen == 10 + 10


@pytest.mark.parametrize(
    "words, damaged, remedy",
    [
        (
            ["--resume"],
            "runs/P-toy/step_000006/train_state/rng.pt",
            "remove that folder, --resume then continues from step_000004",
        ),
        (
            ["--init_from", "{tmp}/runs/P-toy", "--run_name", "new"],
            "runs/P-toy/step_000006/model.safetensors",
            "remove that folder",
        ),
        (
            ["--run_name", "new"],
            "data/toy/train-00001.tokens.bin",
            "prepare the dataset again with the data.py command that made it",
        ),
    ],
)
def test_a_flipped_bit_stops_a_run_before_it_begins(place, unbroken, tmp_path, words, damaged, remedy):
    shutil.copytree(place / "data", tmp_path / "data")
    shutil.copytree(unbroken("P"), tmp_path / "runs" / "P-toy")
    flip(tmp_path / damaged, random.Random(4))
    failed = fork(tmp_path, *(word.format(tmp=tmp_path) for word in words))
    assert failed.wait() == [2]
    assert f"{tmp_path / damaged} is damaged" in failed.said and remedy in failed.said
    assert failed.said.startswith("error: ") and failed.said.count("\n") == 1


def test_verify_reads_a_run_or_a_dataset_and_names_what_is_damaged(
    place, unbroken, tmp_path, capsys, monkeypatch
):
    run = shutil.copytree(unbroken("P"), tmp_path / "run")

    def verify(folder):
        monkeypatch.setattr("sys.argv", ["checkpoint.py", "verify", str(folder)])
        checkpoint.main()
        return capsys.readouterr().out

    assert verify(run).count(" files\n") == 6 and verify(place / "data" / "toy").endswith(
        "as they were written\n"
    )
    flip(run / "step_000004" / "config.json", random.Random(5))
    with pytest.raises(UserError, match=r"step_000004/config.json is damaged"):
        verify(run)
    with pytest.raises(UserError, match="nothing to compare"):
        verify(tmp_path)


def test_a_model_without_its_training_state_is_whole(unbroken, tmp_path):
    model = shutil.copytree(unbroken("P") / "step_000006", tmp_path / "model")
    flip(model / "train_state" / "rng.pt", random.Random(6))
    checkpoint.verify_checkpoint(model)  # --init_from does not read it
    shutil.rmtree(model / "train_state")
    checkpoint.verify_checkpoint(model)
