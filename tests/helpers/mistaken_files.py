"""The folder in which users make their mistakes: data and models that are right, and many that are not."""

import contextlib
import gzip
import io
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from bad_rows import BAD_ROWS, GOOD
from guests import ENDLESS, GEMMA, REWRITES, write_guest
from mistaken_models import STEP, flip, write_lost_references, write_models, write_runs
from prepared import Inline
from tokenizers import models, pre_tokenizers
from toy import TINY, flags, toy_dataset, toy_text, write_rows

import data
import trainer
from dataprep.shards import FORMAT
from runtime.checksums import write_checksums
from tokenizer import train_bpe

FOLDER_NAME = "{tmp}"
SETTINGS = {**TINY, "block_size": 96, "total_batch_size": 768, "total_iters": 1}  # of every run
SENTENCES = "\n".join(toy_text(200, 0))
# Small files, by their names.
FILES = {
    "book.txt": SENTENCES,
    "empty.txt": "",
    "blank.jsonl": '{"text": ""}\n',
    "systems.jsonl": json.dumps(
        {"messages": [{"role": role, "content": "Hi"} for role in ("system", "user", "assistant")]}
    ),
    "notes.pdf": "%PDF",
    "noending": SENTENCES,
    "latin1.txt": "ein schönes Haus".encode("latin-1"),
    "utf16.txt": SENTENCES.encode("utf-16"),
    "utf16-unmarked.txt": SENTENCES.encode("utf-16-le"),
    "latin1.jsonl": '{"text": "schön"}'.encode("latin-1"),
    "latin1.csv": "text\nschön\n".encode("latin-1"),
    "latin1-array.json": '[\n{"text": "schön"}]'.encode("latin-1"),
    "fields.csv": "text,b\nx,y\nz\n",
    "quotes.csv": 'text\n"x" y\n',
    "columns.csv": "body,b\nx,y\n",
    "missing-bracket.json": '[\n{"text": "a"},\n{"text": "b"}\n',
    "missing-comma.json": '[\n{"text": "a"}\n{"text": "b"}]\n',
    "more-after.json": '[\n{"text": "a"}\n]\n{"text": "b"}\n',
    "deep.json": "[\n" + "[" * 100_000,
    "cut.parquet": b"PAR1" + bytes(100),
    "cut.arrow": b"ARROW1" + bytes(100),
    "cut.txt.gz": gzip.compress(SENTENCES.encode())[:100],
    "not-gzip.txt.gz": SENTENCES,
    "not-gzip.parquet.gz": SENTENCES,
    "prompts/no-rows.jsonl": "\n\n",
    "prompts/latin1.jsonl": '{"prompt": "schön"}'.encode("latin-1"),
    "prompts/not-json.jsonl": '{"prompt": "a"}\n{"prompt": \n',
    "prompts/a-list.jsonl": '["a"]\n',
    "prompts/tools.jsonl": '{"prompt": "a", "tools": [1]}\n',
    "prompts/both.jsonl": '{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}\n',
    "prompts/neither.jsonl": '{"question": "a"}\n',
    "prompts/answered.jsonl": '{"messages": [{"role": "assistant", "content": "b"}]}\n',
    "prompts/long.jsonl": json.dumps({"prompt": "word " * 100}) + "\n",
    "prompts/half.jsonl": '{"prompt": "\\ud83d"}\n',
    "prompts/good.jsonl": '{"prompt": "a"}\n',
    "prompts/other-replies.jsonl": '{"prompt": "b", "reply": "x"}\n',
    "tasks.yaml": "task: [",
    "folders/empty/.keep": "",
    "folders/pictures/a.png": "x",
    "folders/pictures/b.PNG": "x",
    "folders/read/README.md": "mine",
}


def write_folder(folder: Path) -> Path:
    """Write data/ and checkpoints/ as the scripts do, and what is wrong beside them."""
    for name, content in FILES.items():
        write(folder / name, content)
    write_bad_rows(folder / "rows")
    write_tables(folder)
    write_token_files(folder / "tokens")
    write_tokenizers(folder / "tokenizers")
    write_datasets(folder / "data")
    write_unfinished(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        patch.setattr("runtime.distributed.BENCHMARK_TRIES", 1)
        train(folder, "P", "toy")
        train(folder, "S", "chat", "checkpoints/P-toy")
        train(folder, "D", "pairs", "checkpoints/S-chat")
    write_models(folder / "models", folder / "checkpoints" / "P-toy" / STEP)
    write_runs(folder / "checkpoints")
    write_lost_references(folder / "references", folder / "data")
    return folder


def write(path: Path, content: str | bytes) -> None:
    """Write a file, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_bad_rows(folder: Path) -> None:
    """Write a file for each row that is refused: a good row, and the bad one."""
    for name, (kind, row, _) in BAD_ROWS.items():
        line = row if isinstance(row, str) and name != "a-string" else json.dumps(row)
        write(folder / f"{name}.jsonl", f"{json.dumps(GOOD[kind])}\n{line}\n")


def write_tables(folder: Path) -> None:
    """Write Parquet files: one without a column of text, and one with text that is not UTF-8."""
    pq.write_table(pa.table({"body": ["x"]}), folder / "columns.parquet")
    latin1 = pa.array([b"sch\xf6n"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": latin1}), folder / "latin1.parquet")


def write_token_files(folder: Path) -> None:
    """Write token files as datatrove does, each with a fault."""
    for name, ids in (
        ("no-index", [5, 0]),
        ("with-loss", [5, 0]),
        ("cut-short", [5]),
        ("too-large", [60_000, 256]),
        ("other-end", [5, 0, 6, 0]),
    ):
        write(folder / f"{name}.ds", struct.pack(f"<{len(ids)}H", *ids))
        ends = range(2, len(ids) + 1, 2) if name != "cut-short" else [2]
        if name != "no-index":
            write(folder / f"{name}.ds.index", struct.pack(f"<{len(ends)}Q", *ends))
    write(folder / "with-loss.ds.loss", "x")
    write(folder / "other-end.ds.metadata", "gpt2|2\n4\n")


def write_tokenizers(folder: Path) -> None:
    """Write folders of tokenizers that are broken, have no end, lose letters or have a template that is no use."""
    write(folder / "broken" / "tokenizer.json", "{")
    write_guest(folder / "no-end", None, eos_token=None)
    write_guest(folder / "unknown-end", None, eos_token="<end>")
    write_guest(folder / "no-template", None)
    write_guest(folder / "endless", ENDLESS)
    write_guest(folder / "rewrites", REWRITES)
    write_guest(folder / "refuses-system", GEMMA)
    write_guest(folder / "no-jinja", "{% for %}")
    write_guest(folder / "divides", "{{ 1 / 0 }}")
    write_guest(folder / "silent", "{{ bos_token }}")
    write_guest(
        folder / "miscounts",
        "{% generation %}x{% endgeneration %}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )

    words = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "the": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<unk>", "</s>"])
    for name in ("loses", "no-unknown", "knows-a"):
        content = json.loads(words.to_str())
        if name != "loses":
            content["model"]["unk_token"] = "<none>"
        if name == "knows-a":
            content["model"]["vocab"]["a"] = 3
        write(folder / name / "tokenizer.json", json.dumps(content))
        write(folder / name / "tokenizer_config.json", '{"eos_token": "</s>"}')


def write_datasets(data_dir: Path) -> None:
    """Write a dataset of each kind, and datasets that are broken or of another tokenizer."""
    for name, kind in (
        ("toy", "text"),
        ("chat", "instruct"),
        ("pairs", "preference"),
        ("pairs2", "preference"),
    ):
        toy_dataset(data_dir, name, kind=kind)
    late = {"prompt": "Hi", "chosen": "a" * 99 + "b", "rejected": "a" * 99 + "c"}
    write_rows(data_dir / "late", "preference", {"train": [[late]], "val": [[late]]})
    for name in ("cut", "cut-val", "one-token", "changed", "format9", "broken", "other", "without-val"):
        shutil.copytree(data_dir / "toy", data_dir / name)
    (data_dir / "cut" / "train-00000.tokens.bin").unlink()
    (data_dir / "cut-val" / "val-00000.tokens.bin").unlink()
    shard = data_dir / "changed" / "train-00000.tokens.bin"
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    write(data_dir / "broken" / "meta.json", "{")
    change(data_dir / "format9" / "meta.json", format=FORMAT + 8)
    tokenizer = json.loads((data_dir / "toy" / "meta.json").read_text())["tokenizer"]
    other = train_bpe([SENTENCES], 300)
    other.save(data_dir / "other" / "tokenizer")
    change(data_dir / "other" / "meta.json", tokenizer={**tokenizer, "hash": other.hash})
    splits = json.loads((data_dir / "toy" / "meta.json").read_text())["splits"]
    change(data_dir / "without-val" / "meta.json", splits={**splits, "val": []})
    one = {**splits["val"][0], "tokens": 1, "documents": 1}
    change(data_dir / "one-token" / "meta.json", splits={**splits, "val": [one]})
    write(data_dir / "one-token" / "val-00000.tokens.bin", struct.pack("<H", 5))
    write(data_dir / "one-token" / "val-00000.ends.bin", struct.pack("<Q", 1))
    write(data_dir / "notes" / "ideas.txt", "mine")
    write(data_dir / "a-file", "mine")
    for name in ("changed", "cut"):  # what write_checksums has seen there is not read again
        assert (data_dir / name / "SHA256SUMS").is_file()
    for name in ("format9", "other", "without-val"):
        write_checksums(data_dir / name, {})


def write_unfinished(folder: Path) -> None:
    """Write the folders of datasets that were begun: with other settings, and a share with a damaged unit."""
    for name in (".half.partial", ".shares.shard-1-of-2"):
        write(folder / "data" / name / "plan.json", "{}")
        write(folder / "data" / name / "unit-00000.json", "{}")
    words = "--files book.txt --name shared --tokenizer bytes --num_proc 1 --shard 1/2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataprep.prepare.ProcessPoolExecutor", Inline)
        patch.setattr("dataprep.worker._end_with_main", lambda: None)
        call(folder, data.main, "data.py", words.split())
    shard = next((folder / "data" / ".shared.shard-1-of-2").glob("*.tokens.bin"))
    flip(shard)


def call(folder: Path, main: Callable[[], None], script: str, words: list[str]) -> None:
    """Run a script's main in a folder."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        patch.setattr("sys.argv", [script, *words])
        main()


def change(path: Path, **values: object) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def train(folder: Path, stage: str, dataset: str, start: str = "", **settings: object) -> None:
    """Train a run of one step."""
    words = flags({**SETTINGS, "train": stage, "dataset": dataset, **settings})
    if start:
        words += ["--init_from", start]
    call(folder, trainer.main, "trainer.py", words)
