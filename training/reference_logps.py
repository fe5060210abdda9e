"""The log-probs of preference answers under the weights that a DPO run starts from: computed once, kept on disk.

    data/<dataset>/reference/<key>-<split>.npy        float32 (pairs, 2): chosen, rejected
    data/<dataset>/reference/<key>-<split>.sha256     of that file

The key names weights, data (and with it the template) and context, so a table serves no other model and no other rows.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from dataloader.batch import Batch, collate
from dataloader.pairs import PairRows
from runtime.checksums import sha256_of
from runtime.distributed import DistributedEnv, all_reduce_sum, barrier
from runtime.errors import UserError
from runtime.files import write_text


def reference_key(model: nn.Module, data: str, context: int, dtype: torch.dtype) -> str:
    """Names the log-probs that a model gives to prepared data of this hash in rows of this context and precision."""
    digest = hashlib.sha256(f"{data} {context} {dtype}".encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:24]


def table_path(dataset: Path, key: str, split: str) -> Path:
    """Where a table is kept."""
    return dataset / "reference" / f"{key}-{split}.npy"


def read_table(path: Path, pairs: int) -> np.ndarray:
    """A table (pairs, 2) from disk. Raises UserError when it is not whole."""
    written = path.with_suffix(".sha256")
    if (
        written.is_file()
        and written.read_text(errors="replace") != sha256_of(path.parent, [path.name])[path.name]
    ):
        raise UserError(
            f"{path} is damaged (its sha256 is not the one in {written.name}): delete both and start the "
            "run again from its first weights"
        )
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"the reference log-probs in {path} cannot be read ({error}): delete the file and start the "
            "run again from its first weights"
        ) from None
    if table.shape != (pairs, 2):
        raise UserError(
            f"{path} holds {len(table):,} pairs, the data {pairs:,}: delete the file and start again"
        )
    return table


def make_table(
    path: Path, rows: PairRows, score: Callable[[Batch], Tensor], batch_size: int, env: DistributedEnv
) -> np.ndarray:
    """The table of all pairs, from disk or made by score, the log-probs (2P,) of a batch; each rank takes a share."""
    if path.is_file():
        return read_table(path, len(rows.reference))
    table = torch.zeros(rows.reference.shape, device=env.device)
    batches = range(env.rank * batch_size, len(rows), batch_size * env.world_size)
    for first in tqdm(
        batches,
        desc=f"reference of the {rows.dataset.split} set",
        unit=" batches",
        disable=not env.is_main_process,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        leave=False,
    ):
        places = range(first, min(first + batch_size, len(rows)))
        pairs = np.concatenate([rows.members[place] for place in places])
        batch = collate([rows.at(place) for place in places]).to(env.device)
        with torch.inference_mode(), env.autocast():
            table[torch.from_numpy(pairs).to(env.device)] = score(batch).view(-1, 2)
    made = all_reduce_sum(table).cpu().numpy()
    if env.is_main_process:
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, made)
            file.flush()
            os.fsync(file.fileno())
        write_text(path.with_suffix(".sha256"), sha256_of(path.parent, [temporary.name])[temporary.name])
        temporary.rename(path)
    barrier()
    return made
