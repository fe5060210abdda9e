"""Table of the reference's log-probs: computed by all ranks of one run, kept on disk for all others.

    data/<dataset>/reference/<key>-<split>.npy           float32 (pairs, 2): chosen, rejected
    data/<dataset>/reference/<key>-<split>.sha256        of that file
    data/<dataset>/reference/<key>-<split>.part.npz      what a stopped run has computed; the next one continues

Rank 0 reads and writes, and decides for all ranks: their disks may differ, and another run may finish a table at any
moment.
"""

import os
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dataloader.batch import Batch, collate
from dataloader.pairs import PairRows
from runtime.checksums import sha256_of
from runtime.distributed import DistributedEnv, all_reduce_sum, gather_objects
from runtime.errors import UserError
from runtime.files import folder_lock, write_text
from runtime.progress import Progress
from runtime.watchdog import StopRequested

PART_SECONDS = 30.0  # between two times that the unfinished table is saved
POLL_SECONDS = 0.5  # of waiting for another run


def table_path(dataset: Path, key: str, split: str) -> Path:
    """Return the path of a table."""
    return dataset / "reference" / f"{key}-{split}.npy"


def make_table(
    path: Path,
    rows: PairRows,
    score: Callable[[Batch], Tensor],
    batch_size: int,
    env: DistributedEnv,
    check_stop: Callable[[], None],
) -> np.ndarray:
    """Return the table (pairs, 2), read from disk or computed; where another run is computing one, wait for it.

    `score` gives the log-probs (2P,) of a batch of P pairs; `check_stop` is called on all ranks before each batch, and
    may raise StopRequested.
    """
    pairs = len(rows.reference)
    if table_exists(path):
        return read_on_all_ranks(path, pairs, env)

    if env.is_main_process:
        path.parent.mkdir(exist_ok=True)
    with _only_maker(path.parent, env, check_stop):
        if table_exists(path):
            return read_on_all_ranks(path, pairs, env)
        return compute_table(path, rows, score, batch_size, env, check_stop)


def table_exists(path: Path) -> bool:
    """Return True if rank 0 sees the table."""
    return gather_objects(path.is_file())[0]


@contextmanager
def _only_maker(folder: Path, env: DistributedEnv, check_stop: Callable[[], None]) -> Iterator[None]:
    """Keep other runs from making tables in a folder; wait while one does."""
    with ExitStack() as stack:
        waiting = False
        while not gather_objects(env.is_main_process and _lock(folder, stack))[0]:
            if env.is_main_process and not waiting:
                tqdm.write(f"another run computes reference log-probs in {folder}: waiting for it")
            waiting = True
            check_stop()
            time.sleep(POLL_SECONDS)
        yield


def _lock(folder: Path, stack: ExitStack) -> bool:
    """Lock a folder until the stack is closed; return False if another process has locked it."""
    try:
        stack.enter_context(folder_lock(folder))
    except UserError:
        return False
    return True


def compute_table(
    path: Path,
    rows: PairRows,
    score: Callable[[Batch], Tensor],
    batch_size: int,
    env: DistributedEnv,
    check_stop: Callable[[], None],
) -> np.ndarray:
    """Compute a table, from where a stopped run left it, and write it; in each round, each rank scores a batch."""
    part = path.with_suffix(".part.npz")
    done, table = gather_objects(read_part(part, rows) if env.is_main_process else None)[0] or (0, None)
    if table is None:
        table = np.zeros(rows.reference.shape, np.float32)

    saved = time.monotonic()
    title = f"reference of the {rows.dataset.split} set"
    with Progress(title, "rows", len(rows), done, enabled=env.is_main_process, leave=False) as bar:
        while done < len(rows):
            try:
                check_stop()
            except StopRequested:
                if env.is_main_process:
                    write_part(part, done, table)
                raise

            # A pair is in one row, so each entry of the sum over ranks is one number.
            scores = _score_batch(rows, score, done + env.rank * batch_size, batch_size, env)
            table += all_reduce_sum(scores).cpu().numpy()
            end = min(done + batch_size * env.world_size, len(rows))
            bar.update(end - done)
            done = end
            if env.is_main_process and done < len(rows) and time.monotonic() - saved >= PART_SECONDS:
                write_part(part, done, table)
                saved = time.monotonic()

    if env.is_main_process:
        write_table(path, table)
        part.unlink(missing_ok=True)
    return table


def _score_batch(
    rows: PairRows, score: Callable[[Batch], Tensor], first: int, batch_size: int, env: DistributedEnv
) -> Tensor:
    """Return a table (pairs, 2) of zeros but for the pairs in a batch of rows, which may be empty."""
    scores = torch.zeros(rows.reference.shape, device=env.device)
    indices = range(first, min(first + batch_size, len(rows)))
    if indices:
        pairs = np.concatenate([rows.members[index] for index in indices])
        batch = collate([rows.at(index) for index in indices]).to(env.device)
        with torch.inference_mode(), env.autocast():
            scores[torch.from_numpy(pairs).to(env.device)] = score(batch).view(-1, 2)  # P 2
    return scores


def write_part(path: Path, done: int, table: np.ndarray) -> None:
    """Write an unfinished table, whose first `done` rows are scored, under a temporary name, then rename."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, done=done, table=table)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_part(path: Path, rows: PairRows) -> tuple[int, np.ndarray] | None:
    """Return (rows that are scored, table) of an unfinished table; None where there is none that can be used."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as part:  # a zip archive, which has checksums
            done, table = int(part["done"]), part["table"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return None
    if table.shape != rows.reference.shape or not 0 <= done <= len(rows):
        return None
    return done, table


def write_table(path: Path, table: np.ndarray) -> None:
    """Write a table and its checksum under temporary names, then rename."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, table)
        file.flush()
        os.fsync(file.fileno())
    write_text(path.with_suffix(".sha256"), sha256_of(path.parent, [temporary.name])[temporary.name])
    temporary.replace(path)


def read_on_all_ranks(path: Path, pairs: int, env: DistributedEnv) -> np.ndarray:
    """Return a table (pairs, 2) that rank 0 reads. Raises UserError on all ranks when it is damaged."""
    table, fault = np.zeros((pairs, 2), np.float32), None
    if env.is_main_process:
        try:
            table = read_table(path, pairs)
        except UserError as error:
            fault = str(error)
    if fault := gather_objects(fault)[0]:
        raise UserError(fault)
    return all_reduce_sum(torch.from_numpy(table).to(env.device)).cpu().numpy()


def read_table(path: Path, pairs: int) -> np.ndarray:
    """Return a table (pairs, 2) from disk. Raises UserError when it is damaged or of another size."""
    remedy = "and start the run again from its first weights"
    checksum = path.with_suffix(".sha256")
    if checksum.is_file():
        actual = sha256_of(path.parent, [path.name])[path.name]
        if checksum.read_text(errors="replace") != actual:
            raise UserError(
                f"{path} is damaged (its sha256 is not the one in {checksum.name}): delete both {remedy}"
            )

    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"the reference log-probs in {path} cannot be read ({error}): delete the file {remedy}"
        ) from None
    if table.shape != (pairs, 2):
        raise UserError(f"{path} holds {len(table):,} pairs, the data {pairs:,}: delete the file {remedy}")
    return table
