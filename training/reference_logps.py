"""Log-probs of preference answers under the weights that a DPO run starts from, the reference: computed once.

The table that keeps them is named by weights, data (and with it the template), context and precision, so it serves no
other model and no other rows; see training/reference_table.py.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from config import ModelArgs
from dataloader.batch import Batch
from dataloader.loader import fixed_batches
from dataloader.pairs import PairRows
from dataprep.shards import SPLITS
from kernels.attention import form_of_attention
from runtime.distributed import DistributedEnv, device_name
from runtime.errors import RunError, UserError
from training.objectives import Objective, completion_logps, evaluate, preference_loss
from training.reference_table import make_table, table_exists, table_path

# How far the first loss may be from that of no preference, relative to it.
TOLERANCE = {torch.float32: 1e-4}
TOLERANCE_16_BIT = 1e-2


def reference_key(
    model: nn.Module, data_hash: str, context: int, dtype: torch.dtype, kernel: str | None = None
) -> str:
    """Return a name for the log-probs of a model on prepared data, in rows of this context and precision.

    `kernel` names device and form of attention, by which log-probs in 16 bits differ; see `kernel_name`.
    """
    digest = hashlib.sha256(f"{data_hash} {context} {dtype}{f' {kernel}' if kernel else ''}".encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:24]


def kernel_name(args: ModelArgs, env: DistributedEnv) -> str | None:
    """Return what rounds log-probs in 16 bits: the device and the form of attention. None in float32."""
    if env.dtype == torch.float32:
        return None
    form = form_of_attention(env.device, env.dtype, args.head_dim, args.attn_dropout, packed=True)
    return f"{device_name(env)}, {form}"


def describe_reference(
    model: nn.Module, data_hash: str, args: ModelArgs, env: DistributedEnv
) -> dict[str, str | None]:
    """Return what state.json says of the reference: its key, and what else the key depends on."""
    kernel = kernel_name(args, env)
    return {
        "reference": reference_key(model, data_hash, args.block_size, env.dtype, kernel),
        "reference_dtype": str(env.dtype).removeprefix("torch."),
        "reference_kernel": kernel,
    }


def attach_reference_logps(
    model: nn.Module,
    rows_of_splits: tuple[PairRows, PairRows | None],
    dataset: Path,
    key: str,
    batch_size: int,
    env: DistributedEnv,
    initial_weights: Path | None,
    check_stop: Callable[[], None],
) -> list[PairRows | None]:
    """Return training and validation rows whose pairs carry their log-probs under the reference.

    A new run reads or makes the tables. A resumed run, with the `initial_weights` that it started from, only reads
    them: its weights are not the reference any more. Raises UserError where they are missing.
    """

    def score(batch: Batch) -> Tensor:
        return completion_logps(model, batch)

    attached = []
    for split, rows in zip(SPLITS, rows_of_splits, strict=True):
        if rows is None:  # nothing was held out
            attached.append(None)
            continue
        path = table_path(dataset, key, split)
        if initial_weights and not table_exists(path):
            raise UserError(
                f"the reference log-probs of this run are missing ({path}): start it again with "
                f"--init_from {initial_weights}"
            )
        attached.append(rows.with_reference(make_table(path, rows, score, batch_size, env, check_stop)))
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
