"""The weights of a Hugging Face folder: one file or several, by its index; safetensors, else pickled ones."""

import json
import pickle
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modelfiles.adapter import add_adapter, find_base
from runtime.errors import UserError

# In the order in which transformers looks for them.
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
MAX_MESSAGE = 150  # characters of torch's error message

# The errors of torch.load and of wrong contents.
PICKLE_ERRORS = (
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a folder; pickled ones only where there is no safetensors file.

    Raises UserError when there is none, when an index is broken, or when a file that it names is missing.
    """
    if (folder / SAFETENSORS).is_file():
        return [folder / SAFETENSORS]
    if (folder / SAFETENSORS_INDEX).is_file():
        return _files_of_index(folder / SAFETENSORS_INDEX)
    if files := sorted(folder.glob("*.safetensors")):
        return files
    if (folder / PICKLED).is_file():
        return [folder / PICKLED]
    if (folder / PICKLED_INDEX).is_file():
        return _files_of_index(folder / PICKLED_INDEX)
    raise UserError(f"{folder} has no weights: neither a .safetensors file nor {PICKLED}")


def _files_of_index(index: Path) -> list[Path]:
    """Return the files that an index names, which lie beside it."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if wrong := [name for name in names if name != Path(name).name]:
            raise ValueError(f"{wrong[0]!r} is no name of a file beside it")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is broken ({type(error).__name__}: {error})") from None

    files = [index.with_name(name) for name in sorted(names)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{missing[0]}, which {index} names, is missing: copy it there, too")
    return files


def read_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a folder for a model; names and shapes are checked, and no pickled code is run.

    An adapter is added to its base. Raises UserError for weights that do not fit or are not finite.
    """
    weights = _read_matching(folder, model)

    # torch's attention on a CPU takes NaN for masked: such a model would write as if nothing were wrong.
    if not_finite := [name for name, weight in weights.items() if not _is_finite(weight)]:
        raise UserError(
            f"{not_finite[0]} in {folder} has values that are not finite: its training diverged, use an earlier "
            "checkpoint"
        )
    return weights


def _read_matching(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a folder, an adapter added to its base, with names and shapes as the model has them."""
    if base := find_base(folder):
        return add_adapter(_read_matching(base, model), folder)
    try:
        weights = {name: weight for file in weight_files(folder) for name, weight in _read_file(file).items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"the weights in {folder} cannot be read ({error}): the file is broken or cut short"
        ) from None

    # Old Llama files store the rotary frequencies, which follow from rope_theta.
    weights = {name: weight for name, weight in weights.items() if not name.endswith("rotary_emb.inv_freq")}
    if model.args.tie_embeddings:
        weights.setdefault("lm_head.weight", weights.get("model.embed_tokens.weight"))

    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    wrong = [
        name for name, shape in shapes.items() if weights.get(name) is None or weights[name].shape != shape
    ]
    wrong += [name for name in weights if name not in shapes]
    if wrong:
        raise UserError(
            f"the weights in {folder} do not fit its config.json: {wrong[0]} is missing, too many or misshapen"
        )
    return weights


def _is_finite(weight: Tensor) -> bool:
    """Check whether all values are finite. The least and the greatest are NaN where one value is."""
    return all(bound.isfinite() for bound in weight.float().aminmax())


def _read_file(file: Path) -> dict[str, Tensor]:
    """Return the weights in a file. Raises UserError for a pickled one that holds anything else."""
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        if not all(isinstance(weight, Tensor) for weight in weights.values()):
            raise TypeError("it holds more than weights")
    except PICKLE_ERRORS as error:
        message = " ".join(str(error).split())[:MAX_MESSAGE]
        raise UserError(
            f"{file} is not a complete file of weights, and no code in it was run ({type(error).__name__}: {message})"
        ) from None
    return weights
