"""Log-probs of preference answers under the weights that a DPO run starts from: computed once, kept on disk.

    data/<dataset>/reference/<key>-<split>.npy        float32 (pairs, 2): chosen, rejected
    data/<dataset>/reference/<key>-<split>.sha256     of that file

The key names weights, data (and with it the template) and context, so a table serves no other model and no other rows.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from config import ModelArgs
from dataloader.batch import Batch, collate
from dataloader.loader import fixed_batches
from dataloader.pairs import PairRows
from dataprep.shards import SPLITS
from runtime.checksums import sha256_of
from runtime.distributed import DistributedEnv, all_reduce_sum, barrier
from runtime.errors import RunError, UserError
from runtime.files import write_text
from runtime.progress import track
from runtime.watchdog import Watchdog
from training.objectives import Objective, completion_logps, evaluate, preference_loss

# How far the first loss may be from that of no preference, relative to it.
TOLERANCE = {torch.float32: 1e-4}
TOLERANCE_16_BIT = 1e-2


def reference_key(model: nn.Module, data_hash: str, context: int, dtype: torch.dtype) -> str:
    """Return a name for the log-probs of a model on prepared data, in rows of this context and precision."""
    digest = hashlib.sha256(f"{data_hash} {context} {dtype}".encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:24]


def table_path(dataset: Path, key: str, split: str) -> Path:
    """Return the path of a table."""
    return dataset / "reference" / f"{key}-{split}.npy"


def attach_reference_logps(
    model: nn.Module,
    rows_of_splits: tuple[PairRows, PairRows | None],
    dataset: Path,
    key: str,
    batch_size: int,
    env: DistributedEnv,
    initial_weights: Path | None,
    watchdog: Watchdog,
) -> list[PairRows | None]:
    """Return training and validation rows whose pairs carry their log-probs under the reference.

    A new run reads or makes the tables. A resumed run, with the `initial_weights` that it started from, only reads
    them: its weights are not the reference any more. Raises UserError where they are missing.
    """

    def score(batch: Batch) -> Tensor:
        watchdog.beat()
        return completion_logps(model, batch)

    attached = []
    for split, rows in zip(SPLITS, rows_of_splits, strict=True):
        if rows is None:  # nothing was held out
            attached.append(None)
            continue
        path = table_path(dataset, key, split)
        if initial_weights and not path.is_file():
            raise UserError(
                f"the reference log-probs of this run are missing ({path}): start it again with "
                f"--init_from {initial_weights}"
            )
        attached.append(rows.with_reference(make_table(path, rows, score, batch_size, env)))
    return attached


def check_first_loss(
    objective: Objective,
    model: nn.Module,
    rows: PairRows,
    args: ModelArgs,
    env: DistributedEnv,
    dataset: Path,
) -> None:
    """Raise RunError unless the loss before the first step is that of no preference (ln 2 for the sigmoid loss).

    Policy and reference are the same model then, so all margins are zero; a wrong shift, mask or reference shows here.
    """
    size = args.micro_batch_size
    batches = fixed_batches(rows, size, env.rank, env.world_size, limit=size)
    loss = evaluate(objective, model, batches, env)["loss"]

    zero = torch.zeros(1)
    expected = preference_loss(zero, zero, args.beta, args.label_smoothing, args.dpo_loss).item()
    tolerance = TOLERANCE.get(env.dtype, TOLERANCE_16_BIT) * max(1.0, expected)
    if not abs(loss - expected) <= tolerance:
        raise RunError(
            f"the loss before the first step is {loss:.6f}, not {expected:.6f}: the reference log-probs in "
            f"{dataset / 'reference'} are not those of the starting weights: delete that folder and start again"
        )


def make_table(
    path: Path, rows: PairRows, score: Callable[[Batch], Tensor], batch_size: int, env: DistributedEnv
) -> np.ndarray:
    """Return the table (pairs, 2), read from disk or computed.

    `score` gives the log-probs (2P,) of a batch of P pairs; each rank computes a share of the rows.
    """
    if path.is_file():
        return read_table(path, len(rows.reference))

    table = torch.zeros(rows.reference.shape, device=env.device)
    first_rows = range(env.rank * batch_size, len(rows), batch_size * env.world_size)
    title = f"reference of the {rows.dataset.split} set"
    for first in track(first_rows, title, "batches", enabled=env.is_main_process):
        indices = range(first, min(first + batch_size, len(rows)))
        pairs = np.concatenate([rows.members[index] for index in indices])
        batch = collate([rows.at(index) for index in indices]).to(env.device)
        with torch.inference_mode(), env.autocast():
            table[torch.from_numpy(pairs).to(env.device)] = score(batch).view(-1, 2)  # P 2

    result = all_reduce_sum(table).cpu().numpy()
    if env.is_main_process:
        write_table(path, result)
    barrier()
    return result


def write_table(path: Path, table: np.ndarray) -> None:
    """Write a table and its checksum under temporary names, then rename."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, table)
        file.flush()
        os.fsync(file.fileno())
    write_text(path.with_suffix(".sha256"), sha256_of(path.parent, [temporary.name])[temporary.name])
    temporary.replace(path)


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
