"""data.py with its worker processes: killed in every way, in any folder, and reading from the hub."""

import io
import json
import re
import signal
from pathlib import Path

import prepared
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import TEXTS, files, parquet
from hub import REVISION, Hub
from prepared import (
    INSTRUCTIONS,
    PAIRS,
    check_split,
    conversations,
    expected_conversations,
    finished,
    script,
    split_texts,
    workers_of,
)

from dataprep.shards import read_meta


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Write a corpus of about a dozen units; return it and the files that an uninterrupted run makes of it."""
    folder = tmp_path_factory.mktemp("large")
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {text}"}) + "\n" for n in range(170) for text in TEXTS))
    assert path.stat().st_size > 11 << 20
    flags = ("--files", path, "--name", "mine", "--tokenizer", "bytes", "--data_dir", folder / "data")
    code, _, err = finished(script(*flags))
    assert code == 0, err
    return path, files(folder / "data")


def test_workers_run_our_modules_in_any_folder(
    large: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dataprep.py").write_text("raise SystemExit('the wrong dataprep.py')")
    monkeypatch.chdir(tmp_path)
    process = script("--files", large[0], "--name", "mine", "--tokenizer", "bytes", "--data_dir", tmp_path)
    (server,) = {
        int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in workers_of(process)
    }
    assert "pyarrow" in Path(f"/proc/{server}/maps").read_text()  # it has imported what they need
    code, _, err = finished(process)
    assert code == 0 and "the wrong dataprep.py" not in err, err  # a slow machine prints its progress
    assert files(tmp_path / "mine").keys() == {name.removeprefix("mine/") for name in large[1]}


def test_a_long_temporary_folder_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("t" * 100)
    folder.mkdir()
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:50]))
    flags = ("--files", path, "--name", "mine", "--tokenizer", "bytes", "--data_dir", tmp_path / "data")
    code, out, err = finished(script(*flags, TMPDIR=str(folder)))
    assert code == 0 and "done" in out and "Traceback" not in err


# (how it is ended, exit code, stderr or None where it does not matter)
KILLS = [
    (prepared.kill_a_worker, 2, "error: a worker process was killed.* run the same command again.*\n"),
    (prepared.press_ctrl_c, 130, "interrupted\n"),
    (prepared.kill_main, -signal.SIGKILL, None),
    (prepared.kill_everything, -signal.SIGKILL, None),
]


def test_killed_again_and_again_it_resumes_to_the_same_files(
    large: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    path, expected = large
    partial = tmp_path / ".mine.partial"
    flags = ("--files", path, "--name", "mine", "--tokenizer", "bytes", "--data_dir", tmp_path)
    for kill, expected_code, message in KILLS:
        process = script(*flags)
        kill(process, workers_of(process), partial)
        code, _, err = finished(process)
        assert code == expected_code
        assert message is None or re.fullmatch(message, err), err

        units = sorted(partial.glob("unit-*.json"))
        assert 1 <= len(units) < 11 and not (tmp_path / "mine").exists()
        for unit in units[1:]:  # so that the next round has work left, however fast the machine
            unit.unlink()
    assert finished(script(*flags))[0] == 0 and files(tmp_path) == expected


def hub_script(flag: str, hub: Hub, folder: Path):
    """Start data.py for a named dataset of a hub on this machine."""
    words = (flag, "--tokenizer", "bytes", "--data_dir", folder)
    return script(*words, HF_ENDPOINT=hub.url, HF_HOME=str(folder))


def test_the_named_texts_come_from_the_hub(tmp_path: Path) -> None:
    fineweb = {f"sample/10BT/00{n}_00000.parquet": parquet(TEXTS[n * 100 : n * 100 + 100]) for n in range(3)}
    tinystories = {
        "data/train-00000-of-00001-a.parquet": parquet(TEXTS[:80]),
        "data/validation-00000-of-00001-b.parquet": parquet(TEXTS[80:100]),
    }
    with Hub({"HuggingFaceFW/fineweb": fineweb, "roneneldan/TinyStories": tinystories}) as hub:
        hub.fault("/api/datasets/HuggingFaceFW/fineweb", status=503)
        hub.fault("/resolve/", cut=50)
        for process in [hub_script(flag, hub, tmp_path) for flag in ("--fw", "--tinystories")]:
            code, _, err = finished(process)
            assert code == 0 and "error" not in err, err
        assert hub.faults == []

    check_split(TEXTS[:300], **split_texts(tmp_path / "fw"), fraction=0.2)
    assert split_texts(tmp_path / "tinystories") == {"train": TEXTS[:80], "val": TEXTS[80:100]}
    assert read_meta(tmp_path / "fw")["source"] == {"repo": "HuggingFaceFW/fineweb", "revision": REVISION}


def message_lists(row: dict) -> dict:
    """Return a pair as UltraFeedback stores it."""
    lists = {
        column: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[column]}]
        for column in ("chosen", "rejected")
    }
    return {**lists, "score_chosen": 8.0}


def table(rows: list[dict]) -> bytes:
    """Return pairs as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(map(message_lists, rows))), file, row_group_size=20)
    return file.getvalue()


def test_instructions_and_preferences_come_from_the_hub(tmp_path: Path) -> None:
    """Check a JSON array and Parquet files of message lists; rows that teach nothing are skipped and counted."""
    empty = {**INSTRUCTIONS[0], "output": " "}
    equal = {**PAIRS[0], "rejected": PAIRS[0]["chosen"]}
    alpaca_file = json.dumps([*INSTRUCTIONS[:50], empty, *INSTRUCTIONS[50:], empty]).encode()
    preferences = {
        "data/train-00000-of-00001.parquet": table([*PAIRS[:30], equal, *PAIRS[30:80]]),
        "data/test-00000-of-00001.parquet": table(PAIRS[80:]),
    }
    repos = {
        "yahma/alpaca-cleaned": {"README.md": b"", "alpaca_data_cleaned.json": alpaca_file},
        "trl-lib/ultrafeedback_binarized": preferences,
    }
    with Hub(repos) as hub:
        hub.fault("/api/datasets/yahma", status=503)
        hub.fault("/resolve/", cut=50, times=2)
        runs = [hub_script(flag, hub, tmp_path) for flag in ("--alpaca", "--dpo")]
        for process, skipped in zip(runs, (2, 1), strict=True):
            code, out, err = finished(process)
            assert code == 0 and "error" not in err, err
            assert f"; left out {skipped} rows: nothing to learn" in out
        assert hub.faults == []

    expected = [text for n in range(len(INSTRUCTIONS)) for text in expected_conversations("instruct", n)]
    check_split(expected, *conversations(tmp_path / "alpaca"), fraction=0.1)
    assert conversations(tmp_path / "dpo") == [
        [text for n in numbers for text in expected_conversations("preference", n)]
        for numbers in (range(80), range(80, 120))
    ]
    assert read_meta(tmp_path / "dpo")["source"] == {
        "repo": "trl-lib/ultrafeedback_binarized",
        "revision": REVISION,
    }


def test_a_bad_row_of_the_hub_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    rows = [*TEXTS[:150], None, *TEXTS[151:200]]
    with Hub({"HuggingFaceFW/fineweb": {"sample/10BT/000_00000.parquet": parquet(rows)}}) as hub:
        code, _, err = finished(hub_script("--fw", hub, tmp_path))
    assert code == 2
    assert re.fullmatch("error: hf://.*000_00000.parquet row 151: column 'text' holds None.*\n", err)
    assert not (tmp_path / "fw").exists()
