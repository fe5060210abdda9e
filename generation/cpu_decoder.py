"""Decoding at batch 1 on a CPU by cpu_decoder.c, compiled once on each machine; float32 or int8 weights.

A token reads every weight once, so memory bandwidth sets the time. int8 weights are a quarter of float32's
bytes, and between the matrix products there is nothing that Python or a dispatcher would have to start.
Without a C compiler the model decodes in torch.
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

from runtime.errors import RunError
from runtime.files import sync

SOURCE = Path(__file__).with_name("cpu_decoder.c")
COMMAND = ("cc", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
INT8_STEPS = 127  # on each side of 0
MIN_ROW_MAXIMUM = 1e-12  # a row of zeros gets a scale above 0


class Matrix(ctypes.Structure):
    """Weight matrix as cpu_decoder.c reads it."""

    _fields_ = [("weight", ctypes.c_void_p), ("scale", ctypes.c_void_p)]


class Layer(ctypes.Structure):
    """Decoder layer as cpu_decoder.c reads it."""

    _fields_ = [
        ("attention_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("q", Matrix),
        ("k", Matrix),
        ("v", Matrix),
        ("o", Matrix),
        ("gate", Matrix),
        ("up", Matrix),
        ("down", Matrix),
    ]


class Model(ctypes.Structure):
    """Llama as cpu_decoder.c reads it."""

    _fields_ = [
        ("dims", ctypes.c_int),
        ("hidden", ctypes.c_int),
        ("n_layers", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("kv_heads", ctypes.c_int),
        ("head_dim", ctypes.c_int),
        ("vocab", ctypes.c_int),
        ("eps", ctypes.c_float),
        ("embedding", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("norm", ctypes.c_void_p),
        ("head", Matrix),
        ("layers", ctypes.POINTER(Layer)),
    ]


class CPUDecoder:
    """Llama for cpu_decoder.c: pointers into the memory of the model's weights."""

    def __init__(self, model: nn.Module, library: ctypes.CDLL):
        self.model = model  # keeps the memory alive
        self.library = library
        self.weights = dict(model.named_parameters())

        args = model.args
        layers = (Layer * args.no_of_decoder_layers)()
        for n in range(args.no_of_decoder_layers):
            layers[n] = self._layer(n)

        # named_parameters has no name of its own for a tied head.
        head = "lm_head.weight"
        if head not in self.weights:
            head = "model.embed_tokens.weight"

        self.pointers = Model(
            dims=args.embeddings_dims,
            hidden=args.hidden_dims,
            n_layers=args.no_of_decoder_layers,
            heads=args.no_of_heads,
            kv_heads=args.no_kv_heads,
            head_dim=args.head_dim,
            vocab=args.vocab_size,
            eps=args.eps,
            embedding=self.weights["model.embed_tokens.weight"].data_ptr(),
            cos=model.cos.data_ptr(),
            sin=model.sin.data_ptr(),
            norm=self.weights["model.norm.weight"].data_ptr(),
            head=self._matrix(head),
            layers=layers,
        )

    def _layer(self, n: int) -> Layer:
        """Return the pointers of layer n."""
        prefix = f"model.layers.{n}"
        return Layer(
            attention_norm=self.weights[f"{prefix}.input_layernorm.weight"].data_ptr(),
            mlp_norm=self.weights[f"{prefix}.post_attention_layernorm.weight"].data_ptr(),
            q=self._matrix(f"{prefix}.self_attn.q_proj.weight"),
            k=self._matrix(f"{prefix}.self_attn.k_proj.weight"),
            v=self._matrix(f"{prefix}.self_attn.v_proj.weight"),
            o=self._matrix(f"{prefix}.self_attn.o_proj.weight"),
            gate=self._matrix(f"{prefix}.mlp.gate_proj.weight"),
            up=self._matrix(f"{prefix}.mlp.up_proj.weight"),
            down=self._matrix(f"{prefix}.mlp.down_proj.weight"),
        )

    def _matrix(self, name: str) -> Matrix:
        """Return the pointers of a matrix: int8 and row scales if it is quantized, else float32."""
        if name in self.model.int8:
            weight, scale = self.model.int8[name]
            return Matrix(weight.data_ptr(), scale.data_ptr())
        return Matrix(self.weights[name].data_ptr(), None)

    def __call__(self, token: int, position: int, keys: Tensor, values: Tensor) -> Tensor:
        """Return logits (1, V) after a token; write its keys and values to the cache (layers, 1, K, length, D).

        Raises IndexError for a token outside the vocabulary and for a position outside the cache or the context,
        RunError where there is no memory.
        """
        args = self.model.args
        cache_length = keys.shape[3]
        positions = min(cache_length, args.block_size)
        if not 0 <= token < args.vocab_size:
            raise IndexError(f"token {token} is not in the vocabulary of {args.vocab_size} tokens")
        if not 0 <= position < positions:
            raise IndexError(f"position {position} does not fit a context of {positions} tokens")

        logits = torch.empty(1, args.vocab_size)
        out_of_memory = self.library.step(
            ctypes.byref(self.pointers),
            token,
            position,
            cache_length,
            ctypes.c_void_p(keys.data_ptr()),
            ctypes.c_void_p(values.data_ptr()),
            ctypes.c_void_p(logits.data_ptr()),
        )
        if out_of_memory:
            raise RunError("no memory for the next token: end other programs, or use a smaller model")
        return logits


def build_cpu_decoder(model: nn.Module, batch_size: int) -> CPUDecoder | None:
    """Return a decoder for a Llama, one token at a time; None where cpu_decoder.c cannot be used.

    It decodes one row on a CPU in float32.
    """
    weight = model.lm_head.weight
    supported = (
        batch_size == 1
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not model.training
        and not model.legacy
        and not hasattr(model, "peft_config")  # an adapter is no part of the matrices
        and not torch.is_autocast_enabled("cpu")
    )
    if not supported:
        return None

    compiled = library()
    if compiled is None:
        return None
    return CPUDecoder(model, compiled)


def quantize(model: nn.Module) -> None:
    """Round every matrix of a Llama to 255 steps a row, and keep the steps as int8 weights for decoding.

    The float32 weights are rounded, too, so that prompts, read in torch, and decoding use the same values.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() != 2:
                continue
            row_maximum = weight.abs().amax(1, keepdim=True).clamp(min=MIN_ROW_MAXIMUM)  # rows 1
            scale = row_maximum / INT8_STEPS
            steps = (weight / scale).round()
            weight.copy_(steps * scale)
            model.int8[name] = (steps.to(torch.int8), scale[:, 0].contiguous())


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load cpu_decoder.c from the user's cache folder, compiling it if needed; None where that fails."""
    description = repr((SOURCE.read_bytes(), COMMAND, processor()))
    key = hashlib.sha256(description.encode()).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smolllama"
        path = folder / f"decode-{key}.so"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(path)
        return ctypes.CDLL(str(path))
    except (
        OSError,
        RuntimeError,
        subprocess.CalledProcessError,
    ):  # RuntimeError: the user has no home folder
        return None


def _compile(path: Path) -> None:
    """Compile cpu_decoder.c in a temporary folder and rename it: another process may do the same."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        subprocess.run([*COMMAND, SOURCE, "-o", partial, "-lm"], check=True, capture_output=True)
        sync(partial)  # a power cut must not leave an empty file under the final name
        partial.replace(path)


def processor() -> str:
    """Return a description of this machine's processor: code compiled for it may not run on another one.

    Machines may share the cache folder, so the description is part of the file's name. Clock speeds change
    from call to call and are dropped.
    """
    try:
        first_core = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        first_core = platform.node() + platform.processor()

    lines = []
    for line in first_core.splitlines():
        if "MHz" not in line and "bogomips" not in line.lower():
            lines.append(line)
    return "\n".join(lines)
