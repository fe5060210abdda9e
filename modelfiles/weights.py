"""The weights of a Hugging Face folder: one file or several, by its index; safetensors, else pickled ones."""

from collections.abc import Iterator
from pathlib import Path

import safetensors
from safetensors.torch import load_file
from torch import Tensor, nn

from config import ModelArgs
from model import count_parameters
from modelfiles.adapter import add_adapter, find_base
from modelfiles.pickled_weights import PICKLE_ERRORS, load_pickled, pickle_error, plain_weights
from runtime.capacity import cpu_memory
from runtime.errors import UserError
from runtime.files import read_json

# In the order in which transformers looks for them.
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
BYTES_PER_NUMBER = 4  # in memory, where models are in float32
MAX_TABLE_BYTES = 1 << 30  # of rotary cosines and sines, where the weights themselves are smaller


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
    weight_map = read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise UserError(f"{index} is broken: its weight_map must name files beside it")

    files = [index.with_name(name) for name in sorted(names)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{missing[0]}, which {index} names, is missing: copy it there, too")
    return files


def check_sizes(folder: Path, args: ModelArgs) -> None:
    """Raise UserError if a config.json claims a larger model than the weights in its folder, or more than the memory.

    A byte holds one parameter at most. So a false config.json costs a look at the sizes of files, and no memory.
    """
    base = find_base(folder) or folder
    stored = sum(file.stat().st_size for file in weight_files(base))
    parameters = count_parameters(args)
    if parameters > stored:
        raise UserError(
            f"the weights in {base} do not fit {folder / 'config.json'}: it describes {parameters:,} parameters, and "
            f"the files of weights have {stored:,} bytes: it is that of another model, or they are broken or cut short"
        )

    table = 2 * args.block_size * args.head_dim * BYTES_PER_NUMBER  # cosines and sines
    if table > max(stored, MAX_TABLE_BYTES):
        raise UserError(
            f"{folder / 'config.json'} has max_position_embeddings {args.block_size:,}: its rotary table would take "
            f"{table / 1e9:,.1f} GB, more than the weights"
        )

    needed = BYTES_PER_NUMBER * parameters + table
    memory = cpu_memory()
    if memory is not None and needed > memory:
        raise UserError(
            f"the model in {folder} takes {needed / 1e9:,.1f} GB of memory in float32, and {memory / 1e9:,.1f} GB are "
            "free here: take a smaller one, or a machine with more"
        )


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

    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for name, weight in _read_file(file):
            if name in weights:
                raise UserError(f"{file} holds {name}, which another file of weights in {folder} holds, too")
            weights[name] = weight

    # Old Llama files store the rotary frequencies, which follow from rope_theta.
    weights = {name: weight for name, weight in weights.items() if not name.endswith("rotary_emb.inv_freq")}
    embedding = weights.get("model.embed_tokens.weight")
    if model.args.tie_embeddings and embedding is not None:
        weights.setdefault("lm_head.weight", embedding)

    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    wrong = [name for name, shape in shapes.items() if name not in weights or weights[name].shape != shape]
    wrong += [name for name in weights if name not in shapes]
    if wrong:
        raise UserError(
            f"the weights in {folder} do not fit its config.json: {wrong[0]} is missing, too many or misshapen"
        )
    if integers := [name for name, weight in weights.items() if not weight.is_floating_point()]:
        raise UserError(
            f"the weights in {folder} are quantized or no weights: {integers[0]} is {weights[integers[0]].dtype}"
        )
    return weights


def _is_finite(weight: Tensor) -> bool:
    """Check whether all values are finite. The least and the greatest are NaN where one value is."""
    return all(bound.isfinite() for bound in weight.float().aminmax())


def _read_file(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, weight) of a file. Raises UserError for one that is damaged or holds anything else."""
    try:
        if file.suffix == ".safetensors":
            yield from load_file(file).items()
        else:
            yield from plain_weights(load_pickled(file)).items()
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"the weights in {file} cannot be read ({error}): the file is broken or cut short"
        ) from None
    except PICKLE_ERRORS as error:
        raise pickle_error(file, "weights", error) from None
