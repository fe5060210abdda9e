"""Parts of gpu.py that look at one operation: the device, attention, the head."""

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dataloader.batch import attention_segments
from kernels.attention import Segments, attention, attention_mask, form_of_attention
from training import chunked_loss

KERNELS = ("math", "flash", "efficient", "cuDNN")
H, K, D = 12, 2, 64  # heads of smol-130m


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Return the median seconds of a function on a device, after three calls to warm up."""
    times = []
    for n in range(3 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if n >= 3:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def where(report, device: torch.device, tiny: bool) -> None:
    """The device, its speed, and the kernel that torch chooses for rows of each kind."""
    report.add("torch", torch.__version__)
    report.add("python", platform.python_version())
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        report.add("device", properties.name)
        report.add("memory GiB", properties.total_memory / 2**30)
        report.add("cuDNN", torch.backends.cudnn.version())

    size = 256 if tiny else 8192
    a = torch.randn(size, size, device=device, dtype=torch.float32 if tiny else torch.bfloat16)
    b = torch.randn_like(a)
    report.add(
        "matrix products TFLOP/s", 2 * size**3 / seconds(lambda: a @ b, device) / 1e12, "H100: 600 to 800"
    )
    long = torch.empty(1 << (16 if tiny else 30), device=device)
    report.add("copy TB/s", 8 * len(long) / seconds(long.clone, device) / 1e12, "H100: 2.4 to 3.0")
    report.add("form of packed rows", form_of_attention(device, torch.bfloat16, D, 0.0, True), "varlen")

    for name, dtype, masked, groups, dropout in (
        ("causal, bf16", torch.bfloat16, False, True, 0.0),
        ("causal, bf16, dropout", torch.bfloat16, False, True, 0.1),
        ("mask, bf16", torch.bfloat16, True, False, 0.0),
        ("mask, bf16, dropout", torch.bfloat16, True, False, 0.1),
        ("mask, float32", torch.float32, True, False, 0.0),
        ("causal, float32", torch.float32, False, False, 0.0),
    ):
        q = torch.empty(2, H, 320, D, device=device, dtype=dtype, requires_grad=True)
        k = torch.empty(2, K if groups else H, 320, D, device=device, dtype=dtype, requires_grad=True)
        mask = torch.ones(2, 1, 320, 320, device=device, dtype=torch.bool) if masked else None
        chosen = torch._fused_sdp_choice(q, k, k, mask, dropout, not masked, enable_gqa=groups)
        fused = tiny or chosen != 0
        report.add(f"kernel: {name}", KERNELS[chosen], "not math", fused)


def rows_of(kind: str, batch: int, T: int, mean: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return doc_ids and branches (B, T): documents of lognormal lengths, or preference pairs of about that length."""
    rng = np.random.default_rng(seed)
    doc_ids, branches = np.zeros((batch, T), np.int64), np.zeros((batch, T), np.int64)
    for row in range(batch):
        place = number = 0
        while place < T:
            length = max(3, int(rng.lognormal(np.log(mean) - 0.5, 1.0)))
            pieces = [length, 0, 0]
            if kind == "tree":
                pieces = [length // 2, length // 4 + 1, length - length // 2 - length // 4]
            branch = np.repeat([0, 1, 2], pieces)[: T - place]
            branches[row, place : place + len(branch)] = branch
            doc_ids[row, place : place + len(branch)] = number
            place, number = place + len(branch), number + 1
    return doc_ids, branches


def forms(doc_ids: np.ndarray, branches: np.ndarray, device: torch.device) -> dict[str, Callable]:
    """Return the forms of attention of packed rows that a device has, as functions of q, k, v."""
    B, T = doc_ids.shape
    segments = Segments.of(attention_segments(doc_ids, branches))
    ids = torch.from_numpy(doc_ids).to(device), torch.from_numpy(branches).to(device)
    mask = attention_mask(T, 0, *ids, device)
    found = {"mask": lambda q, k, v: attention(q, k, v, mask, None, 0.0)}
    if device.type == "cuda":
        found["varlen"] = partial(_varlen, segments=segments.to(device))
    else:
        found["by segment"] = partial(_varlen, segments=segments)
    return found


def _varlen(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    return attention(q, k, v, None, segments, 0.0)


def _with_gradients(function: Callable, qkv: list[Tensor], weight: Tensor) -> list[Tensor]:
    """Return output and gradients of q, k, v."""
    leaves = [x.detach().requires_grad_() for x in qkv]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, weight.to(out.dtype))]


def attention_forms(report, device: torch.device, tiny: bool) -> None:
    """Errors of each form against float64 on the CPU, and their times."""
    dtype = torch.float32 if tiny else torch.bfloat16
    for kind in ("documents", "tree"):
        for T in (33, 64) if tiny else (320, 511, 512, 1024):
            doc_ids, branches = rows_of(kind, 2, T, T / 4, seed=T)
            generator = torch.Generator().manual_seed(T)
            # Large scores, too: a young model's are small, and faults of kernels show where they are not.
            qkv = [4 * torch.randn(2, n, T, D, generator=generator).to(dtype) for n in (H, K, K)]
            weight = torch.randn(2, H, T, D, generator=generator).to(dtype)
            segments = Segments.of(attention_segments(doc_ids, branches))
            exact = _with_gradients(
                partial(_varlen, segments=segments), [x.double() for x in qkv], weight.double()
            )
            for form, function in forms(doc_ids, branches, device).items():
                results = _with_gradients(function, [x.to(device) for x in qkv], weight.to(device))
                for name, wanted, got in zip(("o", "dq", "dk", "dv"), exact, results, strict=True):
                    error = ((got.double().cpu() - wanted).norm() / wanted.norm()).item()
                    good = error < (1e-4 if tiny else 2e-2)
                    # The mask is the form that is not taken here: its known fault is reported, not counted.
                    report.add(
                        f"error of {name}, {kind}, T {T}, {form}",
                        error,
                        "2e-3 to 1e-2",
                        good or form == "mask",
                    )

    for kind, B, T in (
        (("documents", 2, 64), ("tree", 2, 64)) if tiny else (("documents", 32, 1024), ("tree", 8, 2048))
    ):
        doc_ids, branches = rows_of(kind, B, T, 700 * T / 1024)
        qkv = [torch.randn(B, n, T, D, device=device, dtype=dtype) for n in (H, K, K)]
        weight = torch.randn(B, H, T, D, device=device, dtype=dtype)
        choices = {
            "causal": lambda q, k, v: attention(q, k, v, None, None, 0.0),
            **forms(doc_ids, branches, device),
        }
        for form, function in choices.items():
            took = seconds(partial(_with_gradients, function, qkv, weight), device)
            expected = {"causal": "0.4 to 0.6", "mask": "0.9 to 1.5", "varlen": "0.4 to 0.8"}.get(form, "")
            report.add(f"ms of a layer, {kind}, {B} x {T}, {form}", 1000 * took, expected)


def head(report, device: torch.device, tiny: bool) -> None:
    """Errors of the head's loss and gradients against float64; its time by the size of a chunk."""
    N, V, C = (300, 97, 16) if tiny else (32768, 50304, 768)
    dtype = torch.float32 if tiny else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(N, C, generator=generator), torch.randn(V, C, generator=generator) * 0.05
    labels = torch.randint(V, (N,), generator=generator)

    few = slice(0, 512)  # so many rows in float64 on the CPU
    exact = _loss_and_gradients(hidden[few].double(), weight.double(), labels[few])
    with torch.autocast(device.type, dtype=dtype, enabled=not tiny):
        ours = _loss_and_gradients(hidden[few].to(device), weight.to(device), labels[few].to(device))
    for name, wanted, got in zip(("loss", "hidden", "weight"), exact, ours, strict=True):
        error = ((got.double().cpu() - wanted).norm() / wanted.norm()).item()
        report.add(f"error of {name}", error, "below 5e-3", error < 5e-3)

    hidden, weight, labels = hidden.to(device), weight.to(device), labels.to(device)
    usual = chunked_loss.CUDA_CHUNK_TOKENS
    compiled = chunked_loss._compiled()
    for tokens in (64,) if tiny else (1024, 2048, 4096, 8192, 16384):
        chunked_loss.CUDA_CHUNK_TOKENS = tokens
        with torch.autocast(device.type, dtype=dtype, enabled=not tiny):
            took = seconds(partial(_loss_and_gradients, hidden, weight, labels), device, 5)
        report.add(f"ms, chunks of {tokens}", 1000 * took, "about 20 at 4,096" if tokens == usual else "")
    chunked_loss.CUDA_CHUNK_TOKENS = usual

    chunked_loss._compiled = lambda: (chunked_loss.logps_and_logsumexp, chunked_loss.softmax_minus_onehot)
    with torch.autocast(device.type, dtype=dtype, enabled=not tiny):
        took = seconds(partial(_loss_and_gradients, hidden, weight, labels), device, 5)
    report.add(f"ms, chunks of {usual}, not compiled", 1000 * took)
    chunked_loss._compiled = lambda: compiled


def _loss_and_gradients(hidden: Tensor, weight: Tensor, labels: Tensor) -> list[Tensor]:
    leaves = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
    if hidden.dtype == torch.float64:
        loss = torch.nn.functional.cross_entropy(leaves[0] @ leaves[1].T, labels, reduction="sum")
    else:
        loss = chunked_loss.linear_cross_entropy(*leaves, labels)
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]
