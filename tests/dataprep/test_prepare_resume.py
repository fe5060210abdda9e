"""Preparing that is killed, repeated, shared among machines or refused: the same files, or the old ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
from examples import TEXTS, files
from prepared import Killed

from dataprep import prepare, worker
from runtime.files import folder_lock

inline, command, rows, small = prepared.inline, prepared.command, prepared.rows, prepared.small


def test_a_prepared_dataset_is_kept_unless_it_is_damaged(
    inline: None, command: Callable, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "mine"
    flags = ("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert command(*flags)[0] == 0
    before = files(folder)
    inode = folder.stat().st_ino
    assert "already prepared" in command(*flags)[1] and folder.stat().st_ino == inode

    lost = next(folder.glob("train-*.tokens.bin"))
    lost.unlink()
    code, out, _ = command(*flags)
    assert code == 0 and f"{lost.name} is missing" in out and files(folder) == before

    rows.touch()
    assert "already prepared" in command(*flags)[1]
    rows.write_text(rows.read_text() + '{"text": "more"}\n')
    for changed in ((), ("--val_fraction", 0.3)):
        code, _, err = command(*flags, *changed)
        setting = "--val_fraction" if changed else "the files or their content"
        assert code == 2 and setting in err and "give --update to replace it" in err and err.count("\n") == 1
    assert {name: digest for name, digest in files(folder).items() if name != ".verified"} == before
    assert command(*flags, "--update")[0] == 0 and files(folder) != before
    assert "already prepared" in command(*flags, "--update")[1]


@pytest.mark.parametrize("suffix", ["jsonl", "txt"])
def test_killed_anywhere_it_resumes_to_the_same_files(
    inline: None, command: Callable, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename and each deletion in turn is the last thing that a run does."""
    path, target = tmp_path / f"a.{suffix}", tmp_path / "data" / "mine"
    flags = ["--files", path, "--name", "mine", "--tokenizer", "bytes"]
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:30]))
        flags += ["--max_tokens", 4_000, "--val_fraction", 0.3]
    else:
        path.write_text("\n".join(TEXTS[:30]))
    left = 10_000

    def limited(action: Callable) -> Callable:
        def limited_action(*arguments, **options) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return action(*arguments, **options)

        return limited_action

    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(Path, name, limited(getattr(Path, name)))
    assert command(*flags)[0] == 0
    expected = files(tmp_path / "data")
    calls = 10_000 - left
    assert calls > 20 and any("plan.json" in name for name in expected)

    for left in range(calls):
        shutil.rmtree(tmp_path / "data")
        with pytest.raises(Killed):
            command(*flags)
        assert not target.exists() or files(target) == {
            name.removeprefix("mine/"): digest for name, digest in expected.items()
        }
        left = 10_000
        assert command(*flags)[0] == 0 and files(tmp_path / "data") == expected


def test_another_config_resets_the_partial_folder_only_when_asked(
    inline: None,
    command: Callable,
    rows: Path,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    partial = tmp_path / "data" / ".mine.partial"
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "make_meta", prepared.kill)
        with pytest.raises(Killed):
            command("--files", rows, "--name", "mine", "--tokenizer", small)
    assert len(list(partial.glob("unit-*.json"))) > 5
    before = files(partial)

    code, _, err = command("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert code == 2 and "finished work of a run with other settings (--tokenizer)" in err
    assert files(partial) == before
    for name in ("mine", "twin"):
        assert command("--files", rows, "--name", name, "--tokenizer", "bytes", "--update")[0] == 0
    have_names = {"meta.json", "SHA256SUMS"}  # these differ, since they hold the dataset's name
    mine, twin = (
        {file: digest for file, digest in files(tmp_path / "data" / name).items() if file not in have_names}
        for name in ("mine", "twin")
    )
    assert mine == twin and not partial.exists()


@pytest.mark.parametrize("killed_at", [0, 1, 5, 30])
def test_machine_shares_become_the_dataset_of_one_machine(
    inline: None,
    command: Callable,
    rows: Path,
    tmp_path: Path,
    killed_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "data"
    flags = ("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert command(*flags)[0] == 0
    expected = files(folder / "mine")
    shutil.rmtree(folder / "mine")
    for number in (3, 1, 2):
        code, out, _ = command(*flags, "--shard", f"{number}/3")
        assert code == 0 and f".mine.shard-{number}-of-3: done" in out
    assert not (folder / "mine").exists()

    moved: list[Path] = []

    def counted(move: Callable) -> Callable:
        def counted_move(path: Path, target: Path) -> Path:
            moved.append(path)
            if len(moved) == killed_at:
                raise Killed
            return move(path, target)

        return counted_move

    def prepare_again(*_: object) -> None:
        raise AssertionError("a unit was prepared again")

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        if killed_at:
            with pytest.raises(Killed):
                command(*flags)
    monkeypatch.setattr(worker, "_write_unit", prepare_again)
    assert command(*flags)[0] == 0
    assert files(folder / "mine") == expected and [path.name for path in folder.iterdir()] == ["mine"]


def test_a_share_whose_removal_was_killed_is_removed(
    inline: None, command: Callable, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    flags = ("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    for number in (1, 2):
        assert command(*flags, "--shard", f"{number}/2")[0] == 0

    def remove_config(path: Path) -> None:
        (path / "plan.json").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_config)
        with pytest.raises(Killed):
            command(*flags)
    assert command(*flags)[0] == 0 and [path.name for path in folder.iterdir()] == ["mine"]


def test_a_share_with_units_and_without_its_config_is_kept(
    inline: None, command: Callable, rows: Path, tmp_path: Path
) -> None:
    """Such a share may be a copy from another machine that is still under way."""
    flags = ("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert command(*flags, "--shard", "1/2")[0] == 0
    share = tmp_path / "data" / ".mine.shard-1-of-2"
    (share / "plan.json").unlink()
    before = files(share)
    code, _, err = command(*flags)
    assert code == 2 and "prepare it again, or remove it" in err and len(before) > 2
    assert files(share) == before


def test_a_share_with_other_settings_is_refused(
    inline: None, command: Callable, rows: Path, tmp_path: Path
) -> None:
    flags = ("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert command(*flags, "--shard", "1/2", "--val_fraction", "0.3")[0] == 0
    assert "finished work" in command(*flags, "--shard", "1/2")[2]
    code, _, err = command(*flags)
    assert code == 2 and ".mine.shard-1-of-2 was prepared with other settings" in err


def test_two_at_once_do_not_mix(inline: None, command: Callable, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / ".mine.partial").mkdir(parents=True)
    with folder_lock(tmp_path / "data" / ".mine.partial"):
        code, _, err = command("--files", rows, "--name", "mine", "--tokenizer", "bytes")
    assert code == 2 and "another process" in err
    assert not list((tmp_path / "data" / ".mine.partial").iterdir())


def test_a_failure_keeps_what_was_prepared_before(
    inline: None, command: Callable, rows: Path, tmp_path: Path
) -> None:
    assert command("--files", rows, "--name", "mine", "--tokenizer", "bytes")[0] == 0
    before = files(tmp_path / "data" / "mine")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(rows.read_text() + '{"text": 1}\n')
    code, _, err = command("--files", bad, "--name", "mine", "--tokenizer", "bytes", "--update")
    assert code == 2 and err.startswith(f"error: {bad} row 401: column 'text' holds 1, not text; 1 bad row")
    assert files(tmp_path / "data" / "mine") == before


def test_a_folder_that_is_no_dataset_is_not_replaced(
    inline: None, command: Callable, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "raw"
    folder.mkdir(parents=True)
    (folder / "book.txt").write_text("Once upon a time. " * 50)
    for source in folder / "book.txt", rows:
        code, _, err = command("--files", source, "--name", "raw", "--tokenizer", "bytes")
        assert code == 2 and "would be replaced: choose another --name" in err and len(err.splitlines()) == 1
        assert [path.name for path in folder.iterdir()] == ["book.txt"]

    (folder / "book.txt").rename(tmp_path / "book.txt")
    flags = ("--name", "raw", "--tokenizer", "bytes")
    assert command("--files", tmp_path / "book.txt", *flags)[0] == 0  # the folder is empty
    assert command("--files", rows, *flags, "--update")[0] == 0  # a dataset is replaced
