"""Preparation of one unit in a worker process: its rows to documents to shards."""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from dataprep.documents import Document, iter_documents, row_documents, truncate_text
from dataprep.examples import ExampleWriter
from dataprep.files import HUB_PREFIX
from dataprep.holdout import assign_splits
from dataprep.left_out import LeftOutRows
from dataprep.ranges import FileRange
from dataprep.registry import STORIES, PrepConfig, story_rows
from dataprep.shards import SplitWriter
from runtime.errors import UserError
from runtime.hub import READ_ERRORS, retry, short_error
from tokenizer import Tokenizer

MAX_PATHS = 3  # that an error names; a unit of small files has thousands
COUNTER_STEP = 100_000  # tokens between two updates of the shared counter


@dataclass
class _Worker:
    """State that a worker process keeps between units."""

    folder: Path
    config: PrepConfig
    tokenizer: Tokenizer
    counter: Synchronized


_worker: _Worker | None = None


def start_worker(folder: Path, config: PrepConfig, tokenizer: Tokenizer, counter: Synchronized) -> None:
    """Initialize a worker process; the counter of tokens is shared by all of them."""
    global _worker
    threading.Thread(target=_end_with_main, daemon=True).start()
    _worker = _Worker(folder, config, tokenizer, counter)


def _end_with_main() -> None:
    """Exit when the main process dies: a worker that survives it would write into the folder of the next run."""
    multiprocessing.parent_process().join()
    os._exit(1)


def prepare_unit(index: int, budget: float) -> dict:
    """Write the shards of a unit, at most `budget` tokens, and return its entry; the hub's faults are retried."""
    unit = _worker.config.units[index]
    try:
        if unit[0].path.startswith(HUB_PREFIX):
            return retry(lambda: _write_unit(index, unit, budget), f"unit {index}")
        return _write_unit(index, unit, budget)
    except READ_ERRORS as error:
        # As text, since the hub's errors cannot be pickled.
        paths = ", ".join(dict.fromkeys(each.path for each in unit[:MAX_PATHS]))
        fault = "failed after all retries" if unit[0].path.startswith(HUB_PREFIX) else "cannot be read"
        raise UserError(
            f"unit {index} ({paths}) {fault} ({short_error(error)}); finished units are kept: run the same command "
            "again to resume"
        ) from None


def _write_unit(index: int, unit: list[FileRange], budget: float) -> dict:
    """Write the documents of a unit to its two shards."""
    tokenizer = _worker.tokenizer
    writer = SplitWriter(_worker.folder, index, tokenizer.vocab_size, _worker.config.kind)
    examples = ExampleWriter(_worker.folder, index)
    limit = TokenBudget(budget)
    left_out = LeftOutRows()
    uncounted = 0

    for split, document in limit.within_budget(_unit_documents(unit, left_out), tokenizer):
        for ids, loss_mask, text_bytes in document.token_parts:
            writer.add(split, ids, loss_mask, text_bytes, document.is_complete)
        examples.add(split, document)

        uncounted += document.num_tokens
        if uncounted > COUNTER_STEP:
            _count(uncounted)
            uncounted = 0

    left_out.raise_first()
    _count(uncounted)
    return {
        "split": unit[0].split,
        "left_out": dict(sorted(left_out.counts.items())),
        "full": limit.remaining == 0,
        "shards": writer.close(),
        **examples.close(_worker.config.val_fraction),
    }


class TokenBudget:
    """Number of tokens that may still be written; infinite where there is no limit."""

    def __init__(self, tokens: float):
        self.remaining = tokens

    def within_budget(
        self, documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer
    ) -> Iterator[tuple[str, Document]]:
        """Yield documents until the budget is spent: truncate the last text, stop before the last conversation."""
        for split, document in documents:
            if document.num_tokens > self.remaining:
                document = truncate_text(document, self.remaining, tokenizer)
                self.remaining = 0
            else:
                self.remaining -= document.num_tokens

            if document is not None:
                yield split, document
            if self.remaining == 0:
                return


def _unit_documents(unit: list[FileRange], left_out: LeftOutRows) -> Iterator[tuple[str, Document]]:
    """Yield (split, document) of all ranges of a unit; `left_out` collects the rows that become none."""
    config = _worker.config
    for file_range in unit:
        if file_range.format in STORIES:
            rows = story_rows(file_range, config.provenance["seed"])
            documents = row_documents(rows, config.kind, _worker.tokenizer)
        else:
            documents = iter_documents(file_range, config.kind, _worker.tokenizer, config.rows, left_out)
        yield from assign_splits(documents, file_range, config.val_fraction)


def _count(tokens: int) -> None:
    """Add to the counter that the progress bar shows."""
    with _worker.counter.get_lock():
        _worker.counter.value += tokens
