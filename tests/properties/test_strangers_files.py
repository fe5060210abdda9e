"""Files of strangers with random damage: each is read, or refused as a mistake of the user's; never another error.

The default suite takes a few seeds; more:  python -m pytest tests/properties/test_strangers_files.py -m slow
"""

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from random_cases import random_cases

from checkpoint import load_end_ids, load_sampling, write_model
from config import ModelArgs, resolve
from dataprep.ranges import local_ranges
from dataprep.readers import iter_rows
from dataprep.shards import SPLITS, TokenDataset, read_meta
from generation.chat import load_chat_model, stage_of
from model import Llama
from modelfiles.origin import read_origin
from runtime.checksums import first_corrupt_file, write_checksums
from runtime.errors import UserError
from runtime.files import write_json
from runtime.hub import READ_ERRORS
from tokenizer import byte_level, load_tokenizer
from training.metrics import read_metrics
from training.state import load_state

MUTATIONS = 25  # of each file in each case
NASTY = [
    *(None, True, False, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 10**30, "", "x", "../../x", "\ud800"),
    *("a\nb", "9" * 50, [], [1], [[]], {}, {"a": 1}, {"type": "x"}),
]
STATE = {
    "format": 2,
    "step": 2,
    "cursor": 16,
    "tokens": 1024,
    "args": {"train": "P", "stop": ["x"], "lora_modules": [], "head_dim": 8, "clip": 1, "rope_scaling": None},
    "data": "d1",
    "stage": "fine-tuning",
    "world_size": 1,
    "device": "cpu",
    "sources": {"toy": {"files": []}},
    "validation_loss": 4.5,
    "skips": {"in_a_row": 0, "first": 0, "returned_to": [], "left_out": [[1, 2]]},
    "decay_end": 2,
    "cooldown_checkpoint": None,
    "init_from": None,
    "reference": None,
    "reference_dtype": None,
}


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of each part of a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value[:30])
    for key, part in items:
        yield from places(part, (*path, key))


def mutated_json(content: bytes, rng: random.Random) -> bytes:
    """Return JSON in which some parts are missing or something else."""
    value = copy.deepcopy(json.loads(content))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        path = rng.choice(list(places(value)))
        if not path:
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        if rng.random() < 0.2:
            del parent[path[-1]]
        else:
            parent[path[-1]] = copy.deepcopy(rng.choice(NASTY))
    return json.dumps(value).encode()


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return a file that is cut short, or in which some bytes are others."""
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 10))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def try_all(path: Path, read: Callable[[], object], rng: random.Random, errors: tuple = ()) -> int:
    """Return the number of mutations of a file that are refused; any error but UserError and `errors` fails."""
    content = path.read_bytes()
    refused = 0
    for _ in range(MUTATIONS):
        is_json = path.suffix == ".json" and rng.random() < 0.7
        path.write_bytes((mutated_json if is_json else mutated_bytes)(content, rng))
        try:
            read()
        except (UserError, *errors):
            refused += 1
        except BaseException:
            print(f"damaged {path.name}: {path.read_bytes()[:5000]!r}")
            raise
    path.write_bytes(content)
    return refused


@pytest.fixture
def model_folder(tmp_path: Path, tiny: ModelArgs) -> Path:
    """Return a model folder of our own with a training state."""
    (tmp_path / "train_state").mkdir()
    tokenizer = byte_level()
    model = Llama(tiny.replace(vocab_size=tokenizer.vocab_size))
    sampling = {"temperature": 0.5, "top_k": 5, "top_p": 0.9, "min_p": 0.0, "max_length": 5}
    write_model(
        tmp_path,
        model,
        tokenizer,
        {"stage": "S"},
        sampling={**sampling, "num_beams": 1, "repetition_penalty": 1.0},
    )
    write_json(tmp_path / "train_state" / "state.json", STATE)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss": 2.5}\n' * 3)
    write_checksums(tmp_path, {})
    return tmp_path


@random_cases
def test_files_of_a_model(model_folder: Path, seed: int) -> None:
    rng = random.Random(seed)

    def load() -> None:
        load_chat_model(model_folder)
        stage_of(model_folder)

    def load_settings() -> None:
        resolve(load_sampling(model_folder))
        load_end_ids(model_folder)
        read_origin(model_folder)

    state = model_folder / "train_state" / "state.json"
    readers = {
        model_folder / "config.json": load,
        model_folder / "generation_config.json": load_settings,
        model_folder / "tokenizer_config.json": load,
        model_folder / "tokenizer.json": lambda: load_tokenizer(model_folder).encode("One day, äé"),
        model_folder / "model.safetensors": load,
        state: lambda: ModelArgs(**load_state(model_folder)[1]["args"]),
        model_folder / "SHA256SUMS": lambda: first_corrupt_file(model_folder),
        model_folder / "metrics.jsonl": lambda: read_metrics(model_folder / "metrics.jsonl"),
    }
    refused = {path.name: try_all(path, read, rng) for path, read in readers.items()}
    for path, read in readers.items():
        read()
        if path.name not in ("SHA256SUMS", "metrics.jsonl", "model.safetensors"):
            assert refused[path.name] > 0, path


@random_cases
def test_meta_of_prepared_data(tmp_path: Path, seed: int) -> None:
    from toy import toy_dataset  # prepares files

    folder = toy_dataset(tmp_path, sentences=16)

    def load() -> None:
        meta = read_meta(folder)
        for split in SPLITS:
            dataset = TokenDataset(folder, split, meta)
            if len(dataset):
                dataset.read(0, 5)

    assert try_all(folder / "meta.json", load, random.Random(seed)) > 0
    load()


def write_tables(folder: Path) -> list[Path]:
    """Write a small table as Parquet and in both layouts of Arrow."""
    texts = [f"Row {number} of the text. " * 3 for number in range(60)]
    turns = [[{"role": "user", "content": "Hi"}]] * 60
    table = pa.table({"text": texts, "messages": turns, "number": list(range(60))})
    paths = [folder / name for name in ("a.parquet", "b.parquet", "file.arrow", "stream.arrow")]
    pq.write_table(table, paths[0], row_group_size=20, compression="none")
    pq.write_table(table, paths[1], row_group_size=20, compression="zstd", write_page_checksum=True)
    with pa.ipc.new_file(paths[2], table.schema) as file:
        file.write_table(table, max_chunksize=20)
    with pa.ipc.new_stream(paths[3], table.schema) as stream:
        stream.write_table(table, max_chunksize=20)
    return paths


@random_cases
def test_tables(tmp_path: Path, seed: int) -> None:
    """What the library says of a damaged part comes from a worker, which says it in one line."""
    rng = random.Random(seed)
    for path in write_tables(tmp_path):

        def load(path: Path = path) -> None:
            for columns in (("text",), None):
                for file_range in local_ranges([str(path)], 1 << 20):
                    assert all(str(name) for _, name in iter_rows(file_range, columns))

        load()
        assert try_all(path, load, rng, READ_ERRORS) > 0
    shutil.rmtree(tmp_path)
