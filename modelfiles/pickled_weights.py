"""Weights that torch.save wrote: read without running code in them, and without more memory than the file has bytes.

A file of a few kilobytes may claim any amount of memory: compressed, by a call such as bytearray(10**12), by a tensor
that shows one number everywhere. So its directory and its pickle are looked at before anything is loaded.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from runtime.errors import UserError

MAX_MESSAGE = 150  # characters of torch's error message
MAX_PICKLE_BYTES = 64 << 20  # of names and shapes; those of a model of 100,000 tensors are 10 MB
OLD_FORMAT_PICKLES = 5  # magic number, version, system, the weights, names of their storages
# What the pickle of plain weights calls, by torch's own names.
CALLS = re.compile(
    r"collections OrderedDict"
    r"|torch \w+Storage|torch\.storage (Untyped|Typed)Storage|torch (float|bfloat|int|uint|bool|complex)\w*"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)|torch\.nn\.parameter Parameter"
)

# The errors of torch.load and of wrong contents.
PICKLE_ERRORS = (
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    MemoryError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def load_pickled(file: Path) -> object:
    """Return what torch.save wrote into a file, in its present or its old format; tensors of a zip file are mapped.

    Raises one of PICKLE_ERRORS for anything but tensors, numbers and texts in lists and dicts.
    """
    is_zip = zipfile.is_zipfile(file)
    for name in _calls_of_zip(file) if is_zip else _calls_of_old_format(file):
        if not CALLS.fullmatch(name):
            raise pickle.UnpicklingError(f"it calls {name.replace(' ', '.')}")
    return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)


def plain_weights(state: object) -> dict[str, Tensor]:
    """Return the weights of a state dict. Raises TypeError or ValueError for anything but complete tensors by name."""
    if not isinstance(state, Mapping):
        raise TypeError("it holds no weights by name")
    for name, weight in state.items():
        if not isinstance(name, str) or not isinstance(weight, Tensor):
            raise TypeError("it holds more than weights")
        if weight.layout != torch.strided or weight.is_meta or weight.is_quantized:
            raise ValueError(f"{name} is no plain tensor")
        if weight.nbytes > weight.untyped_storage().nbytes():
            raise ValueError(f"{name} shows the same numbers at several positions")
    return dict(state)


def pickle_error(file: Path, kind: str, error: Exception) -> UserError:
    """Return the error for a file that cannot be read; `kind` is what it should hold."""
    message = " ".join(str(error).split())[:MAX_MESSAGE]
    return UserError(
        f"{file} is not a complete file of {kind}, and no code in it was run ({type(error).__name__}: {message})"
    )


def _calls_of_zip(file: Path) -> Iterator[str]:
    """Yield what the pickle of a file in the present format calls. Raises ValueError for a compressed file."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which torch.save never does")
        for entry in entries:
            if not entry.filename.endswith("/data.pkl"):
                continue
            if entry.file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"its pickle has {entry.file_size:,} bytes")
            yield from _calls(archive.read(entry))


def _calls_of_old_format(file: Path) -> Iterator[str]:
    """Yield what the pickles of a file in torch's old format call; its numbers follow them."""
    with file.open("rb") as stream:
        for _ in range(OLD_FORMAT_PICKLES):
            yield from _calls(stream)


def _calls(source: object) -> Iterator[str]:
    """Yield "module name" of what a pickle calls, from bytes or from a file that is read up to its end."""
    for opcode, argument, _ in pickletools.genops(source):
        if opcode.name in ("GLOBAL", "INST"):
            yield argument
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            yield "a name that it computes"
