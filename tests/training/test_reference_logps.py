"""The name of the reference's log-probs: no other model, data or kernel has it."""

import dataclasses

import torch

from config import ModelArgs
from model import Llama
from runtime.distributed import DistributedEnv
from training.reference_logps import kernel_name, reference_key


def test_a_table_is_named_by_all_that_it_depends_on(model: Llama) -> None:
    key = reference_key(model, "data", 64, torch.float32)
    assert key == reference_key(model, "data", 64, torch.float32)
    others = {
        reference_key(model, *what)
        for what in (("other", 64, torch.float32), ("data", 65, torch.float32), ("data", 64, torch.bfloat16))
    }
    others.add(reference_key(model, "data", 64, torch.float32, "cpu, mask"))
    with torch.no_grad():
        next(model.parameters()).view(-1)[7] += 1e-6
    others.add(reference_key(model, "data", 64, torch.float32))
    assert len(others - {key}) == 5


def test_a_kernel_matters_in_16_bits_alone(env: DistributedEnv) -> None:
    args = ModelArgs(train="D")
    assert kernel_name(args, env) is None
    on_cpu = kernel_name(args, dataclasses.replace(env, dtype=torch.bfloat16))
    on_mps = kernel_name(args, dataclasses.replace(env, dtype=torch.bfloat16, device=torch.device("mps")))
    assert on_cpu and on_mps and on_cpu != on_mps
