"""Output projection and loss, chunk by chunk, so that the (N, V) logits never exist at once.

With a vocabulary of 50,000, the logits of one row of 512 tokens take 100 MB in float32, and their gradient as much
again. But the loss is a sum over independent chunks of positions, so the gradient of a chunk's logits is known right
after its forward. Each chunk's logits are turned into that gradient in place, and the next chunk reuses the buffer.

For a chunk of n positions with hidden states h (n, C), output weight W (V, C), labels y (n,) and a loss L that is a
function of the log-probs of the labels:

    logits  z = h W^T                                             (n, V)
    logps   l = z[y] - logsumexp(z)                               (n,)
    dL/dl   from autograd, on n numbers only: the caller's loss   (n,)
    dL/dz   = dL/dl * (onehot(y) - softmax(z))                    (n, V)
    dL/dh   = dL/dz W                                             (n, C)
    dL/dW   = (dL/dz)^T h, summed over chunks                     (V, C)

Cross-entropy is L = -sum(l). DPO's L depends on sums of l over each answer: there a chunk holds complete pairs.
Shapes: N positions, C width, V vocabulary; n positions of a chunk.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from config import IGNORE
from runtime.errors import UserError
from training.compilation import compile_or_plain

# On a CPU a chunk has about MAX_CHUNK_LOGITS logits (64 MiB in float32), which caches hold for the most part, but at
# least about MIN_CHUNK_TOKENS positions: the weight is read once a chunk.
MAX_CHUNK_LOGITS = 1 << 24
MIN_CHUNK_TOKENS = 256

# On CUDA it has this many positions, so that products are large, kernels few, and shapes the same in every step.
CUDA_CHUNK_TOKENS = 4096

# (log-probs (n,) of a chunk's labels, the chunk's place among the N positions) -> the chunk's part of the loss
ChunkLoss = Callable[[Tensor, slice], Tensor]


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy, float32, of labels (N,) for hidden states (N, C) and output weight (V, C)."""

    def negative_sum(logps: Tensor, chunk: slice) -> Tensor:
        return -logps.sum()

    return chunked_linear_loss(hidden, weight, labels, negative_sum)[0]


def chunked_linear_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, loss: ChunkLoss, boundaries: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Apply `loss` to the log-probs of the labels, chunk by chunk; return (its sum, log-probs (N,)).

    `boundaries` lists the positions where a chunk may end (default: anywhere); the last of them is N. Gradients flow
    through the first result only.
    """
    if torch.is_grad_enabled():
        return _ChunkedLinearLoss.apply(hidden, weight, labels, loss, boundaries)

    projection = _projection(hidden, weight, labels, boundaries)
    total = torch.zeros((), device=hidden.device)
    chunk_logps = []
    for chunk in projection.chunks:
        logps, _ = projection.forward(chunk)
        total += loss(logps, chunk)
        chunk_logps.append(logps)
    return total, torch.cat(chunk_logps)


@torch.no_grad()
def label_logps(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probs (N,) of the labels, float32; 0 where the label is IGNORE."""
    projection = _projection(hidden, weight, labels, None)
    return torch.cat([projection.forward(chunk)[0] for chunk in projection.chunks])


class _ChunkedLinearLoss(torch.autograd.Function):
    """Autograd function of chunked_linear_loss: its forward computes the gradients too."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        loss: ChunkLoss,
        boundaries: Sequence[int] | None,
    ) -> tuple[Tensor, Tensor]:
        projection = _projection(hidden, weight, labels, boundaries)
        total = torch.zeros((), device=hidden.device)
        all_logps = torch.empty(len(labels), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = None  # of a frozen weight
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)

        for chunk in projection.chunks:
            logps, kept = projection.forward(chunk)
            all_logps[chunk] = logps

            # dL/dl, by autograd over the n log-probs alone.
            with torch.enable_grad():
                leaf = logps.detach().requires_grad_()
                chunk_loss = loss(leaf, chunk)
                (grad_logps,) = torch.autograd.grad(chunk_loss, leaf)
            total += chunk_loss.detach()
            grad_logps = grad_logps.masked_fill(labels[chunk] == IGNORE, 0.0).neg_()[:, None]  # n 1

            # dL/dz = -dL/dl * (softmax - onehot): the second factor here, in the logits' own memory ...
            grad_logits = projection.softmax_minus_onehot(chunk, kept)

            # ... and -dL/dl on the small side of each product: (n, C) instead of (n, V) numbers are scaled.
            grad_hidden[chunk] = (grad_logits @ projection.weight) * grad_logps
            if grad_weight is None:
                continue
            scaled_hidden = (hidden[chunk] * grad_logps).to(projection.dtype)
            _add_product(grad_weight, grad_logits.T, scaled_hidden)

        ctx.gradients = grad_hidden, grad_weight
        ctx.mark_non_differentiable(all_logps)
        return total, all_logps

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad_total: Tensor, _: Tensor) -> tuple:
        grad_hidden, grad_weight = ctx.gradients
        del ctx.gradients  # then autograd holds the only reference, and may accumulate into them in place
        if grad_weight is not None:
            grad_weight.mul_(grad_total)
        return grad_hidden.mul_(grad_total), grad_weight, None, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product of a and b to a float32 total in place; in 16 bits too, the sum is in float32."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif a.device.type == "cuda":
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += a @ b


def _projection(
    hidden: Tensor, weight: Tensor, labels: Tensor, boundaries: Sequence[int] | None
) -> "_Projection":
    """Return the output projection in the form that suits the device."""
    kind = _CUDAProjection if hidden.device.type == "cuda" else _Projection
    return kind(hidden, weight, labels, boundaries)


class _Projection:
    """Output projection of one chunk at a time, in the precision of autocast, always into the same buffer."""

    def __init__(self, hidden: Tensor, weight: Tensor, labels: Tensor, boundaries: Sequence[int] | None):
        device = hidden.device.type
        self.dtype = hidden.dtype
        if torch.is_autocast_enabled(device):
            self.dtype = torch.get_autocast_dtype(device)
        self.hidden = hidden.to(self.dtype)
        self.weight = weight.to(self.dtype)
        self.labels = labels
        self.target_ids = labels.clamp(min=0)[:, None]  # N 1; any id will do where the label is IGNORE

        self.chunks = split_into_chunks(len(labels), len(weight), boundaries, device)
        longest = max(chunk.stop - chunk.start for chunk in self.chunks)
        self.buffer = torch.empty(longest, len(weight), dtype=self.dtype, device=hidden.device)

    def logits(self, chunk: slice) -> Tensor:
        """Return the logits (n, V) of a chunk in the buffer; they are valid until the next chunk."""
        out = self.buffer[: chunk.stop - chunk.start]
        return torch.mm(self.hidden[chunk], self.weight.T, out=out)

    def forward(self, chunk: slice) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the labels' log-probs (n,) in float32, and what softmax_minus_onehot needs besides."""
        logits = self.logits(chunk).float()  # n V
        target_logits = logits.gather(1, self.target_ids[chunk])
        largest = logits.amax(1, keepdim=True)
        exp_logits = logits.sub_(largest).exp_()
        sum_exp = exp_logits.sum(1, keepdim=True)

        logps = (target_logits - largest - sum_exp.log())[:, 0]
        return logps.masked_fill_(self.labels[chunk] == IGNORE, 0.0), (exp_logits, sum_exp)

    def softmax_minus_onehot(self, chunk: slice, kept: tuple[Tensor, Tensor]) -> Tensor:
        """Return softmax(z) - onehot(y) (n, V) of the chunk of the latest forward."""
        exp_logits, sum_exp = kept
        softmax = exp_logits.div_(sum_exp)
        return softmax.scatter_add_(1, self.target_ids[chunk], -torch.ones_like(sum_exp)).to(self.dtype)


class _CUDAProjection(_Projection):
    """The same with two compiled functions, which read the logits and write nothing of their size but the result."""

    def forward(self, chunk: slice) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the labels' log-probs (n,) in float32, and what softmax_minus_onehot needs besides."""
        logits = self.logits(chunk)  # n V
        logps, logsumexp = _compiled()[0](logits, self.labels[chunk])
        return logps, (logits, logsumexp)

    def softmax_minus_onehot(self, chunk: slice, kept: tuple[Tensor, Tensor]) -> Tensor:
        """Return softmax(z) - onehot(y) (n, V) of the chunk of the latest forward."""
        return _compiled()[1](*kept, self.labels[chunk])


@cache
def _compiled() -> tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., Tensor]]:
    """Return the functions of _CUDAProjection, compiled at their first call."""
    return compile_or_plain(logps_and_logsumexp), compile_or_plain(softmax_minus_onehot)


def logps_and_logsumexp(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probs (n,) of labels (n,), 0 where one is IGNORE, and logsumexp (n, 1) of logits (n, V); float32."""
    logits = logits.float()
    logsumexp = logits.logsumexp(1, keepdim=True)
    target_logits = logits.gather(1, labels.clamp(min=0)[:, None])
    logps = (target_logits - logsumexp)[:, 0]
    return logps.masked_fill(labels == IGNORE, 0.0), logsumexp


def softmax_minus_onehot(logits: Tensor, logsumexp: Tensor, labels: Tensor) -> Tensor:
    """Return softmax - onehot(labels) (n, V) in the memory and precision of logits (n, V)."""
    softmax = (logits.float() - logsumexp).exp()
    onehot = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    return logits.copy_(softmax - onehot.float())


def split_into_chunks(
    positions: int, vocab_size: int, boundaries: Sequence[int] | None, device: str = "cpu"
) -> list[slice]:
    """Split positions into chunks: of about equal size on a CPU, on CUDA of CUDA_CHUNK_TOKENS and a rest.

    A small rest would cost a CPU nearly as much as a full chunk. With `boundaries` each chunk ends at the boundary
    nearest to where it would end without.
    """
    if device == "cuda":
        cuts = [*range(0, max(1, positions), CUDA_CHUNK_TOKENS), positions]
    else:
        chunk_size = max(MIN_CHUNK_TOKENS, MAX_CHUNK_LOGITS // vocab_size)
        count = max(1, round(positions / chunk_size))
        cuts = [positions * n // count for n in range(count + 1)]
    if boundaries and positions:
        nearest = {min(boundaries, key=lambda boundary: abs(boundary - cut)) for cut in cuts[1:]}
        cuts = sorted({0} | nearest)
    return [slice(start, stop) for start, stop in zip(cuts[:-1], cuts[1:], strict=True)]


def output_weight(model: nn.Module) -> Tensor:
    """Return the output weight (V, C) of a Llama, bare or wrapped. Raises UserError where the head has a bias too."""
    head = getattr(model, "module", model).lm_head
    if head.bias is not None:
        raise UserError(
            "the published legacy weights have another head: they can be run, not measured or trained"
        )
    return head.weight
