"""One unit of a dataset that is being prepared: its rows to documents to shards, in a worker process."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from dataprep.documents import Document, cut, documents, row_documents
from dataprep.registry import STORIES, story_rows
from dataprep.shards import SPLITS, ShardWriter, id_dtype
from dataprep.sources import Span, in_validation
from runtime.errors import UserError
from runtime.files import write_json
from runtime.hub import READ_ERRORS, retry, short_error
from tokenizer import Tokenizer

_worker: dict = {}  # what a worker process keeps between units: tokenizer, folder, plan, counter


def start_worker(folder: Path, plan: dict, tokenizer: Tokenizer, counter) -> None:
    """What each worker process does first; the counter of tokens is shared by all."""
    threading.Thread(target=_end_with_main, daemon=True).start()
    _worker.update(tokenizer=tokenizer, folder=folder, plan=plan, counter=counter)


def _end_with_main() -> None:
    """A worker that outlived a killed main process would write into the folder of the next run."""
    multiprocessing.parent_process().join()
    os._exit(1)


def prepare_unit(index: int, budget: int | None) -> dict:
    """Make the shards of a unit, at most `budget` tokens; tried again when the network stumbles. Returns its entry."""
    spans = [Span(**span) for span in _worker["plan"]["units"][index]]
    remote = any(span.path.startswith("hf://") for span in spans)
    try:
        return retry(lambda: _make_unit(index, spans, budget), f"unit {index}", tries=4 if remote else 1)
    except READ_ERRORS as error:  # said in words here, since the hub's errors do not travel between processes
        raise UserError(
            f"unit {index} ({spans[0].path}) failed for good ({short_error(error)}); what is done so far "
            "is kept: run the same command again to go on"
        ) from None


def _make_unit(index: int, spans: list[Span], budget: int | None) -> dict:
    tokenizer, folder, plan = _worker["tokenizer"], _worker["folder"], _worker["plan"]
    writers = {
        split: ShardWriter(folder, split, index, id_dtype(tokenizer.vocab_size), plan["kind"] != "text")
        for split in SPLITS
    }
    left, empty, uncounted, full = budget, 0, 0, False
    for span, document in _documents(spans, plan, tokenizer):
        if document is None:
            empty += 1
            continue
        whole, document = document, document if left is None else cut(document, left, tokenizer)
        if full := document is None:
            break
        split = span.split or (
            "val" if span.whole and in_validation(document.key, plan["val_fraction"]) else "train"
        )
        for ids, keep, size in document.parts:
            writers[split].add(ids, keep, size, document.ended)
        left = left if left is None else left - document.tokens
        uncounted += document.tokens
        if uncounted > 100_000:
            uncounted = _count(uncounted)
        if left == 0 or document is not whole:
            break
    _count(uncounted)
    entry = {
        "empty": empty,
        "full": full,
        "shards": {split: writer.close() for split, writer in writers.items()},
    }
    write_json(folder / f"unit-{index:05d}.json", entry)
    return entry


def _documents(spans: list[Span], plan: dict, tokenizer: Tokenizer) -> Iterator[tuple[Span, Document | None]]:
    """The documents of a unit, each with the span that it is from."""
    for span in spans:
        found = (
            row_documents(story_rows(span, plan["source"]["seed"]), plan["kind"], tokenizer)
            if span.form in STORIES
            else documents(span, plan["kind"], tokenizer)
        )
        yield from ((span, document) for document in found)


def _count(tokens: int) -> int:
    """Add to the counter that the progress bar shows; returns what is then uncounted, nothing."""
    with _worker["counter"].get_lock():
        _worker["counter"].value += tokens
    return 0
