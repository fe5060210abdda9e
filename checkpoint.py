"""Checkpoints: each step folder is a Hugging Face model folder; its train_state/ is all that a resumed run needs.

    <run>/step_000050/config.json, model.safetensors, tokenizer.json, ...   what inference reads
    <run>/step_000050/train_state/state.json, optimizer.pt, rng.pt          step, position in the data, settings, hashes
    <run>/step_000050/SHA256SUMS, train_state/SHA256SUMS                    sha256 of all of these
    <run>/latest                                                            name of the newest complete step folder

A folder is written under a temporary name, synced and renamed, so a kill at any moment leaves the last one complete.

    python checkpoint.py verify DIR      compare every file of a run, a step or a dataset with its SHA256SUMS
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors")

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from config import ModelArgs, Parser
from model import Llama
from modelfiles.hub_names import is_hub_name
from modelfiles.llama_config import parse_config, read_config, rope_config
from modelfiles.origin import ID_NAMES, Origin
from modelfiles.weights import check_sizes, read_weights
from runtime.checksums import SUMS, first_corrupt_file, read_checksums
from runtime.errors import UserError, run_cli
from runtime.files import read_json, write_json
from tokenizer import Tokenizer, load_tokenizer

GENERATION_CONFIG = "generation_config.json"
OS_ERROR = re.compile(r"os error (\d+)")  # in the text of an error of safetensors
LEGACY = "smolllama-legacy"  # model_type of the weights once published, which no other library can run

# Sampling settings that generation_config.json carries, by our name and by Hugging Face's.
SAMPLING = {
    "max_length": "max_new_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "num_beams": "num_beams",
}


def hf_config(args: ModelArgs, eos_id: int, special_ids: Mapping[str, object] | None = None) -> dict:
    """Return the config.json of a LlamaForCausalLM with these settings.

    `special_ids` are those of the model that training started from; else the end of a text is its begin, too.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": args.vocab_size,
        "hidden_size": args.embeddings_dims,
        "intermediate_size": args.hidden_dims,
        "num_hidden_layers": args.no_of_decoder_layers,
        "num_attention_heads": args.no_of_heads,
        "num_key_value_heads": args.no_kv_heads,
        "head_dim": args.head_dim,
        "max_position_embeddings": args.block_size,
        "rms_norm_eps": args.eps,
        **rope_config(args),
        "tie_word_embeddings": args.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        # No pad token: as one, its embedding would get no gradient in other libraries.
        **(special_ids or {"bos_token_id": eos_id, "eos_token_id": eos_id}),
    }


def write_model(
    folder: Path,
    model: Llama,
    tokenizer: Tokenizer,
    metadata: dict,
    dtype: torch.dtype = torch.float32,
    weights: dict | None = None,
    sampling: Mapping[str, object] | None = None,
    origin: Origin | None = None,
    with_weights: bool = True,
) -> None:
    """Write the files of a Hugging Face model into a folder; those of an adapter go there without the weights.

    `metadata` becomes the part "smolllama" of config.json; its "stage" is the letter of the stage that trained the
    model: base models (P) continue a text, the others answer. `weights` are the complete weights of a sharded model.
    `sampling` are the settings by which it writes unless others are typed, `origin` is what it keeps of the model that
    training started from.
    """
    origin = origin or Origin()
    if with_weights:
        weights = dict(weights or model.state_dict())
        if model.args.tie_embeddings:
            del weights["lm_head.weight"]
        weights = {name: weight.to(dtype).contiguous() for name, weight in weights.items()}
        _save_weights(weights, folder / "model.safetensors")

    config = hf_config(model.args, tokenizer.eos_id, origin.special_ids)
    if origin.base_model:
        metadata = {**metadata, "base_model": origin.base_model}
    config |= {"dtype": str(dtype).removeprefix("torch."), "smolllama": metadata}
    if model.legacy:
        config |= {"model_type": LEGACY, "architectures": ["SmolLlamaLegacy"]}
    write_json(folder / "config.json", config)

    generation = hf_generation_config(sampling or {}, tokenizer.eos_id, tokenizer.stop_ids, origin)
    write_json(folder / GENERATION_CONFIG, generation)
    tokenizer.save(folder, with_template=metadata.get("stage") in ("S", "D"))
    for name, content in origin.files.items():
        (folder / name).write_bytes(content)


def _save_weights(weights: dict, path: Path) -> None:
    """Write a file of safetensors. Raises OSError where it cannot be written: the library's own error is none."""
    try:
        save_file(weights, path, {"format": "pt"})
    except SafetensorError as error:
        number = OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def hf_generation_config(
    sampling: Mapping[str, object],
    eos_id: int,
    stop_ids: Sequence[int] = (),
    origin: Origin | None = None,
) -> dict:
    """Return the generation_config.json of a model that writes with these settings by default.

    The other settings of the model that training started from are kept.
    """
    origin = origin or Origin()
    config: dict[str, object] = dict.fromkeys(ID_NAMES, eos_id) | origin.special_ids | origin.generation
    ends = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    if missing := [token for token in stop_ids if token not in ends]:
        config["eos_token_id"] = [*missing, *ends]
    if not sampling:
        return config

    for name in (*SAMPLING.values(), "do_sample", "max_length"):
        config.pop(name, None)

    is_greedy = sampling.get("temperature") == 0 or sampling.get("num_beams", 1) > 1
    config["do_sample"] = not is_greedy
    for name, hf_name in SAMPLING.items():
        # transformers warns of settings of sampling where nothing is sampled.
        if is_greedy and name in ("temperature", "top_k", "top_p", "min_p"):
            continue
        if name in sampling:
            config[hf_name] = sampling[name]
    return config


def load_end_ids(folder: Path) -> list[int]:
    """Return the tokens that end what the model in a folder writes, by its generation_config.json.

    Raises UserError when that is broken.
    """
    ids = _read_generation_config(folder).get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    return [token for token in ids if isinstance(token, int)]


def _read_generation_config(folder: Path) -> dict:
    """Return generation_config.json, {} where there is none. Raises UserError when it is broken."""
    path = folder / GENERATION_CONFIG
    if not path.is_file():
        return {}
    return read_json(path, ": correct or remove it")


def load_sampling(folder: Path) -> dict[str, object]:
    """Return the settings by which the model in a folder writes by default, as far as the folder has them.

    Raises UserError when generation_config.json is broken.
    """
    config = _read_generation_config(folder)
    try:
        values = {name: config.get(hf_name) for name, hf_name in SAMPLING.items()}
        if config.get("do_sample") is False:
            values["temperature"] = 0.0
        return {
            name: type(getattr(ModelArgs, name))(value)
            for name, value in values.items()
            if value is not None and (name != "top_p" or value > 0)
        }
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{folder / GENERATION_CONFIG} is broken ({type(error).__name__}: {error}): correct or remove it"
        ) from None


def steps(run: Path) -> list[Path]:
    """Return the complete step folders of a run, oldest first."""
    return sorted(run.glob("step_*"), key=lambda folder: (len(folder.name), folder.name))


def find_model(folder: str | Path) -> Path:
    """Return the folder itself if it holds a model, or a run's newest step. Raises UserError if there is neither."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder

    latest = folder / "latest"
    if latest.is_file():
        newest = latest.read_text(errors="replace").strip()
        if newest and (folder / newest / "config.json").is_file():
            return folder / newest
    if steps(folder):
        return steps(folder)[-1]
    raise UserError(
        f"no model in {folder}: give a run folder, a step folder, a Llama folder in Hugging Face format, or the "
        "OWNER/NAME of one on the hub"
    )


def find_or_download(name: str, models_dir: str | Path) -> Path:
    """Return the folder of a model that is a folder of this machine, or else a repository OWNER/NAME of the hub.

    A repository is downloaded into models_dir once; from then on it is read there. Raises UserError without either.
    """
    if not is_hub_name(name, models_dir):
        return find_model(name)

    require("huggingface_hub", "pyarrow")
    from modelfiles.hub_models import model_of_hub  # needs packages that no other model needs

    return model_of_hub(name, Path(models_dir), load_model)


def load_args(folder: Path) -> ModelArgs:
    """Return the architecture of the model in a folder.

    Raises UserError when config.json is not a Llama's, or describes another size than that of the weights.
    """
    args = parse_config(folder, read_config(folder))
    check_sizes(folder, args)
    return args


def load_model(folder: str | Path) -> tuple[Llama, Tokenizer]:
    """Return (model, tokenizer) of a run, a step or any Llama folder in Hugging Face format; float32, for inference.

    Raises UserError where the tokenizer has tokens that the model has not.
    """
    folder = find_model(folder)
    model, tokenizer = load_llama(folder), load_tokenizer(folder)
    if tokenizer.vocab_size > model.args.vocab_size:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, the model only "
            f"{model.args.vocab_size}: use the tokenizer that the model was trained with"
        )
    return model, tokenizer


def load_llama(folder: Path) -> Llama:
    """Return the model in a folder, for inference; the folder may have no tokenizer."""
    config = read_config(folder)
    legacy = config.get("model_type") == LEGACY
    if legacy:
        config["model_type"] = "llama"
    args = parse_config(folder, config)
    check_sizes(folder, args)
    model = Llama(args, legacy)
    model.load_state_dict(read_weights(folder, model))
    return model.eval()


def verify_checkpoint(folder: Path, resumed: bool = False) -> None:
    """Raise UserError when a file of a model folder is not what was written; of its train_state too if `resumed`.

    Folders of other programs have no checksums to compare with.
    """
    fault = first_corrupt_file(folder)
    if not fault and resumed:
        fault = first_corrupt_file(folder / "train_state")
    if not fault:
        return

    remedy = "start again without it"
    others = [step.name for step in steps(folder.parent) if step != folder]
    if others:
        remedy = f"remove that folder, --resume then continues from {others[-1]}"
    raise UserError(f"{fault}: {remedy}")


def main() -> None:
    """Compare the files of folders with their checksums."""
    parser = Parser(__doc__)
    parser.add_argument("command", choices=["verify"])
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run, a step or a prepared dataset")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    patterns = ("", "train_state/", "step_*/", "step_*/train_state/")
    folders = sorted(path.parent for pattern in patterns for path in folder.glob(pattern + SUMS))
    if not folders:
        raise UserError(f"{folder} has no {SUMS}, so there is nothing to compare its files with")

    faults = [fault for fault in map(first_corrupt_file, folders) if fault]
    for path in folders:
        print(f"{path}: {len(read_checksums(path) or ()):,} files")
    if faults:
        raise UserError("; ".join(faults))
    print("all files are as they were written")


if __name__ == "__main__":
    run_cli(main)
