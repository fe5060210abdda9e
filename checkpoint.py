"""Checkpoints: every step folder is a Hugging Face model folder; its train_state/ is all that a resumed run needs.

    <run>/step_000050/config.json, model.safetensors, tokenizer.json, ...   what inference reads
    <run>/step_000050/train_state/state.json, optimizer.pt, rng.pt          step, position in the data, settings, hashes
    <run>/step_000050/SHA256SUMS, train_state/SHA256SUMS                    sha256 of all of these
    <run>/latest                                                            name of the newest complete step folder

A folder is written under a temporary name, synced and renamed, so a kill at any moment leaves the last one whole.

    python checkpoint.py verify DIR      compare every file of a run, a step or a dataset with its SHA256SUMS
"""

import json
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from config import ModelArgs, Parser
from model import Llama
from runtime.checksums import SUMS, first_corrupt_file, read_checksums
from runtime.errors import UserError, run_cli
from runtime.files import write_json
from tokenizer import Tokenizer, load_tokenizer

LEGACY = "smolllama-legacy"  # model_type of the weights once published, which no other library can run
ARCHITECTURE = (
    "block_size",
    "vocab_size",
    "embeddings_dims",
    "no_of_decoder_layers",
    "no_of_heads",
    "no_kv_heads",
    "head_dim",
    "hidden_dims",
    "eps",
    "rope_theta",
    "tie_embeddings",
)


def hf_config(args: ModelArgs, eos_id: int) -> dict:
    """config.json of a LlamaForCausalLM with these settings."""
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
        "rope_theta": args.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": args.rope_theta},
        "tie_word_embeddings": args.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,  # as pad token, its embedding would get no gradient elsewhere
    }


def args_from_hf(config: dict, where: Path) -> ModelArgs:
    """Settings of the model in a Hugging Face config.json. Raises UserError for what our Llama is not."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    different = [
        text
        for text, ours in (
            (f"model_type {config.get('model_type')}", config.get("model_type") == "llama"),
            (f"rope_type {kind}", kind == "default"),
            (f"hidden_act {config.get('hidden_act')}", config.get("hidden_act", "silu") == "silu"),
            ("attention_bias", not config.get("attention_bias")),
            ("mlp_bias", not config.get("mlp_bias")),
        )
        if not ours
    ]
    if different:
        raise UserError(f"{where} is not a plain Llama ({', '.join(different)}), so it cannot be used as one")
    heads = config["num_attention_heads"]
    args = ModelArgs(
        vocab_size=config["vocab_size"],
        embeddings_dims=config["hidden_size"],
        hidden_dims=config["intermediate_size"],
        no_of_decoder_layers=config["num_hidden_layers"],
        no_of_heads=heads,
        no_kv_heads=config.get("num_key_value_heads", heads),
        head_dim=config.get("head_dim"),
        block_size=config["max_position_embeddings"],
        eps=config["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        tie_embeddings=config.get("tie_word_embeddings", False),
        dropout=0.0,
        attn_dropout=0.0,
    )
    usual = ModelArgs()
    for name in ARCHITECTURE:
        if type(getattr(args, name)) not in (type(getattr(usual, name)), int):
            raise TypeError(f"{name} is {getattr(args, name)!r}")
    return args


def write_model(
    folder: Path,
    model: Llama,
    tokenizer: Tokenizer,
    about: dict,
    dtype: torch.dtype = torch.float32,
    weights: dict | None = None,
) -> None:
    """Write the files of a Hugging Face model into a folder; `about` is the part of config.json that is our own.

    about["stage"] is the letter of the stage that trained it: models of P continue a text, those of S and D answer.
    `weights` are the model's, whole, where it lies in parts on several ranks.
    """
    tied = {"lm_head.weight"} if model.args.tie_embeddings else set()
    weights = {
        name: weight.to(dtype).contiguous()
        for name, weight in (weights or model.state_dict()).items()
        if name not in tied
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    special = {
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.eos_id,
    }
    config = {
        **hf_config(model.args, tokenizer.eos_id),
        "dtype": str(dtype).removeprefix("torch."),
        "smolllama": about,
    }
    legacy = {"model_type": LEGACY, "architectures": ["SmolLlamaLegacy"]} if model.legacy else {}
    write_json(folder / "config.json", {**config, **legacy})
    write_json(folder / "generation_config.json", special)
    tokenizer.save(folder)


def steps(run: Path) -> list[Path]:
    """The complete step folders of a run, oldest first."""
    return sorted(run.glob("step_*"), key=lambda folder: (len(folder.name), folder.name))


def find_model(folder: str | Path) -> Path:
    """The model folder that is meant: the folder itself, or a run's newest step. Raises UserError if there is none."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    latest = folder / "latest"
    newest = latest.read_text(errors="replace").strip() if latest.is_file() else ""
    if newest and (folder / newest / "config.json").is_file():
        return folder / newest
    if steps(folder):
        return steps(folder)[-1]
    raise UserError(
        f"no model in {folder}: give a run folder, a step folder or a Llama folder in Hugging Face format"
    )


def load_args(folder: Path) -> ModelArgs:
    """The architecture of the model in a folder. Raises UserError when config.json is broken or not a Llama's."""
    return _parsed(folder, read_config(folder))


def read_config(folder: Path) -> dict:
    """What config.json says. Raises UserError when it is broken."""
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} is broken ({type(error).__name__}: {error})") from None


def _parsed(folder: Path, config: dict) -> ModelArgs:
    try:
        return args_from_hf(config, folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'} is broken ({type(error).__name__}: {error})") from None


def read_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read the weights of a folder (one safetensors file or several) for a model; every name and shape is checked."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no .safetensors file")
    try:
        weights = {name: weight for file in files for name, weight in load_file(file).items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"the weights in {folder} cannot be read ({error}): the file is broken or cut short"
        ) from None
    weights = {name: weight for name, weight in weights.items() if not name.endswith("rotary_emb.inv_freq")}
    wanted = {name: weight.shape for name, weight in model.state_dict().items()}
    if model.args.tie_embeddings:
        weights.setdefault("lm_head.weight", weights.get("model.embed_tokens.weight"))
    wrong = [
        name for name, shape in wanted.items() if weights.get(name) is None or weights[name].shape != shape
    ]
    if wrong or len(weights) != len(wanted):
        odd = wrong[0] if wrong else next(name for name in weights if name not in wanted)
        raise UserError(
            f"the weights in {folder} do not fit its config.json: {odd} is missing, too many or misshapen"
        )
    return weights


def load_model(folder: str | Path) -> tuple[Llama, Tokenizer]:
    """(model, tokenizer) of a run, a step or any Llama folder in Hugging Face format; in float32, for inference."""
    folder = find_model(folder)
    return load_llama(folder), load_tokenizer(folder)


def load_llama(folder: Path) -> Llama:
    """The model in a folder alone, for inference: it may have no tokenizer."""
    config = read_config(folder)
    legacy = config.get("model_type") == LEGACY
    model = Llama(_parsed(folder, config | {"model_type": "llama"} if legacy else config), legacy)
    model.load_state_dict(read_weights(folder, model))
    return model.eval()


def verify_checkpoint(folder: Path, resumed: bool = False) -> None:
    """Raises UserError when a file of a model folder is not what was written, or one of its train_state if resumed.

    Folders of others tell nothing.
    """
    if fault := first_corrupt_file(folder) or (
        first_corrupt_file(folder / "train_state") if resumed else None
    ):
        others = [step.name for step in steps(folder.parent) if step != folder]
        remedy = (
            f"remove that folder, --resume then goes on from {others[-1]}"
            if others
            else "start again without it"
        )
        raise UserError(f"{fault}: {remedy}")


def main() -> None:
    """Compare the files of folders with their sums."""
    parser = Parser(__doc__)
    parser.add_argument("command", choices=["verify"])
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run, a step or a prepared dataset")
    folder = parser.parse_args().folder
    sealed = sorted(
        path.parent
        for place in ("", "train_state/", "step_*/", "step_*/train_state/")
        for path in folder.glob(place + SUMS)
    )
    if not sealed:
        raise UserError(f"{folder} holds no {SUMS}, so there is nothing to compare its files with")
    faults = [fault for fault in map(first_corrupt_file, sealed) if fault]
    for path in sealed:
        print(f"{path}: {len(read_checksums(path) or ()):,} files")
    if faults:
        raise UserError("; ".join(faults))
    print("all are as they were written")


if __name__ == "__main__":
    run_cli(main)
