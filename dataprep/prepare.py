"""Preparation of a dataset: its units in worker processes, in order, then one folder with meta.json and checksums.

Everything is written to data/.<name>.partial, where a run that was killed is resumed. The folder is renamed to
data/<name> when it is complete. A unit is finished when its entry unit-<number>.json exists.
"""

import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from dataprep.existing import (
    carry_foreign_files,
    dataset_folder,
    is_prepared,
    partial_folder,
    start_or_continue,
)
from dataprep.holdout import shortfall
from dataprep.machine_shares import MachineShare, merge_machine_shares
from dataprep.registry import PrepConfig
from dataprep.resplit import repeated_keys, split_units
from dataprep.shards import FORMAT, SPLITS, check_replaceable, read_meta
from dataprep.unit_progress import UnitProgress, num_tokens
from dataprep.worker import prepare_unit, start_worker
from runtime.checksums import write_checksums
from runtime.errors import UserError
from runtime.files import commit_folder, folder_lock, write_json
from tokenizer import Tokenizer

# Windows has no fork server: each worker loads the modules there.
HAS_FORKSERVER = "forkserver" in multiprocessing.get_all_start_methods()
WORKERS = multiprocessing.get_context("forkserver" if HAS_FORKSERVER else "spawn")
ROOT = Path(__file__).resolve().parent.parent
# Of the path of a socket a system allows about 100 characters; schedulers make longer folders.
MAX_TEMPORARY_FOLDER = 60
SHORT_TEMPORARY_FOLDER = "/tmp"
UPDATE_SECONDS = 0.2  # between two updates of the progress bar
MIN_TOKENS = 2  # of each split: one to read and one to predict


def start_forkserver() -> None:
    """Start the process that workers are forked from, so that modules are loaded once, while this one is busy.

    It and its workers ignore Ctrl-C: the main process ends them. They import our modules, whatever the current folder
    holds. Windows has none.
    """
    if not HAS_FORKSERVER:
        return
    from multiprocessing.forkserver import ensure_running

    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    environment = dict(os.environ)
    folder = tempfile.tempdir
    if len(tempfile.gettempdir()) > MAX_TEMPORARY_FOLDER:
        tempfile.tempdir = SHORT_TEMPORARY_FOLDER
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    try:
        WORKERS.set_forkserver_preload(["dataprep.worker"])
        ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
        tempfile.tempdir = folder
        os.environ.clear()
        os.environ |= environment


# --- a dataset, or one machine's share of it -------------------------------------------------------------------------


def prepare(
    data_dir: Path, name: str, config: PrepConfig, tokenizer: Tokenizer, workers: int, update: bool = False
) -> Path:
    """Write data/<name>, resuming a run with an equal config. Return the folder.

    Raises UserError where that would replace or discard something, unless `update` asks for it.
    """
    target = dataset_folder(data_dir, name)
    partial = partial_folder(data_dir, name)
    check_replaceable(target, [file_range.path for unit in config.units for file_range in unit])
    if is_prepared(target, config, update):
        print(f"{target} is already prepared")
        return target

    partial.mkdir(parents=True, exist_ok=True)
    with folder_lock(partial):
        start_or_continue(partial, config, tokenizer, update)
        merge_machine_shares(partial, data_dir, name, config)

        if not (partial / "meta.json").is_file():
            entries = _prepare_units(partial, config, tokenizer, workers, MachineShare(1, 1))
            write_json(partial / "meta.json", make_meta(partial, name, config, entries, tokenizer))
        meta = read_meta(partial)
        _remove_leftovers(partial, meta)
        carry_foreign_files(target, partial)
        commit_folder(partial, target)

    _print_summary(target, meta)
    return target


def prepare_share(
    data_dir: Path,
    name: str,
    config: PrepConfig,
    tokenizer: Tokenizer,
    workers: int,
    share: MachineShare,
    update: bool = False,
) -> None:
    """Prepare every count-th unit, for `prepare` to merge."""
    folder = data_dir / f".{name}.shard-{share.number}-of-{share.count}"
    folder.mkdir(exist_ok=True)
    with folder_lock(folder):
        start_or_continue(folder, config, tokenizer, update)
        entries = _prepare_units(folder, config, tokenizer, workers, share)
    print(
        f"{folder}: done, {len(entries)} of {len(config.units)} units, {sum(map(num_tokens, entries)):,} tokens; "
        f"copy all {share.count} into one {data_dir.name}/ and run the same command there without --shard"
    )


def make_meta(
    partial: Path, name: str, config: PrepConfig, entries: list[dict], tokenizer: Tokenizer
) -> dict:
    """Return meta.json of the units, after making a validation split where there is none.

    Raises UserError for too little text.
    """
    has_splits = config.units[0][0].split is not None or not config.val_fraction
    splits = split_units(
        partial,
        entries,
        config.kind,
        0.0 if has_splits else config.val_fraction,
        config.tokenizer["vocab_size"],
        first_index=len(config.units),
        text_bytes=tokenizer.text_bytes,
    )
    train_tokens, val_tokens = (sum(shard["tokens"] for shard in splits[split]) for split in SPLITS)
    if train_tokens < MIN_TOKENS:
        raise UserError(f"{name}: too little text: {train_tokens:,} tokens to train on; give more text")
    if "val_files" in config.provenance:
        _say_repeated(partial, config, entries)
    elif not has_splits and (note := shortfall(train_tokens, val_tokens, config.val_fraction)):
        print(note)
    return {
        "format": FORMAT,
        "name": name,
        "kind": config.kind,
        "template": config.chat_template,
        "tokenizer": config.tokenizer,
        "source": config.provenance,
        "left_out": dict(sum((Counter(entry["left_out"]) for entry in entries), Counter())),
        "splits": splits,
    }


def _say_repeated(partial: Path, config: PrepConfig, entries: list[dict]) -> None:
    """Print how many documents of --val_files are in --files as well."""
    splits: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for entry in entries:
        splits[entry["split"]].append(entry)
    if repeated := repeated_keys(partial, splits["train"], splits["val"]):
        print(
            f"note: {repeated:,} documents of --val_files are in --files too (texts, or first turns, are equal): the "
            "validation loss will be too low"
        )


def _remove_leftovers(partial: Path, meta: dict) -> None:
    """Remove the files that meta.json does not list, such as unit entries; write the checksums of the others."""
    digests: dict[str, str] = {}
    for split in SPLITS:
        for shard in meta["splits"][split]:
            digests |= shard["sha256"]

    for path in partial.iterdir():
        if path.is_file() and path.name not in {"meta.json", "plan.json", *digests}:
            path.unlink()
    write_checksums(partial, digests)


def _print_summary(target: Path, meta: dict) -> None:
    noun = {"text": "documents", "instruct": "conversations", "preference": "answers"}[meta["kind"]]
    for split in SPLITS:
        documents, tokens, size = (
            sum(shard[key] for shard in meta["splits"][split]) for key in ("documents", "tokens", "bytes")
        )
        print(f"{split}: {documents:,} {noun}, {tokens:,} tokens, {size / 1e6:,.1f} MB of text")

    left_out = "".join(f"; left out {count:,} rows: {reason}" for reason, count in meta["left_out"].items())
    print(f"{target}: done{left_out}")


# --- all units, in order ---------------------------------------------------------------------------------------------


def _prepare_units(
    folder: Path, config: PrepConfig, tokenizer: Tokenizer, workers: int, share: MachineShare
) -> list[dict]:
    """Return the entries of the units of a share, in order; finished units are kept as they are."""
    counter = WORKERS.Value("q", 0)
    processes = max(1, min(workers, len(config.units)))
    pool = ProcessPoolExecutor(processes, WORKERS, start_worker, (folder, config, tokenizer, counter))

    numbers = [number for number in range(len(config.units)) if share.has(number)]
    stored = {number: entry for number in numbers if (entry := _finished_unit(folder, number))}
    progress = UnitProgress(config, numbers, stored, counter)
    with pool, progress.bar:
        try:
            entries = _prepare_splits(folder, pool, config, share, processes + 1, progress)
        except (
            BrokenProcessPool,
            EOFError,
            ConnectionError,
        ):  # the last two: while a worker was being started
            raise UserError(
                "a worker process was killed (out of memory?): run the same command again to resume, "
                "perhaps with a smaller --num_proc"
            ) from None
        finally:
            # The units that they work on are not needed any more.
            for worker in multiprocessing.active_children():
                worker.kill()
        progress.show()
    return [entries[number] for number in sorted(entries)]


def _prepare_splits(
    folder: Path,
    pool: ProcessPoolExecutor,
    config: PrepConfig,
    share: MachineShare,
    window: int,
    progress: UnitProgress,
) -> dict[int, dict]:
    """Return the entries of units by number: val units take their fraction of the tokens, train units the rest."""
    remaining = config.max_tokens or math.inf
    entries: dict[int, dict] = {}
    for split in (None, "val", "train"):
        numbers = [n for n, unit in enumerate(config.units) if unit[0].split == split and share.has(n)]
        budget = remaining
        if split == "val" and config.max_tokens:
            budget = max(1, round(remaining * config.val_fraction))

        prepared = _prepare_in_order(folder, pool, numbers, budget, window, progress)
        remaining -= sum(map(num_tokens, prepared.values()))
        entries |= prepared
    return entries


def _prepare_in_order(
    folder: Path,
    pool: ProcessPoolExecutor,
    numbers: list[int],
    budget: float,
    window: int,
    progress: UnitProgress,
) -> dict[int, dict]:
    """Return the entries of units in order, up to the budget of tokens; `window` units are prepared at a time.

    A unit that exceeds the rest of the budget is prepared again with that rest: the documents of its two splits
    alternate, so the files do not tell where to truncate them.
    """
    remaining = budget
    entries: dict[int, dict] = {}
    pending = iter(numbers)
    futures: deque[Future] = deque()
    for number in numbers:
        for upcoming in itertools.islice(pending, window - len(futures)):
            futures.append(_start_unit(folder, pool, upcoming, budget))
            progress.watch(upcoming, futures[-1])

        entry = _result(futures.popleft(), progress.show)
        if num_tokens(entry) > remaining:
            entry = _result(pool.submit(prepare_unit, number, remaining), progress.show)
        write_json(_entry_path(folder, number), entry)
        entries[number] = entry

        remaining -= num_tokens(entry)
        if remaining == 0 or entry["full"]:
            break

    for future in futures:
        future.cancel()
    return entries


def _start_unit(folder: Path, pool: ProcessPoolExecutor, number: int, budget: float) -> Future:
    """Return the future of a unit; of a finished one, the stored entry."""
    entry = _finished_unit(folder, number)
    if entry is None:
        return pool.submit(prepare_unit, number, budget)
    future: Future = Future()
    future.set_result(entry)
    return future


def _finished_unit(folder: Path, number: int) -> dict | None:
    """Return the entry of a unit that an earlier run with the same config finished."""
    path = _entry_path(folder, number)
    return json.loads(path.read_text()) if path.is_file() else None


def _entry_path(folder: Path, number: int) -> Path:
    return folder / f"unit-{number:05d}.json"


def _result(future: Future, on_wait: Callable[[], object]) -> dict:
    """Return the result of a future, calling `on_wait` again and again until then."""
    while not wait([future], timeout=UPDATE_SECONDS).done:
        on_wait()
    return future.result()
