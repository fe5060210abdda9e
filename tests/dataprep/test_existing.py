"""What earlier runs left: nothing of a user's is replaced, and links are followed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
from examples import TEXTS, files
from hub import Hub
from prepared import finished, script

from dataprep.existing import (
    OURS,
    carry_foreign_files,
    dataset_folder,
    partial_folder,
    read_config,
    stored_tokenizer,
)
from dataprep.inputs import InputFile
from dataprep.registry import file_source
from dataprep.trained_tokenizer import train
from runtime.files import write_json

inline, command, rows, small = prepared.inline, prepared.command, prepared.rows, prepared.small

WORDS = "the fox saw a small boat and the boat saw the fox "


def test_it_is_not_trained_twice(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(WORDS * 50)
    source = file_source("a", "text", [InputFile(str(file), str(file))])
    assert stored_tokenizer(tmp_path, source, "bpe") is None

    tokenizer = train("bpe:280", source.ranges, "text", 0.1)
    folder = tmp_path / ".a.partial"
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    plan = {"source": source.provenance, "tokenizer": {"name": "bpe:280"}, "units": []}
    write_json(folder / "plan.json", plan)
    assert stored_tokenizer(tmp_path, source, "bpe:280").hash == tokenizer.hash
    assert stored_tokenizer(tmp_path, source, "bpe") is None


def test_what_is_no_folder_has_no_config(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    assert read_config(tmp_path / "file") is read_config(tmp_path / "none") is None


@pytest.mark.parametrize(
    "damaged",
    ["{", "[]", "[" * 100_000, "{}", '{"source": {}, "tokenizer": {"name": "x"}, "units": [[5]]}'],
    ids=len,
)
def test_a_damaged_config_is_none(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "plan.json").write_text(damaged)
    assert read_config(tmp_path) is None


def test_a_users_files_survive_an_update(inline: None, command: Callable, rows: Path, tmp_path: Path) -> None:
    flags = ("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    folder = tmp_path / "data" / "mine"
    assert command(*flags)[0] == 0
    assert all(OURS.fullmatch(path.name) for path in folder.iterdir())

    (folder / "notes.txt").write_text("mine")
    (folder / "plots" / "deep").mkdir(parents=True)
    (folder / "plots" / "deep" / "a.png").write_text("picture")
    (folder / "link").symlink_to("nowhere")
    assert command(*flags, "--val_fraction", "0.3", "--update")[0] == 0
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "plots" / "deep" / "a.png").read_text() == "picture"
    assert os.readlink(folder / "link") == "nowhere"
    assert "notes" not in (folder / "SHA256SUMS").read_text()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]
    carry_foreign_files(tmp_path / "none", folder)


def test_a_linked_dataset_stays_on_its_disk(
    inline: None, command: Callable, rows: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "data").mkdir()
    link = tmp_path / "data" / "mine"
    link.symlink_to(disk / "large")
    assert dataset_folder(tmp_path / "data", "mine") == disk / "large"
    assert partial_folder(tmp_path / "data", "mine") == disk / ".large.partial"

    flags = ("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    for number in range(3):
        assert command(*flags, "--val_fraction", 0.1 + 0.1 * number, "--update")[0] == 0
        assert link.is_symlink() and (disk / "large" / "meta.json").is_file()
        assert [path.name for path in disk.iterdir()] == ["large"]
        assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]


def test_a_dataset_without_a_validation_set_is_complete(
    inline: None, command: Callable, rows: Path, tmp_path: Path
) -> None:
    flags = ("--files", rows, "--name", "mine", "--tokenizer", "bytes", "--val_fraction", 0)
    assert command(*flags)[0] == 0 and "already prepared" in command(*flags)[1]


def test_a_dataset_of_the_hub_is_prepared_once(tmp_path: Path) -> None:
    """The hub is asked once: later calls have the revision and the files, finished or not."""
    content = json.dumps(
        [{"instruction": f"Say {n}", "output": text} for n, text in enumerate(TEXTS[:60])]
    ).encode()
    words = ("--alpaca", "--tokenizer", "bytes", "--data_dir", tmp_path / "data")
    with Hub({"yahma/alpaca-cleaned": {"a.json": content}}) as hub:
        code, _, err = finished(script(*words, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path)))
        assert code == 0, err
    before = files(tmp_path / "data")

    code, out, err = finished(script(*words, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1"))
    assert (code, err) == (0, "") and "already prepared" in out
    code, _, err = finished(
        script(
            *words, "--val_fraction", "0.5", HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1"
        )
    )
    assert code == 2 and "alpaca is already prepared, with other settings (--val_fraction)" in err
    after = files(tmp_path / "data")
    assert {name: digest for name, digest in after.items() if ".verified" not in name} == before


def test_a_tokenizer_by_another_name_is_no_other_setting(
    inline: None, command: Callable, rows: Path, small: Path, tmp_path: Path
) -> None:
    flags = ("--files", rows, "--name", "mine", "--tokenizer")
    assert command(*flags, "bytes")[0] == 0
    code, out, err = command(*flags, tmp_path / "data" / "mine" / "tokenizer")
    assert code == 0 and "already prepared" in out, err
    code, _, err = command(*flags, small)
    assert code == 2 and "with other settings (--tokenizer)" in err
