"""Parallelism: a model copied to all ranks (DDP) or sharded over them (FSDP2), and its full state dicts.

Outside this file both are alike: a module whose gradients are averaged over ranks, and states that are complete.
"""

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import init_device_mesh
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from config import ModelArgs
from runtime.distributed import DistributedEnv, average_in_rank_order

FULL_ON_RANK_0 = StateDictOptions(full_state_dict=True, cpu_offload=True)


def parallelize(model: nn.Module, args: ModelArgs, env: DistributedEnv, compiled: bool) -> bool:
    """Apply activation checkpointing and FSDP2 (arXiv 2304.11277) in place; return True if the model is now sharded.

    Call it before optimizers are built, because sharding replaces the parameters: each rank keeps its shard of every
    weight, of its gradient and of its moments, and gathers a layer when it is used. Layers of a sharded model are
    compiled one by one, since it cannot be compiled as one.
    """
    sharded = args.parallel == "fsdp" and env.world_size > 1
    mesh = init_device_mesh(env.device.type, (env.world_size,)) if sharded else None

    # Weights are gathered in the precision of products, gradients added up in float32. Autocast does the rest, so
    # inputs (rotary tables among them) stay as they are.
    precision = MixedPrecisionPolicy(env.dtype, torch.float32, cast_forward_inputs=False)
    for block in model.model["layers"]:
        if sharded and compiled:
            block.forward = torch.compile(block.forward)
        if args.activation_checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if sharded:
            fully_shard(block, mesh=mesh, mp_policy=precision)
    if sharded:
        # The head is used after the model's forward.
        fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    return sharded


def wrap_ddp(model: nn.Module, env: DistributedEnv) -> nn.Module:
    """Return the model wrapped in DDP: gradients are averaged over ranks as backward computes them.

    DDP moves gradients to other buckets after its first step, and so after a resume. On a CPU the average of three
    ranks or more would depend on their place in a bucket: there it is computed in the order of the ranks.
    """
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True, forward_sync_buffers=False)
    if env.device.type == "cpu" and env.world_size > 2:
        wrapped.register_comm_hook(None, _average_bucket)
    return wrapped


def _average_bucket(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    average = torch.futures.Future()
    average.set_result(average_in_rank_order(bucket.buffer()))
    return average


def is_sharded(model: nn.Module) -> bool:
    """Return True if each rank holds a shard of the model."""
    return isinstance(model, FSDPModule)


def full_state_dicts(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[dict, dict]:
    """Return (weights, optimizer states), both by the weights' names: complete on rank 0, sharded or not."""
    if is_sharded(model):
        weights = get_model_state_dict(model, options=FULL_ON_RANK_0)
        return weights, get_optimizer_state_dict(model, optimizers, options=FULL_ON_RANK_0)
    return model.state_dict(), get_optimizer_state_dict(model, optimizers)


def load_full_state_dict(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy complete weights into a model, sharded or not."""
    if is_sharded(model):
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(weights)


def load_optimizers(model: nn.Module, optimizers: list[torch.optim.Optimizer], states: dict) -> None:
    """Give optimizers the moments that a run on any number of ranks has saved; their settings stay those of now."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    set_optimizer_state_dict(
        model, optimizers, states, options=StateDictOptions(full_state_dict=is_sharded(model))
    )
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group, setting in zip(groups, settings, strict=True):
        group.update(setting)
