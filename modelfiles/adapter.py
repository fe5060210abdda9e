"""Adapter of a model folder (LoRA, arXiv 2106.09685): the base that it belongs to, and the sum of both.

    adapter_config.json, adapter_model.safetensors    as the library peft writes and reads them
    config.json                                       its "smolllama" says where the base is from here, and a hash of it

Adding an adapter to its base needs no peft: W + alpha / rank * B A.
"""

import hashlib
import os
from pathlib import Path

import safetensors
from safetensors.torch import load_file
from torch import Tensor

from modelfiles.llama_config import own_metadata
from runtime.errors import UserError
from runtime.files import read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of all names in the file
SUFFIX_A = ".lora_A.weight"
SUFFIX_B = ".lora_B.weight"
SAMPLES = 64  # of each file of a base, which tell other weights from its own
SAMPLE_BYTES = 4096
OTHER_SCALES = ("use_rslora", "alpha_pattern", "rank_pattern")


def find_base(folder: Path) -> Path | None:
    """Return the folder of the weights that the adapter in a folder was trained on; None where there is no adapter.

    Base and adapter may have been moved together, or the adapter alone. Raises UserError where the base is gone, or
    has other weights by now.
    """
    if not (folder / CONFIG).is_file():
        return None
    here = own_metadata(folder).get("adapter_base")
    if not isinstance(here, dict) or not isinstance(here.get("path"), str):
        here = {"path": "."}
    last_known = Path(str(read_json(folder / CONFIG).get("base_model_name_or_path")))

    for base in ((folder.resolve() / here["path"]).resolve(), last_known):
        is_model = (base / "config.json").is_file() and base != folder.resolve()
        if is_model and here.get("fingerprint") in (None, _fingerprint(base)):
            return base
    raise UserError(
        f"the adapter in {folder} was trained on the weights in {last_known}, and they are not there any more: "
        "bring them back"
    )


def describe_base(folder: Path, base: Path) -> dict[str, str]:
    """Return what the config.json of an adapter's folder says about its base."""
    path = os.path.relpath(base.resolve(), folder.resolve())
    return {"path": Path(path).as_posix(), "fingerprint": _fingerprint(base)}


def _fingerprint(base: Path) -> str:
    """Return a hash of samples of the files of weights in a folder, in milliseconds: other weights have another one."""
    digest = hashlib.sha256()
    for path in sorted([*base.glob("*.safetensors"), *base.glob("pytorch_model*.bin")]):
        size = path.stat().st_size
        with path.open("rb") as file:
            for number in range(SAMPLES):
                file.seek(size * number // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Return the matrices A and B by the names in the file. Raises UserError when it cannot be read."""
    try:
        return load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"the adapter in {folder} cannot be read ({error}): the file is broken") from None


def add_adapter(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Return the weights of a base with the adapter in a folder added to them, in float32.

    Raises UserError for an adapter that is no plain LoRA of these weights.
    """
    config = read_json(folder / CONFIG)
    adapter = read_adapter(folder)
    merged = dict(weights)
    try:
        if config["peft_type"] != "LORA" or any(config.get(name) for name in OTHER_SCALES):
            raise ValueError("it is no plain LoRA")
        scale = config["lora_alpha"] / config["r"]
        for name in adapter:
            module = name.removeprefix(PREFIX).removesuffix(SUFFIX_A).removesuffix(SUFFIX_B)
            a = adapter[f"{PREFIX}{module}{SUFFIX_A}"].float()  # rank in
            b = adapter[f"{PREFIX}{module}{SUFFIX_B}"].float()  # out rank
            if (len(b), a.shape[-1]) != weights[f"{module}.weight"].shape:  # before the product takes memory
                raise ValueError(f"{module} has another shape")
            merged[f"{module}.weight"] = weights[f"{module}.weight"].float() + scale * (b @ a)
    except (KeyError, ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(
            f"the adapter in {folder} cannot be added to its base ({type(error).__name__}: {error})"
        ) from None
    return merged
