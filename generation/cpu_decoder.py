"""Decoding at batch 1 on a CPU: cpu_decoder.c, compiled once on each machine, one call for a token; weights as bytes.

A token reads every weight once, so its time is the memory's. Bytes are a quarter of float32; between the products
stands nothing that Python or a dispatcher would have to start. Without a C compiler all goes on as before.
"""

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

SOURCE = Path(__file__).with_name("cpu_decoder.c")
COMMAND = ("cc", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")


class Matrix(ctypes.Structure):
    """A weight as cpu_decoder.c reads it."""

    _fields_ = [("weight", ctypes.c_void_p), ("scale", ctypes.c_void_p)]


class Layer(ctypes.Structure):
    """A decoder layer as cpu_decoder.c reads it."""

    _fields_ = [
        ("attention_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
    ]


class Model(ctypes.Structure):
    """A Llama as cpu_decoder.c reads it."""

    _fields_ = [
        *(
            (name, ctypes.c_int)
            for name in ("dims", "hidden", "n_layers", "heads", "kv_heads", "head_dim", "vocab")
        ),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("embedding", "cos", "sin", "norm")),
        ("head", Matrix),
        ("layers", ctypes.POINTER(Layer)),
    ]


def processor() -> str:
    """What this machine's processor can do: code made for it may not run on another, which may share the folder."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        about = platform.node() + platform.processor()
    return "\n".join(
        line for line in about.splitlines() if "MHz" not in line and "bogomips" not in line.lower()
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """cpu_decoder.c compiled for this machine, kept in the user's cache folder; None where that cannot be done."""
    key = hashlib.sha256(repr((SOURCE.read_bytes(), COMMAND, processor())).encode()).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smolllama"
        path = folder / f"decode-{key}.so"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as partial:  # another process may be at it, too
                made = Path(partial) / path.name
                subprocess.run([*COMMAND, SOURCE, "-o", made, "-lm"], check=True, capture_output=True)
                with made.open("rb") as file:
                    os.fsync(file.fileno())
                made.rename(path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.CalledProcessError):  # RuntimeError: there is no home
        return None


def quantize(model: nn.Module) -> None:
    """Round every matrix of a Llama to 255 steps a row, and keep the steps as bytes for decoding."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
                steps = (weight / scale).round()
                weight.copy_(steps * scale)
                model.int8[name] = (steps.to(torch.int8), scale[:, 0].contiguous())


class Decoder:
    """A Llama as cpu_decoder.c reads it: it points into the model's memory."""

    def __init__(self, model: nn.Module, library: ctypes.CDLL):
        self.model, self.library, args = model, library, model.args
        weights = dict(model.named_parameters())
        head = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"

        def matrix(name: str) -> Matrix:
            weight, scale = model.int8.get(name, (weights[name], None))
            return Matrix(weight.data_ptr(), scale if scale is None else scale.data_ptr())

        def layer(n: int) -> Layer:
            at = f"model.layers.{n}"
            norms = (
                weights[f"{at}.{name}.weight"].data_ptr()
                for name in ("input_layernorm", "post_attention_layernorm")
            )
            return Layer(
                *norms,
                *(matrix(f"{at}.self_attn.{name}_proj.weight") for name in "qkvo"),
                *(matrix(f"{at}.mlp.{name}_proj.weight") for name in ("gate", "up", "down")),
            )

        layers = (Layer * args.no_of_decoder_layers)(*map(layer, range(args.no_of_decoder_layers)))
        self.pointers = Model(
            args.embeddings_dims,
            args.hidden_dims,
            args.no_of_decoder_layers,
            args.no_of_heads,
            args.no_kv_heads,
            args.head_dim,
            args.vocab_size,
            args.eps,
            weights["model.embed_tokens.weight"].data_ptr(),
            model.cos.data_ptr(),
            model.sin.data_ptr(),
            weights["model.norm.weight"].data_ptr(),
            matrix(head),
            layers,
        )

    def __call__(self, token: int, position: int, keys: Tensor, values: Tensor) -> Tensor:
        """Logits (1, V) of what follows a token; its keys and values join those before it (layers, 1, K, room, D)."""
        logits = torch.empty(1, self.model.args.vocab_size)
        self.library.step(
            ctypes.byref(self.pointers),
            token,
            position,
            keys.shape[3],
            *(ctypes.c_void_p(x.data_ptr()) for x in (keys, values, logits)),
        )
        return logits


def decoder(model: nn.Module, batch_size: int) -> Decoder | None:
    """What decodes for a Llama one token at a time, where cpu_decoder.c can: one row, on a CPU, in float32."""
    weight = model.lm_head.weight
    fits = (
        batch_size == 1
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not model.training
        and not model.legacy
        and not torch.is_autocast_enabled("cpu")
    )
    return Decoder(model, found) if fits and (found := library()) else None
