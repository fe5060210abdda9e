"""Any dataset of the hub: configs, splits and layouts, offline afterwards, at one revision."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pytest
from examples import TEXTS, parquet
from hub import REVISION, Hub
from prepared import finished, script, split_texts

from dataprep.shards import TokenDataset, read_meta

CONFIGS = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: data/en-train.parquet
  - split: validation
    path: data/en-validation.parquet
- config_name: de
  data_files: data/de.parquet
---
"""


def chats(name: str, count: int) -> bytes:
    """Return conversations as compressed JSONL."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{name} {n}?"},
                {"role": "assistant", "content": f"It is {n}."},
            ]
        }
        for n in range(count)
    ]
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def table(rows: list[list[str]]) -> bytes:
    """Return rows as CSV."""
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


REPOS = {
    "own/configs": {
        "README.md": CONFIGS.encode(),
        "data/en-train.parquet": parquet(TEXTS[:80]),
        "data/en-validation.parquet": parquet(TEXTS[80:100]),
        "data/de.parquet": parquet(TEXTS[100:150]),
    },
    "own/lines": {"train.jsonl.gz": chats("What", 60), "test.jsonl.gz": chats("Which", 10)},
    "own/table": {
        "pairs.csv": table(
            [["prompt", "chosen", "rejected"], *([f"Say {n}", f"Yes {n}", "No"] for n in range(40))]
        )
    },
    "own/texts": {"one.txt": b"A first text.", "two.txt": b"A second text."},
    "own/tar": {"data/train-0.tar": b"0" * 20_480},
    "own/script": {"script.py": b"import datasets"},
    "own/semicolon": {
        "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: a.csv\n  sep: ;\n---\n",
        "a.csv": b"text;other\na;b\n",
    },
}


@pytest.fixture
def hub() -> Hub:
    """Serve datasets of several layouts."""
    with Hub(REPOS) as served:
        yield served


def prepare(hub: Hub, folder: Path, *flags: str, **environment: str) -> tuple[int, str, str]:
    """Run data.py --hub on the hub of this machine."""
    words = ("--tokenizer", "bytes", "--data_dir", folder / "data", *flags)
    places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "cache")}
    return finished(script(*words, **places, **environment))


def test_configs_and_splits_are_those_of_the_dataset(hub: Hub, tmp_path: Path) -> None:
    flags = ("--hub", "own/configs", "--hub_config", "en", "--val_split", "validation", "--name", "en")
    code, _, err = prepare(hub, tmp_path, *flags)
    assert code == 0, err
    assert split_texts(tmp_path / "data" / "en") == {"train": TEXTS[:80], "val": TEXTS[80:100]}
    source = read_meta(tmp_path / "data" / "en")["source"]
    assert source["revision"] == REVISION and source["config"] == "en" and source["val_split"] == "validation"

    # A split of one's own is held out where no other is named.
    code, _, err = prepare(hub, tmp_path, "--hub", "own/configs", "--hub_config", "de", "--name", "de")
    assert code == 0, err
    splits = split_texts(tmp_path / "data" / "de")
    assert sorted(splits["train"] + splits["val"]) == sorted(TEXTS[100:150]) and splits["val"]

    # The same command needs no hub; another config under the same name is other data.
    offline = {"HF_HUB_OFFLINE": "1"}
    code, out, _ = prepare(hub, tmp_path, *flags, **offline)
    assert code == 0 and "already prepared" in out
    code, _, err = prepare(hub, tmp_path, "--hub", "own/configs", "--hub_config", "de", "--name", "en")
    assert code == 2 and "--update" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("repo", "kind", "flags", "documents"),
    [
        ("own/lines", "instruct", ("--val_split", "test"), {"train": 60, "val": 10}),
        ("own/table", "preference", ("--val_fraction", "0"), {"train": 80, "val": 0}),
        ("own/texts", "text", ("--val_fraction", "0"), {"train": 2, "val": 0}),
    ],
)
def test_other_layouts_are_read_too(
    hub: Hub, tmp_path: Path, repo: str, kind: str, flags: tuple[str, ...], documents: dict[str, int]
) -> None:
    code, _, err = prepare(hub, tmp_path, "--hub", repo, "--kind", kind, *flags)
    assert code == 0, err
    folder = tmp_path / "data" / repo.partition("/")[2]
    meta = read_meta(folder)
    assert {split: TokenDataset(folder, split, meta).documents for split in documents} == documents


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--hub", "own/configs"), "has several configs: choose one with --hub_config, of en, de"),
        (("--hub", "own/configs", "--hub_config", "fr"), "no config fr: --hub_config is one of en, de"),
        (("--hub", "own/lines", "--split", "dev"), "no split dev: --split is one of train, test"),
        (("--hub", "own/lines", "--val_split", "dev"), "no split dev: --val_split is one of train, test"),
        (("--hub", "own/tar"), "train-0.tar, which data.py does not read"),
        (("--hub", "own/script"), "no files that can be read as they are.*--revision refs/convert/parquet"),
        (("--hub", "own/semicolon"), "read with sep ';', which data.py has no flag for"),
        (("--hub", "own/nothing"), "is not on the hub"),
        (("--hub", "own/lines", "--revision", "v2"), "has no such revision|is not on the hub"),
        (("--hub", "own/lines", "--val_split", "test", "--val_fraction", "0.1"), "drop one of them"),
        (("--hub_config", "en", "--fw"), "--hub_config goes with --hub"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    hub: Hub, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    code, _, err = prepare(hub, tmp_path, *flags)
    assert code == 2 and re.search(words, err), err
    assert err.count("\n") == 1


def test_all_machines_read_the_revision_of_the_first(hub: Hub, tmp_path: Path) -> None:
    """A commit between two shares: nothing of it is read."""
    flags = ("--hub", "own/lines", "--kind", "instruct", "--val_split", "test")
    assert prepare(hub, tmp_path, *flags, "--shard", "1/2")[0] == 0
    hub.newest = "f" * 40
    for share in (("--shard", "2/2"), ()):
        code, _, err = prepare(hub, tmp_path, *flags, *share)
        assert code == 0, err
    meta = read_meta(tmp_path / "data" / "lines")
    assert meta["source"]["revision"] == REVISION
    assert TokenDataset(tmp_path / "data" / "lines", "train", meta).documents == 60
