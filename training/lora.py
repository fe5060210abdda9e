"""LoRA (arXiv 2106.09685) by the library peft: an adapter beside frozen matrices is trained and saved, nothing else."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from config import ModelArgs
from modelfiles import adapter
from modelfiles.adapter import find_base, read_adapter
from modelfiles.weights import read_weights
from runtime.errors import UserError
from runtime.requirements import is_installed
from training import parallel

PEFT = "peft==0.21.2"  # as in pyproject.toml
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NAME = ".default"  # of the adapter, which peft puts into the names of its weights, but not into its files


def check_settings(
    args: ModelArgs, typed: Mapping[str, object], weights: Path | None, stored: dict | None
) -> None:
    """Raise UserError where --lora_rank does not fit the other settings, or the `weights` that the run starts from.

    `stored` are the settings of a run that is resumed.
    """
    if unknown := [name for name in args.lora_modules if name not in MODULES]:
        raise UserError(f"--lora_modules {unknown[0]} is unknown: use some of {' '.join(MODULES)}")
    for name in ("lora_rank", "lora_alpha", "lora_modules") if stored else ():
        before = stored.get(name, getattr(ModelArgs, name))
        if typed.get(name, before) != before:
            raise UserError(f"cannot resume a run of --{name} {before} with {typed[name]}: drop the flag")
    if not args.lora_rank:
        if args.lora_modules:
            raise UserError("--lora_modules works with --lora_rank only")
        return

    flag = f"--lora_rank {args.lora_rank}"
    if args.train == "P" or weights is None:
        raise UserError(f"{flag} adapts a trained model: give --train S or D, and --init_from FOLDER")
    if typed.get("optimizer") == "muon" or args.parallel == "fsdp":
        raise UserError(f"{flag} works with --optimizer adamw and --parallel ddp only")
    if not is_installed("peft"):
        raise UserError(f"{flag} needs the package peft: pip install {PEFT}")
    if stored is None and find_base(weights):
        raise UserError(
            f"{weights} is an adapter itself: join it with its base (python export.py --model {weights} --to DIR), "
            "then give --init_from DIR"
        )


def load_weights(model: nn.Module, args: ModelArgs, folder: Path, dtype: torch.dtype) -> None:
    """Load the weights of a folder into a model; with --lora_rank, freeze them and add an adapter to them.

    The adapter is that of the folder where it has one: then the run is resumed, or rolled back.
    """
    base = find_base(folder) if args.lora_rank else None
    if not has_adapter(model):
        parallel.load_full_state_dict(model, read_weights(base or folder, model))
        if args.lora_rank:
            inject(model, args, dtype)
    if base:
        load_adapter(model, folder)


def inject(model: nn.Module, args: ModelArgs, dtype: torch.dtype) -> None:
    """Add an adapter that changes nothing yet (B = 0) to a model, and freeze everything else.

    Frozen matrices get the `dtype` that products take them in; the adapter is float32.
    """
    from peft import LoraConfig, inject_adapter_in_model  # an extra, and slow to import
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha,
        target_modules=list(args.lora_modules or MODULES),
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model)
    for weight in model.parameters():
        if not weight.requires_grad and weight.dim() == 2:
            weight.data = weight.data.to(dtype)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False  # autocast does it


def has_adapter(model: nn.Module) -> bool:
    """Return True if a model has an adapter beside its weights."""
    return hasattr(model, "peft_config")


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Let a model, bare or wrapped, be its base: its adapter does nothing inside."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapter_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapter's weights among all of a model, by their names in peft's files."""
    return {
        adapter.PREFIX + name.replace(NAME, ""): weight for name, weight in weights.items() if NAME in name
    }


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Copy the adapter in a folder into a model that has one of the same form."""
    files = read_adapter(folder)
    own = {name: weight for name, weight in model.state_dict().items() if NAME in name}
    for name, weight in own.items():
        weight.copy_(files[adapter.PREFIX + name.replace(NAME, "")])


def write_adapter(folder: Path, model: nn.Module, weights: Mapping[str, Tensor], base: Path) -> None:
    """Write an adapter as peft does; `weights` have the names of its files, `base` holds the frozen weights."""
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / adapter.WEIGHTS)
    config = model.peft_config["default"]
    config.base_model_name_or_path = str(base)
    config.target_modules = sorted(config.target_modules)  # a set has another order in each process
    config.save_pretrained(str(folder))


def count_adapter_parameters(args: ModelArgs) -> int:
    """Return the number of parameters of the adapter that --lora_rank adds to Llama(args)."""
    C, hidden = args.embeddings_dims, args.hidden_dims
    queries, keys = (args.head_dim * heads for heads in (args.no_of_heads, args.no_kv_heads))
    in_and_out = {
        "q_proj": C + queries,
        "k_proj": C + keys,
        "v_proj": C + keys,
        "o_proj": queries + C,
        "gate_proj": C + hidden,
        "up_proj": C + hidden,
        "down_proj": hidden + C,
    }
    of_layer = sum(in_and_out[name] for name in args.lora_modules or MODULES)
    return args.no_of_decoder_layers * args.lora_rank * of_layer
