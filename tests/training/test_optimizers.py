"""The schedule at its corners, who is decayed by whom, and Muon against torch's own."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from config import ModelArgs
from model import Llama
from training.optimizers import (
    Muon,
    adapt_scale,
    build_optimizers,
    build_scaler,
    cooldown_start,
    orthogonalize,
    schedule,
    set_lr,
)


@pytest.fixture
def args(tiny: ModelArgs) -> ModelArgs:
    return tiny.replace(
        max_lr=1.0, min_lr=0.1, warmup_iters=10, total_iters=110, muon_lr=0.5, muon_momentum=0.7
    )


def test_schedule_at_its_corners(args: ModelArgs) -> None:
    rates = [schedule(step, args, 110) for step in range(200)]
    assert (
        rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    )  # never 0, full at the end of warm-up
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1) and set(rates[110:]) == {rates[110]}
    assert all(a < b for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert all(a > b for a, b in zip(rates[10:110], rates[11:111], strict=True))
    assert schedule(0, args.replace(warmup_iters=0), 110) == 1.0
    assert (
        schedule(5, args, 5) == 0.6 and schedule(10, args, 5) == args.min_lr
    )  # the end is inside the warm-up
    assert schedule(11, args, 10) == pytest.approx(0.1)  # and exactly at its end


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_in_one_group(args: ModelArgs, optimizer: str, tied: bool) -> None:
    model = Llama(args.replace(optimizer=optimizer, tie_embeddings=tied))
    name_of = {id(p): name for name, p in model.named_parameters()}
    optimizers = build_optimizers(model, model.args)
    places = {
        name_of[id(p)]: (type(o), group)
        for o in optimizers
        for group in o.param_groups
        for p in group["params"]
    }
    members = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert len(members) == len(places) == len(name_of)
    assert len(optimizers) == (1 if optimizer == "adamw" else 2)
    for name, (kind, group) in places.items():
        matrix = ".layers." in name and name.endswith("proj.weight")
        assert kind is (Muon if matrix and optimizer == "muon" else torch.optim.AdamW), name
        decays = "norm" not in name and "embed" not in name
        assert group["weight_decay"] == decays * args.weight_decay_optim, name
        assert group["peak_lr"] == (0.5 if kind is Muon else 1.0), name
    adamw = optimizers[0].param_groups[0]
    assert adamw["betas"] == (args.beta_1, args.beta_2)
    assert all(group["momentum"] == 0.7 for o in optimizers[1:] for group in o.param_groups)
    assert ("lm_head.weight" in places) != tied and any("norm" in name for name in places)


def test_wsd_is_constant_then_linear(args: ModelArgs) -> None:
    wsd = args.replace(lr_schedule="wsd", cooldown_iters=50)  # warm-up 10, rates 1.0 and 0.1
    rates = [schedule(step, wsd, 110) for step in range(120)]
    assert rates[4] == 0.5 and set(rates[10:61]) == {1.0} and set(rates[110:]) == {0.1}
    assert rates[85] == pytest.approx(0.55) and sorted(rates[60:], reverse=True) == rates[60:]
    assert cooldown_start(wsd, 110) == 60 and cooldown_start(args, 110) is None
    assert cooldown_start(args.replace(lr_schedule="wsd"), 100) == 80  # a fifth
    longer = [schedule(step, wsd, 200) for step in range(61)]
    assert longer == rates[:61]  # so a longer run may continue from there
    assert schedule(20, wsd, 30) == pytest.approx(
        0.55
    )  # a cool-down as long as the run begins after the warm-up


def test_set_lr_scales_every_peak(args: ModelArgs) -> None:
    optimizers = build_optimizers(Llama(args), args.replace(optimizer="muon"))
    for step in (0, 10, 60, 500):
        lr = set_lr(optimizers, step, args, 110)
        assert lr == schedule(step, args, 110)
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        assert rates == pytest.approx([lr, lr * 0.5])


def test_norms_and_embedding_do_not_decay(args: ModelArgs) -> None:
    model = Llama(args)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in build_optimizers(model, args.replace(weight_decay_optim=0.25)):
        optimizer.step()
    for name, p in model.named_parameters():
        decays = "norm" not in name and "embed" not in name
        assert torch.allclose(p, before[name] * (0.75 if decays else 1)), name


def test_muon_follows_torchs_own() -> None:
    torch.manual_seed(0)
    shapes = [(64, 16), (16, 64), (32, 32), (32, 32), (64, 16)]  # alike ones are stacked
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    optimizers = [
        kind([{"params": weights}], lr=0.1, weight_decay=0.1)
        for kind, weights in ((Muon, ours), (torch.optim.Muon, theirs))
    ]
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape) * torch.logspace(0, -1, p.shape[1])
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q, p0 in zip(ours, theirs, start, strict=True):
        assert (q - p0).norm() > 0.3  # it has moved
        assert (p - q).norm() < 2e-2 * (q - p0).norm(), p.shape  # torch's works in bfloat16


def test_muon_skips_weights_without_a_gradient_and_keeps_its_state() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(4, 8)) for _ in range(2)]
    still = weights[1].detach().clone()
    optimizer = Muon(weights, lr=0.1)
    weights[0].grad = torch.randn(4, 8)
    optimizer.step()
    assert torch.equal(weights[1], still)
    copy = nn.Parameter(weights[0].detach().clone())
    again = Muon([copy, nn.Parameter(still)], lr=0.1)
    again.load_state_dict(deepcopy(optimizer.state_dict()))
    weights[0].grad = torch.randn(4, 8)
    copy.grad = weights[0].grad.clone()
    optimizer.step()
    again.step()
    assert torch.equal(copy, weights[0])


@pytest.mark.parametrize("shape", [(3, 48, 16), (3, 16, 48), (3, 24, 24)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape) * torch.tensor([1e-6, 1.0, 1e3])[:, None, None]
    group = Muon([nn.Parameter(torch.zeros(2, 2))]).param_groups[0]
    result = orthogonalize(matrices, group["ns_coefficients"], group["ns_steps"], group["eps"])
    values = torch.linalg.svdvals(result)
    usual = torch.linalg.svdvals(matrices)
    assert usual.max() / usual.min() > 1e6  # they were not near 1 before
    assert result.shape == shape and values[1:].max() < 1.3
    assert values[1:].median() > 0.6 and (shape[1] == shape[2] or values[1:].min() > 0.5)
    alone = orthogonalize(matrices[1:2], group["ns_coefficients"], group["ns_steps"], group["eps"])
    assert torch.allclose(alone[0], result[1], atol=1e-5)  # matrices in a stack know nothing of each other


def test_the_scale_of_float16_suits_a_sum_and_shrinks_once() -> None:
    scaler = build_scaler(torch.device("cpu"), torch.float16, 2560)
    assert scaler.get_scale() == 2.0**4  # 65,536 for a mean over 4,096 tokens
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), 1.0)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler.scale(torch.zeros(()))
    scaler.unscale_(optimizer)
    assert adapt_scale(scaler, finite=False) and scaler.get_scale() == 2.0**3

    scaler.update(2.0**-24)
    scaler.unscale_(optimizer)
    assert not adapt_scale(scaler, finite=False)  # it cannot get better
    off = build_scaler(torch.device("cpu"), torch.bfloat16, 2560)
    assert not off.is_enabled() and not adapt_scale(off, finite=False)
