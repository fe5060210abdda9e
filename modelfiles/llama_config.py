"""The config.json of a Hugging Face folder as our settings; what is not a plain Llama is refused by name."""

from pathlib import Path

from config import ModelArgs
from runtime.errors import UserError
from runtime.files import read_json

CONFIG = "config.json"
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
    "rope_scaling",
    "tie_embeddings",
)

KINDS = {"eps": (float, int), "rope_theta": (float, int), "rope_scaling": (dict, type(None))}  # else int

# What transformers' LlamaConfig takes where config.json lacks a key.
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}

# The parameters of each form of rotary scaling that model.py has.
ROPE_PARAMETERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}

# What model.py would need for other architectures.
OTHER_ARCHITECTURES = {
    "qwen2": "biases of the projections of queries, keys and values",
    "qwen3": "norms of queries and keys",
    "mistral": "attention in a sliding window; where config.json sets none, model_type llama is the same model",
    "mixtral": "experts",
    "gemma": "GELU, norms that add 1 to their weight, an embedding scaled by its width",
    "gemma2": "GELU, four norms a layer, capped logits, a sliding window in every other layer",
    "gemma3_text": "GELU, norms of queries and keys, a sliding window in most layers",
    "gpt2": "learned positions, LayerNorm, biases, GELU",
    "gpt_neox": "LayerNorm, biases, GELU, rotary positions in a part of each head",
    "olmo2": "norms after each branch, norms of queries and keys",
    "phi3": "one matrix for queries, keys and values, and one for gate and up",
    "smollm3": "layers without rotary positions",
}
OTHER_ROPE_TYPES = {
    "dynamic": "frequencies that follow the length of the text",
    "yarn": "a ramp over the frequencies and a scale of the scores",
    "longrope": "a factor for each frequency, one for short and one for long texts",
}


def read_config(folder: Path) -> dict:
    """Return the contents of config.json. Raises UserError when it is broken."""
    return read_json(folder / CONFIG)


def own_metadata(folder: Path) -> dict:
    """Return what SmolLlama wrote about a model into its config.json; {} for a model of another program.

    Raises UserError when the file is broken.
    """
    metadata = read_config(folder).get("smolllama")
    return metadata if isinstance(metadata, dict) else {}


def parse_config(folder: Path, config: dict) -> ModelArgs:
    """Return the settings of a config.json.

    Raises UserError for what our Llama is not, and for values of a wrong kind.
    """
    try:
        return _args_of(config, folder)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{folder / CONFIG} is broken ({type(error).__name__}: {error})") from None


def _args_of(config: dict, folder: Path) -> ModelArgs:
    config = {**DEFAULTS, **config}
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if unsupported := _unsupported(config, rope):
        raise UserError(
            f"{folder} is not a plain Llama, so it cannot be used as one: {'; '.join(unsupported)}"
        )

    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads")
    args = ModelArgs(
        vocab_size=config["vocab_size"],
        embeddings_dims=config["hidden_size"],
        hidden_dims=config["intermediate_size"],
        no_of_decoder_layers=config["num_hidden_layers"],
        no_of_heads=heads,
        no_kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=config.get("head_dim"),
        block_size=config["max_position_embeddings"],
        eps=config["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", config["rope_theta"]),
        rope_scaling=_rope_scaling(rope, config),
        tie_embeddings=config["tie_word_embeddings"],
        dropout=0.0,
        attn_dropout=0.0,
    )

    # A config.json may hold "768", 768.0 or true where a number of rows is meant.
    for name in ARCHITECTURE:
        value = getattr(args, name)
        if isinstance(value, bool) != (name == "tie_embeddings") or not isinstance(
            value, KINDS.get(name, int)
        ):
            raise TypeError(f"{name} is {value!r}")
    if not 0 < args.rope_theta < float("inf"):
        raise ValueError(f"rope_theta is {args.rope_theta!r}")
    return args


def _unsupported(config: dict, rope: dict) -> list[str]:
    """Return what our Llama does not have of a config.json, each with what it would need."""
    model_type = config.get("model_type")
    if model_type != "llama":
        return [f"model_type {model_type} needs {OTHER_ARCHITECTURES.get(model_type, 'another model.py')}"]

    needs = []
    rope_type = _rope_type(rope)
    if rope_type not in ROPE_PARAMETERS:
        needs.append(
            f"rope_type {rope_type} needs {OTHER_ROPE_TYPES.get(rope_type, 'other rotary frequencies')}"
        )
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        needs.append(f"partial_rotary_factor {partial} needs rotary positions in a part of each head")
    if config["hidden_act"] != "silu":
        needs.append(f"hidden_act {config['hidden_act']} needs another activation than SiLU")
    if config.get("attention_bias"):
        needs.append("attention_bias needs biases of the projections of attention")
    if config.get("mlp_bias"):
        needs.append("mlp_bias needs biases of the matrices of the MLP")
    return needs


def _rope_type(rope: dict) -> str:
    return rope.get("rope_type", rope.get("type", "default"))  # type: before transformers 4.43


def _rope_scaling(rope: dict, config: dict) -> dict[str, object] | None:
    """Return the scaling of the rotary frequencies by transformers' names; None without one.

    Raises KeyError, TypeError or ValueError for parameters that are missing or no numbers above 0.
    """
    names = ROPE_PARAMETERS[_rope_type(rope)]
    if not names:
        return None

    values = {"original_max_position_embeddings": config["max_position_embeddings"], **rope}
    scaling: dict[str, object] = {"rope_type": _rope_type(rope)}
    for name in names:
        value = values[name]
        if type(value) not in (int, float):
            raise TypeError(f"{name} is {value!r}")
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value!r}")
        scaling[name] = value
    if "high_freq_factor" in names and scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
        raise ValueError("high_freq_factor is not above low_freq_factor")
    return scaling


def rope_config(args: ModelArgs) -> dict[str, object]:
    """Return the rotary part of a config.json."""
    scaling = args.rope_scaling or {"rope_type": "default"}
    config: dict[str, object] = {
        "rope_theta": args.rope_theta,
        "rope_parameters": {**scaling, "rope_theta": args.rope_theta},
    }
    if args.rope_scaling:
        config["rope_scaling"] = scaling  # the name before transformers 5, which other programs read
    return config
