"""Datasets that have a name, and the settings by which any dataset is prepared.

stories         the built-in story world: stories, stories_instruct, stories_preference, one tokenizer for all three
those of HUB    on the Hugging Face hub; --hub names any other one there
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from dataprep.inputs import InputFile, check_endings, content_digests
from dataprep.ranges import FileRange, local_ranges
from dataprep.sources import HubChoice, HubDataset, hub_ranges
from dataprep.turns import AS_IT_IS, RowOptions
from stories.examples import conversation_at, instruction_at, preference_at, text_at
from tokenization.prompt_template import HEADINGS, instruction_text
from tokenizer import Tokenizer, train_bpe

HUB = {
    "fw": HubDataset("HuggingFaceFW/fineweb", {None: "sample/10BT/*.parquet"}),
    "fw_edu": HubDataset("HuggingFaceFW/fineweb-edu", {None: "sample/10BT/*.parquet"}),
    # of 6,543 shards of about 60M tokens the first 200
    "climbmix": HubDataset("karpathy/climbmix-400b-shuffle", {None: "shard_00[01]*.parquet"}),
    "tinystories": HubDataset(
        "roneneldan/TinyStories", {"train": "data/train-*.parquet", "val": "data/validation-*.parquet"}
    ),
    # its own repository has a script, which no library runs any more: the hub's own conversion of it
    "shakespeare": HubDataset(
        "karpathy/tiny_shakespeare",
        {
            "train": "default/train/*.parquet",
            "val": "default/validation/*.parquet default/test/*.parquet",
        },
        revision="refs/convert/parquet",
    ),
    "smoltalk": HubDataset(
        "HuggingFaceTB/smol-smoltalk",
        {"train": "data/train-*.parquet", "val": "data/test-*.parquet"},
        "instruct",
    ),
    "alpaca": HubDataset("yahma/alpaca-cleaned", {None: "*.json"}, "instruct"),
    "dpo": HubDataset(
        "trl-lib/ultrafeedback_binarized",
        {"train": "data/train-*.parquet", "val": "data/test-*.parquet"},
        "preference",
    ),
}
DEFAULT_VAL_FRACTION = 0.1  # of the documents, where a dataset has no split of its own
VAL_FRACTION = {"fw": 0.2, "fw_edu": 0.01, "climbmix": 0.01}

UNITS = 100  # about as many for each dataset, within the sizes below
MIN_UNIT_BYTES = 1 << 20
MAX_UNIT_BYTES = 32 << 20
STORY_VOCABULARY = 2048
TOKENIZER_STORIES = 4_000  # for their tokenizer, with half as many questions and answers
SAMPLE_ROWS = 100  # rows of each split whose hash identifies the story world's words


@dataclass(frozen=True)
class Source:
    """Ranges that one dataset is made from; provenance is the entry in meta.json that describes them."""

    name: str
    kind: str
    ranges: list[FileRange]
    provenance: dict


@dataclass(frozen=True)
class PrepConfig:
    """Everything that determines a prepared dataset. Two runs with equal configs write equal files."""

    kind: str
    chat_template: str
    tokenizer: dict
    provenance: dict
    val_fraction: float
    max_tokens: int | None
    units: list[list[FileRange]]
    rows: RowOptions = AS_IT_IS

    def to_json(self) -> dict:
        """Return the config as plan.json stores it."""
        config = {
            "kind": self.kind,
            "template": self.chat_template,
            "tokenizer": self.tokenizer,
            "source": self.provenance,
            "val_fraction": self.val_fraction,
            "max_tokens": self.max_tokens,
            "rows": asdict(self.rows),
            "units": [[file_range.to_json() for file_range in unit] for unit in self.units],
        }
        return json.loads(json.dumps(config))  # tuples become lists, as in the file


def unit_bytes(total: int) -> int:
    """Return the size of a unit of work for an input of `total` bytes."""
    return min(max(total // UNITS, MIN_UNIT_BYTES), MAX_UNIT_BYTES)


def join_units(ranges: list[FileRange]) -> list[list[FileRange]]:
    """Join small neighbouring ranges of the same split into units of about unit_bytes."""
    target = unit_bytes(sum(file_range.bytes for file_range in ranges))
    units: list[list[FileRange]] = []
    size = 0  # of the last unit
    for file_range in ranges:
        if units and units[-1][0].split == file_range.split and size + file_range.bytes <= target:
            units[-1].append(file_range)
            size += file_range.bytes
        else:
            units.append([file_range])
            size = file_range.bytes
    return units


def hub_source(name: str, kind: str, dataset: HubDataset | HubChoice) -> Source:
    """Return a dataset of the hub at its newest revision, or the one asked for, under a name of this machine."""
    ranges, provenance = hub_ranges(dataset, MAX_UNIT_BYTES, None)
    return Source(name, kind, ranges, {**hub_identity(dataset), **provenance})


def hub_identity(dataset: HubDataset | HubChoice) -> dict[str, str | None]:
    """Return what identifies a dataset of the hub in meta.json, besides its revision and licence."""
    if isinstance(dataset, HubChoice):
        return dataset.to_json()
    return {"repo": dataset.repo}


def file_source(
    name: str, kind: str, inputs: Sequence[InputFile], val_inputs: Sequence[InputFile] = ()
) -> Source:
    """Return a dataset of local files, which are known by their content; `val_inputs` are its validation set.

    Raises UserError for an unusable file.
    """
    split = "train" if val_inputs else None
    ranges, files = _read_inputs(kind, inputs, split)
    if not val_inputs:
        return Source(name, kind, ranges, {"files": files})
    val_ranges, val_files = _read_inputs(kind, val_inputs, "val")
    return Source(name, kind, [*ranges, *val_ranges], {"files": files, "val_files": val_files})


def _read_inputs(
    kind: str, inputs: Sequence[InputFile], split: str | None
) -> tuple[list[FileRange], list[dict]]:
    """Return the ranges of files, and what identifies the files."""
    check_endings(inputs, kind)
    sizes = {file.path: os.stat(file.path).st_size for file in inputs}
    ranges = local_ranges([file.path for file in inputs], unit_bytes(sum(sizes.values())))

    digests = content_digests(sizes)
    ranges = [
        replace(file_range, split=split, document=digests[file_range.path] if file_range.document else None)
        for file_range in ranges
    ]
    files = [{"path": file.name, "bytes": sizes[file.path], "sha256": digests[file.path]} for file in inputs]
    return ranges, files


# --- the story world -------------------------------------------------------------------------------------------------


def _text_at(split: str, index: int, seed: int) -> dict:
    return {"text": text_at(split, index, seed)}


@dataclass(frozen=True)
class StorySet:
    """Dataset of the story world: the row at (split, index, seed), rows of each split, and their size, about."""

    kind: str
    row_at: Callable[[str, int, int], dict]
    rows: dict[str, int]
    row_bytes: int


STORIES = {
    "stories": StorySet("text", _text_at, {"train": 6_000, "val": 400}, 800),
    "stories_instruct": StorySet("instruct", conversation_at, {"train": 18_500, "val": 400}, 400),
    "stories_preference": StorySet("preference", preference_at, {"train": 1_800, "val": 240}, 1300),
}


def story_sources(seed: int) -> list[Source]:
    """Return the three datasets of the story world."""
    return [_story_source(name, seed) for name in STORIES]


def _story_source(name: str, seed: int) -> Source:
    """Return one dataset of the story world; its provenance changes when the words of the stories do."""
    story_set = STORIES[name]
    size = sum(story_set.rows.values()) * story_set.row_bytes
    step = max(1, unit_bytes(size) // story_set.row_bytes)

    ranges = []
    for split, count in story_set.rows.items():
        for start in range(0, count, step):
            stop = min(start + step, count)
            num_bytes = (stop - start) * story_set.row_bytes
            ranges.append(FileRange("story world", name, start, stop, num_bytes, split))

    sample = [story_set.row_at(split, n, seed) for split in story_set.rows for n in range(SAMPLE_ROWS)]
    provenance = {
        "generator": "story_world.py",  # as in datasets prepared earlier, which are recognized by it
        "sha256": hashlib.sha256(json.dumps(sample).encode()).hexdigest(),
        "seed": seed,
        "rows": story_set.rows,
    }
    return Source(name, story_set.kind, ranges, provenance)


def story_rows(file_range: FileRange, seed: int) -> Iterator[tuple[dict, str]]:
    """Yield (row, its name in error messages) of a range of the story world."""
    row_at = STORIES[file_range.format].row_at
    for n in range(file_range.start, file_range.stop):
        yield row_at(file_range.split, n, seed), f"{file_range.format} row {n + 1}"


def story_tokenizer(seed: int) -> Tokenizer:
    """Train a BPE on stories, and on questions and answers with the template's headings, which get short then."""
    stories = (text_at("train", n, seed) for n in range(TOKENIZER_STORIES))
    rows = (instruction_at("train", n, seed) for n in range(TOKENIZER_STORIES // 2))
    conversations = (
        HEADINGS["user"]
        + instruction_text(row["instruction"], row["input"])
        + f"\n\n{HEADINGS['assistant']}"
        + row["output"]
        for row in rows
    )
    return train_bpe(itertools.chain(stories, conversations), STORY_VOCABULARY)
