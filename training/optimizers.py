"""Optimizers, learning-rate schedule, scale of the loss: AdamW, or Muon for the matrices and AdamW for the rest."""

import math
from itertools import groupby

import torch
from torch import Tensor, nn

from config import ModelArgs

COOLDOWN_SHARE = 5  # wsd decays over a fifth of the run
MIN_SCALE = 2.0**-24  # of the loss in float16: gradients that are not finite here are so at any scale


def build_optimizers(model: nn.Module, args: ModelArgs) -> list[torch.optim.Optimizer]:
    """Return AdamW on all parameters, or Muon on the decoder's matrices and AdamW on embedding, head and norms.

    Each group carries its peak learning rate. Norms and the embedding do not decay: a rare token's embedding would
    shrink between its gradients. Frozen parameters are in no group.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.dim() == 2 and ".layers." in name]
    head = [p for name, p in named if name.startswith("lm_head.")]  # empty where it is tied to the embedding
    rest = [p for name, p in named if p.dim() != 2 or "embed_tokens" in name]

    decayed = head if args.optimizer == "muon" else matrices + head
    groups = [
        {"params": decayed, "weight_decay": args.weight_decay_optim, "peak_lr": args.max_lr},
        {"params": rest, "weight_decay": 0.0, "peak_lr": args.max_lr},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=args.max_lr,
        betas=(args.beta_1, args.beta_2),
        fused=named[0][1].device.type != "mps",
    )
    if args.optimizer != "muon":
        return [adamw]

    groups = [{"params": matrices, "peak_lr": args.muon_lr}]
    return [
        adamw,
        Muon(groups, lr=args.muon_lr, momentum=args.muon_momentum, weight_decay=args.weight_decay_optim),
    ]


def schedule(step: int, args: ModelArgs, end: int) -> float:
    """Return the learning rate of a step (from 0): linear warm-up to max_lr, --lr_schedule, min_lr from `end` on."""
    if step < args.warmup_iters:
        return args.max_lr * (step + 1) / args.warmup_iters
    if step >= end:
        return args.min_lr

    if args.lr_schedule == "cosine":
        progress = (step - args.warmup_iters) / (end - args.warmup_iters)
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:  # wsd: warm-up, stable, decay (arXiv 2404.06395)
        start = max(args.warmup_iters, cooldown_start(args, end))
        share = min(1.0, (end - step) / (end - start))
    return args.min_lr + share * (args.max_lr - args.min_lr)


def cooldown_start(args: ModelArgs, end: int) -> int | None:
    """Return the step at which wsd's decay begins, in a run whose rate is lowest at `end`; None for a cosine."""
    if args.lr_schedule != "wsd":
        return None
    return max(0, end - (args.cooldown_iters or max(1, end // COOLDOWN_SHARE)))


def cools_down(args: ModelArgs, step: int, end: int) -> bool:
    """Check whether the rate of wsd has begun to fall at a step."""
    start = cooldown_start(args, end)
    return start is not None and step >= start


def set_lr(optimizers: list[torch.optim.Optimizer], step: int, args: ModelArgs, end: int) -> float:
    """Set the learning rate of every group, in proportion to its peak; return AdamW's."""
    lr = schedule(step, args, end)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr / args.max_lr
    return lr


def build_scaler(device: torch.device, dtype: torch.dtype, tokens: int) -> torch.amp.GradScaler:
    """Return the scaler of the loss for float16; it does nothing in other precisions.

    `tokens` is the number of tokens of a micro-batch. The usual scale at the start, 65,536, suits a loss that is their
    mean; ours is their sum.
    """
    scale = 2.0 ** (16 - math.ceil(math.log2(tokens)))
    return torch.amp.GradScaler(device.type, init_scale=scale, enabled=dtype == torch.float16)


def adapt_scale(scaler: torch.amp.GradScaler, finite: bool) -> bool:
    """Adapt the scale after a step; return True if gradients that were not finite may be at a smaller scale."""
    if finite or not scaler.is_enabled():
        scaler.update()
        return False
    scale = scaler.get_scale() * scaler.get_backoff_factor()
    scaler.update(scale)
    return scale > MIN_SCALE


class Muon(torch.optim.Muon):
    """Muon (https://kellerjordan.github.io/posts/muon/) on stacked matrices of one shape, a few large products.

    Equal to torch.optim.Muon but for the precision: bfloat16 on CUDA alone, which is the one that is fast at it.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix. `closure` belongs to torch's interface and is not used."""
        for group in self.param_groups:
            weights = sorted((p for p in group["params"] if p.grad is not None), key=lambda p: p.shape)
            for shape, alike in groupby(weights, key=lambda p: p.shape):
                self._step_matrices(list(alike), shape, group)

    def _step_matrices(self, matrices: list[Tensor], shape: torch.Size, group: dict) -> None:
        """Update matrices of one shape."""
        for p in matrices:
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        gradients = [p.grad for p in matrices]
        momenta = [self.state[p]["momentum_buffer"] for p in matrices]

        # Nesterov momentum: the step goes from the gradient towards the new momentum.
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        update = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))  # N rows columns
        dtype = torch.bfloat16 if update.device.type == "cuda" else torch.float32
        update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"], dtype)

        # Tall matrices get larger steps, so that the size of a step does not depend on the shape.
        scale = math.sqrt(max(1, shape[0] / shape[1]))
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, update.unbind(), alpha=-group["lr"] * scale)


def orthogonalize(
    matrices: Tensor,
    coefficients: tuple[float, float, float],
    steps: int,
    eps: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return matrices (N, rows, columns) with all singular values brought near 1, by Newton-Schulz iterations.

    These are computed in `dtype`; the result has the precision of the matrices.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the smaller Gram matrix costs less
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)).to(dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
