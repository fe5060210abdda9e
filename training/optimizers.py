"""The optimizers and the learning-rate schedule: AdamW, or Muon for the matrices and AdamW for the rest."""

import math
from itertools import groupby

import torch
from torch import Tensor, nn

from config import ModelArgs


def build_optimizers(model: nn.Module, args: ModelArgs) -> list[torch.optim.Optimizer]:
    """AdamW on all parameters, or Muon on the decoder's matrices and AdamW on embedding, head and norms.

    Each group carries its peak learning rate; weights of one dimension (norms) do not decay.
    """
    named = list(model.named_parameters())
    muon = [p for name, p in named if args.optimizer == "muon" and p.dim() == 2 and ".layers." in name]
    taken = {id(p) for p in muon}
    decayed = [p for _, p in named if p.dim() == 2 and id(p) not in taken]
    undecayed = [p for _, p in named if p.dim() != 2]
    adamw = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": args.weight_decay_optim, "peak_lr": args.max_lr},
            {"params": undecayed, "weight_decay": 0.0, "peak_lr": args.max_lr},
        ],
        lr=args.max_lr,
        betas=(args.beta_1, args.beta_2),
        fused=decayed[0].device.type != "mps",
    )
    if not muon:
        return [adamw]
    kind = torch.optim.Muon if muon[0].device.type == "cuda" else MuonFloat32
    groups = [{"params": muon, "peak_lr": args.muon_lr}]
    return [
        adamw,
        kind(groups, lr=args.muon_lr, momentum=args.muon_momentum, weight_decay=args.weight_decay_optim),
    ]


def schedule(step: int, args: ModelArgs, end: int) -> float:
    """The learning rate of a step, counted from 0: linear warm-up to max_lr, then a cosine, min_lr from `end` on."""
    if step < args.warmup_iters:
        return args.max_lr * (step + 1) / args.warmup_iters
    if step >= end:
        return args.min_lr
    progress = (step - args.warmup_iters) / (end - args.warmup_iters)
    return args.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (args.max_lr - args.min_lr)


def set_lr(optimizers: list[torch.optim.Optimizer], step: int, args: ModelArgs, end: int) -> float:
    """Give every group its share of the schedule; returns AdamW's learning rate."""
    lr = schedule(step, args, end)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr / args.max_lr
    return lr


class MuonFloat32(torch.optim.Muon):
    """torch.optim.Muon's update in float32 on stacked matrices of one shape, for hardware without fast bfloat16."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every matrix (https://kellerjordan.github.io/posts/muon/); closure is torch's, and not used."""
        for group in self.param_groups:
            weights = sorted((p for p in group["params"] if p.grad is not None), key=lambda p: p.shape)
            for shape, alike in groupby(weights, key=lambda p: p.shape):
                alike = list(alike)
                for p in alike:
                    self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                momenta = [self.state[p]["momentum_buffer"] for p in alike]
                torch._foreach_lerp_(momenta, [p.grad for p in alike], 1 - group["momentum"])
                update = torch.stack(torch._foreach_lerp([p.grad for p in alike], momenta, group["momentum"]))
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(
                    alike, update.unbind(), alpha=-group["lr"] * math.sqrt(max(1, shape[0] / shape[1]))
                )


def orthogonalize(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Newton-Schulz: matrices (N, rows, columns) with all singular values brought near 1."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
