"""The datasets that have a name, and the spans of whatever is to be prepared.

stories       the built-in story world: stories, stories_instruct, stories_preference, one tokenizer for all three
fw, tinystories, alpaca, dpo       on the Hugging Face hub
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dataprep.sources import HubDataset, Span, hub_spans, local_spans
from runtime.errors import UserError
from stories.examples import conversation_at, instruction_at, preference_at
from stories.world import story_at
from tokenizer import HEADINGS, Tokenizer, instruction_text, train_bpe

HUB = {
    "fw": HubDataset("HuggingFaceFW/fineweb", {None: "sample/10BT/*.parquet"}),
    "tinystories": HubDataset(
        "roneneldan/TinyStories", {"train": "data/train-*.parquet", "val": "data/validation-*.parquet"}
    ),
    "alpaca": HubDataset("yahma/alpaca-cleaned", {None: "*.json"}, "instruct"),
    "dpo": HubDataset(
        "trl-lib/ultrafeedback_binarized",
        {"train": "data/train-*.parquet", "val": "data/test-*.parquet"},
        "preference",
    ),
}
VAL_FRACTION = {"fw": 0.2}  # of the documents, where a dataset has no split of its own; 0.1 elsewhere
STORY_VOCABULARY = 2048
TOLD = 10_000  # stories that its tokenizer is trained on


@dataclass(frozen=True)
class StorySet:
    """A dataset of the story world: the row at (split, index, seed), how many of them, and their size, about."""

    kind: str
    row_at: Callable[[str, int, int], dict]
    rows: dict[str, int]
    row_bytes: int


STORIES = {
    "stories": StorySet(
        "text", lambda *place: {"text": story_at(*place)[1]}, {"train": 30_000, "val": 2_000}, 800
    ),
    "stories_instruct": StorySet("instruct", conversation_at, {"train": 34_000, "val": 1_000}, 400),
    "stories_preference": StorySet("preference", preference_at, {"train": 4_000, "val": 400}, 1300),
}


@dataclass(frozen=True)
class Source:
    """What one dataset is made from; `described` are the words for meta.json that say where it is from."""

    name: str
    kind: str
    spans: list[Span]
    described: dict


def unit_bytes(total: int) -> int:
    """Size of a unit: about a hundredth of the input, from 1 to 32 MB."""
    return min(max(total // 100, 1 << 20), 32 << 20)


def hub_source(name: str, revision: str | None) -> Source:
    """A dataset of the hub at a revision (None: the newest)."""
    spans, revision = hub_spans(HUB[name], unit_bytes(1 << 32), revision)
    return Source(name, HUB[name].kind, spans, {"repo": HUB[name].repo, "revision": revision})


def file_source(name: str, kind: str, paths: list[str]) -> Source:
    """A dataset of local files. Raises UserError for a file that cannot be of this kind."""
    if kind != "text" and (texts := [path for path in paths if Path(path).suffix.lower() == ".txt"]):
        raise UserError(f"{texts[0]}: a .txt file has no rows of kind {kind}: give .jsonl, .json or .parquet")
    sizes = [os.stat(path).st_size if os.path.isfile(path) else 0 for path in paths]
    spans = local_spans(paths, unit_bytes(sum(sizes)))
    return Source(
        name,
        kind,
        spans,
        {
            "files": [
                {"path": path, "bytes": size, "modified": os.stat(path).st_mtime}
                for path, size in zip(paths, sizes, strict=True)
            ]
        },
    )


def story_sources(seed: int) -> list[Source]:
    """The three datasets of the story world."""
    return [_story_source(name, seed) for name in STORIES]


def _story_source(name: str, seed: int) -> Source:
    made, spans = STORIES[name], []
    step = max(1, unit_bytes(sum(made.rows.values()) * made.row_bytes) // made.row_bytes)
    for split, count in made.rows.items():
        for start in range(0, count, step):
            stop = min(start + step, count)
            spans.append(Span("story world", name, start, stop, (stop - start) * made.row_bytes, split))
    sample = json.dumps([made.row_at(split, n, seed) for split in made.rows for n in range(100)])
    return Source(
        name,
        made.kind,
        spans,
        {  # new words make a new plan
            "generator": "story_world.py",
            "sha256": hashlib.sha256(sample.encode()).hexdigest(),
            "seed": seed,
            "rows": made.rows,
        },
    )


def story_rows(span: Span, seed: int) -> Iterator[tuple[dict, str]]:
    """The rows of a span of the story world, with the words that name each."""
    row_at = STORIES[span.form].row_at
    return ((row_at(span.split, n, seed), f"{span.form} row {n + 1}") for n in range(span.start, span.stop))


def story_tokenizer(seed: int) -> Tokenizer:
    """A BPE trained on stories, and on questions and answers with the template's headings, which are short then."""
    told = (story_at("train", n, seed)[1] for n in range(TOLD))
    asked = (
        HEADINGS["user"]
        + instruction_text(row["instruction"], row["input"])
        + f"\n\n{HEADINGS['assistant']}"
        + row["output"]
        for row in (instruction_at("train", n, seed) for n in range(TOLD // 2))
    )
    return train_bpe(itertools.chain(told, asked), STORY_VOCABULARY)
