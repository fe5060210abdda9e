"""Every setting of SmolLlama, once: its default, its type and its help; the command lines are generated from here.

    python config.py        prints the table of settings that the README shows

Precedence: default (of the stage) < preset < stored in the checkpoint that is resumed < flag typed. This file imports
no torch and reads no hardware, so it can be imported, tested and documented anywhere.
"""

import argparse
import dataclasses
import math
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from runtime.errors import UserError

EOS = "<|endoftext|>"  # the special token that ends every document
IGNORE = -100  # the label of a position from which nothing is learned


def setting(default: object, group: str, help: str, minimum: float | None = None) -> typing.Any:
    """A field of ModelArgs: its default, the group of flags that it belongs to, its help, its smallest legal value."""
    return field(default=default, metadata={"group": group, "help": help, "minimum": minimum})


@dataclass(frozen=True)
class ModelArgs:
    """All settings. Fields left at None are derived from others (DERIVED_DEFAULTS); `explicit` keeps what was set."""

    train: typing.Literal["P", "S", "D"] = setting(
        "P", "run", "stage: P = pretraining, S = supervised fine-tuning (so does P on instructions), D = DPO"
    )
    preset: (
        typing.Literal["smol-130m", "stories", "stories-instruct", "stories-preference", "shakespeare"] | None
    ) = setting(None, "run", "a named set of settings")
    dataset: str | None = setting(
        None, "run", "folder under data_dir (default: the first prepared one that fits the stage)"
    )
    data_dir: str = setting("data", "data", "where prepared datasets are")
    run_name: str | None = setting(None, "run", "name of the run's folder (default: stage and dataset)")
    save_checkpoint_dir: str = setting("checkpoints", "run", "where runs are kept")
    resume: bool = setting(False, "run", "continue the run from its newest checkpoint, exactly")
    init_from: str | None = setting(None, "run", "start from the weights in this folder")
    dry_run: bool = setting(False, "run", "print the plan and stop")
    wandb: typing.Literal["auto", "online", "offline", "disabled"] = setting(
        "auto", "run", "log to Weights & Biases; auto = online when logged in, else offline"
    )
    keep_checkpoints: int = setting(0, "run", "keep only the newest N checkpoints; 0 = keep all", 0)
    save_checkpoint_iter: int = setting(50, "run", "save every N steps", 1)
    skip_limit: int = setting(
        3,
        "run",
        "steps in a row without a finite loss and gradient, after which the run goes back to a checkpoint",
        1,
    )
    stall_minutes: float = setting(
        20.0, "run", "end with the stacks of all threads after N minutes without a step; 0 = never", 0.0
    )
    seed: int = setting(1337, "device", "seed of initialisation, row order, dropout and sampling", 0)
    device: str = setting(
        "cuda", "device", "cuda, mps or cpu; what is not there falls to the next, saying so"
    )
    dtype: typing.Literal["bfloat16", "float16", "float32"] | None = setting(
        None,
        "device",
        "precision of the matrix products "
        "(default: on CUDA bfloat16, or float16 where that is not in hardware; elsewhere float32)",
    )
    parallel: typing.Literal["ddp", "fsdp"] = setting(
        "ddp", "run", "on several ranks: ddp = each has the model, fsdp = each has a part of it"
    )
    activation_checkpointing: bool = setting(
        False, "run", "make each layer's values again in backward: less memory, about a third more work"
    )

    block_size: int = setting(512, "model", "context length in tokens", 2)
    vocab_size: int | None = setting(
        None, "model", "rows of the embedding (default: the tokenizer's, rounded up to 64; GPT-2: 50304)", 1
    )
    embeddings_dims: int = setting(512, "model", "width of the model", 2)
    no_of_decoder_layers: int = setting(8, "model", "decoder layers", 1)
    no_of_heads: int = setting(8, "model", "query heads", 1)
    no_kv_heads: int = setting(2, "model", "key and value heads (grouped-query attention)", 1)
    head_dim: int | None = setting(
        None, "model", "width of a head (default: embeddings_dims / no_of_heads)", 2
    )
    hidden_dims: int | None = setting(
        None, "model", "width of the SwiGLU (default: 8/3 embeddings_dims, rounded up to 64)", 1
    )
    eps: float = setting(1e-5, "model", "epsilon of RMSNorm", 0.0)
    rope_theta: float = setting(10000.0, "model", "base of the rotary frequencies", 1.0)
    tie_embeddings: bool = setting(True, "model", "share the embedding with the output head")
    attn_dropout: float = setting(0.1, "model", "dropout on attention weights", 0.0)
    dropout: float = setting(0.1, "model", "dropout on the embedding and on each residual branch", 0.0)

    epochs: int = setting(
        4, "optimization", "end after so many passes over the data, if total_iters does not end it first", 1
    )
    total_iters: int = setting(10000, "optimization", "end after so many optimizer steps", 1)
    batch_size: int = setting(64, "optimization", "rows of block_size tokens on a device at a time", 1)
    micro_batch_size: int | None = setting(None, "optimization", "another name of batch_size", 1)
    total_batch_size: int = setting(524288, "optimization", "tokens per optimizer step", 1)
    gradient_accumulation_steps: int | None = setting(
        None,
        "optimization",
        "micro-batches per step and rank "
        "(default: total_batch_size / (micro_batch_size * block_size * ranks))",
        1,
    )
    optimizer: typing.Literal["adamw", "muon"] = setting(
        "adamw", "optimization", "muon: Muon for the matrices, AdamW for the rest"
    )
    max_lr: float = setting(6e-4, "optimization", "peak learning rate", 0.0)
    min_lr: float | None = setting(None, "optimization", "final learning rate (default: 0.1 * max_lr)", 0.0)
    muon_lr: float = setting(
        0.02, "optimization", "peak learning rate of the matrices under muon; follows the same schedule", 0.0
    )
    muon_momentum: float = setting(0.95, "optimization", "momentum of muon; short runs want less", 0.0)
    warmup_iters: int = setting(700, "optimization", "steps of linear warm-up", 0)
    lr_decay_iters: int | None = setting(
        None, "optimization", "step at which the cosine reaches min_lr (default: total_iters)", 1
    )
    weight_decay_optim: float = setting(0.1, "optimization", "decoupled weight decay of the matrices", 0.0)
    beta_1: float = setting(0.9, "optimization", "AdamW's first moment", 0.0)
    beta_2: float = setting(0.95, "optimization", "AdamW's second moment", 0.0)
    clip: float = setting(1.0, "optimization", "largest gradient norm; 0 = any", 0.0)
    compile: bool | None = setting(None, "optimization", "torch.compile the model (default: on CUDA)")

    eval_iters: int = setting(50, "evaluation", "evaluate every N steps", 1)
    eval_check: int = setting(100, "evaluation", "validation batches per evaluation", 1)
    val_epochs: int = setting(
        2, "evaluation", "every N epochs, evaluate on the whole validation set; 0 = never", 0
    )

    beta: float = setting(0.1, "dpo", "strength of the pull towards the reference in DPO", 0.0)
    dpo_loss: typing.Literal["sigmoid", "ipo"] = setting("sigmoid", "dpo", "loss of a preference pair")
    label_smoothing: float = setting(
        0.0, "dpo", "share of pairs that are taken to be the wrong way round", 0.0
    )

    prompt: str = setting("Once upon a time", "sampling", "text to continue")
    max_length: int = setting(100, "sampling", "new tokens, at most", 1)
    temperature: float = setting(0.8, "sampling", "0 = greedy", 0.0)
    top_k: int = setting(50, "sampling", "sample from the k most probable tokens; 0 = all", 0)
    top_p: float = setting(1.0, "sampling", "sample from the fewest tokens that hold this probability", 0.0)
    min_p: float = setting(
        0.0, "sampling", "skip tokens less probable than this share of the most probable one", 0.0
    )
    repetition_penalty: float = setting(
        1.0,
        "sampling",
        "divide the logits of all earlier tokens by this (multiply those below 0); 1 = off",
        0.0,
    )
    frequency_penalty: float = setting(
        0.0, "sampling", "subtract this from a token's logit for each time that it was generated"
    )
    num_beams: int = setting(
        1, "sampling", "beam search with N beams, where temperature and filters have no part", 1
    )
    stop: tuple[str, ...] = setting((), "sampling", "end before any of these strings")

    def __post_init__(self):
        explicit = {f.name: getattr(self, f.name) for f in fields(self)}
        object.__setattr__(self, "explicit", explicit)
        for name, rule in DERIVED_DEFAULTS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, rule(self))
        if complaints := list(_validation_errors(self)):
            raise UserError("; ".join(complaints))

    def replace(self, **changes: object) -> "ModelArgs":
        """The same settings with some changed; derived ones follow."""
        return ModelArgs(**{**self.explicit, **changes})

    @property
    def row_tokens(self) -> int:
        """Tokens of a row: a row of preference pairs has room for two answers of block_size."""
        return self.block_size * (2 if self.train == "D" else 1)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer step sees on all ranks together."""
        return self.rows_per_step * self.row_tokens

    @property
    def rows_per_step(self) -> int:
        """Rows that one optimizer step sees on all ranks together."""
        return self.micro_batch_size * self.gradient_accumulation_steps * world_size()


def world_size() -> int:
    """Number of ranks, as torchrun says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def round_up(n: int, multiple: int) -> int:
    """The smallest multiple that is not below n."""
    return -(-n // multiple) * multiple


def _accumulation(a: ModelArgs) -> int:
    return max(1, a.total_batch_size // max(1, a.micro_batch_size * a.row_tokens * world_size()))


# In this order: each rule may use the fields above it.
DERIVED_DEFAULTS: dict[str, Callable[[ModelArgs], object]] = {
    "vocab_size": lambda a: 50304,
    "head_dim": lambda a: a.embeddings_dims // a.no_of_heads if a.no_of_heads else 0,
    "hidden_dims": lambda a: round_up(-(-8 * a.embeddings_dims // 3), 64),
    "micro_batch_size": lambda a: a.batch_size,
    "gradient_accumulation_steps": _accumulation,
    "min_lr": lambda a: 0.1 * a.max_lr,
    "lr_decay_iters": lambda a: a.total_iters,
}

# What a stage does otherwise than pretraining, unless a preset or a flag says something else.
STAGE_DEFAULTS: dict[str, dict[str, object]] = {
    "P": {},
    "S": dict(max_lr=2e-4, warmup_iters=50, total_batch_size=32768, batch_size=16, epochs=3),
    "D": dict(
        max_lr=2e-6,
        warmup_iters=20,
        total_batch_size=65536,
        batch_size=8,
        epochs=1,
        weight_decay_optim=0.0,
        dropout=0.0,
        attn_dropout=0.0,
    ),
}

PRESETS: dict[str, dict[str, object]] = {
    # 130.0M parameters at GPT-2's 50,257 tokens, 130.1M with the embedding rounded up to 50,304
    "smol-130m": dict(
        embeddings_dims=768,
        no_of_decoder_layers=15,
        no_of_heads=12,
        no_kv_heads=2,
        block_size=1024,
        batch_size=32,
        dropout=0.0,
        attn_dropout=0.0,
    ),
    # the quickstart: some minutes on two CPU cores, all three together
    "stories": dict(
        dataset="stories",
        embeddings_dims=128,
        no_of_decoder_layers=4,
        no_of_heads=4,
        no_kv_heads=2,
        block_size=320,
        batch_size=6,
        total_batch_size=3840,
        dropout=0.0,
        attn_dropout=0.0,
        optimizer="muon",
        max_lr=2e-2,
        muon_lr=0.03,
        muon_momentum=0.8,
        warmup_iters=30,
        total_iters=440,
        eval_iters=220,
        eval_check=12,
        save_checkpoint_iter=220,
        max_length=150,
    ),
    "stories-instruct": dict(
        train="S",
        dataset="stories_instruct",
        batch_size=12,
        total_batch_size=3840,
        dropout=0.0,
        attn_dropout=0.0,
        optimizer="muon",
        max_lr=2e-2,
        muon_momentum=0.8,
        warmup_iters=30,
        total_iters=1040,
        eval_iters=260,
        eval_check=10,
        save_checkpoint_iter=260,
        max_length=220,
        prompt="Write a story about Tom and a bell.",
    ),
    # Adam's second moments remember the first steps, or pairs that are learned would move weights as much as new ones.
    "stories-preference": dict(
        train="D",
        dataset="stories_preference",
        batch_size=3,
        total_batch_size=7680,
        max_lr=1e-4,
        beta_2=0.999,
        clip=0.0,
        beta=3.0,
        warmup_iters=10,
        total_iters=150,
        eval_iters=30,
        eval_check=10,
        save_checkpoint_iter=75,
        max_length=220,
        prompt="Write a story about Tom and a bell.",
    ),
    # characters of Shakespeare, 0.8M parameters: about two minutes on two CPU cores
    "shakespeare": dict(
        dataset="shakespeare",
        embeddings_dims=128,
        no_of_decoder_layers=4,
        no_of_heads=4,
        no_kv_heads=2,
        block_size=256,
        batch_size=4,
        total_batch_size=1024,
        dropout=0.0,
        attn_dropout=0.0,
        optimizer="muon",
        max_lr=2e-2,
        min_lr=0.0,
        muon_momentum=0.8,
        warmup_iters=50,
        total_iters=1200,
        eval_iters=400,
        eval_check=109,
        save_checkpoint_iter=400,
        prompt="ROMEO:",
        max_length=150,
    ),
}


def _validation_errors(a: ModelArgs) -> Iterable[str]:
    """All that is wrong with the settings, by the flags' names."""
    for f in fields(a):
        value, minimum = getattr(a, f.name), f.metadata["minimum"]
        if minimum is not None and value is not None and not value >= minimum:
            yield f"--{f.name} {value} is below {minimum}"
    if a.no_of_heads >= 1 and a.no_kv_heads >= 1 and a.no_of_heads % a.no_kv_heads:
        yield f"--no_of_heads {a.no_of_heads} is not a multiple of --no_kv_heads {a.no_kv_heads}"
    if a.explicit["head_dim"] is None and a.no_of_heads >= 1 and a.embeddings_dims % a.no_of_heads:
        yield (
            f"--embeddings_dims {a.embeddings_dims} is not a multiple of --no_of_heads {a.no_of_heads} "
            "(or give --head_dim)"
        )
    elif a.head_dim % 2:
        yield (
            f"--head_dim {a.head_dim} (--embeddings_dims / --no_of_heads unless given) must be even: "
            "rotary positions turn pairs"
        )
    if a.min_lr > a.max_lr:
        yield f"--min_lr {a.min_lr} is above --max_lr {a.max_lr}"
    for name, value in a.explicit.items():
        if isinstance(value, float) and (math.isinf(value) and name != "clip" or math.isnan(value)):
            yield f"--{name} {value} is not a finite number"
    if a.run_name is not None and (not Path(a.run_name).parts or ".." in Path(a.run_name).parts):
        yield f"--run_name {a.run_name} must name a folder below --save_checkpoint_dir"
    if a.max_lr == 0:
        yield "--max_lr 0 must be above 0"
    if a.train == "D" and a.beta == 0:
        yield "--beta 0 must be above 0"
    if 0 < a.temperature < 1e-3:
        yield f"--temperature {a.temperature} is too small: 0 = greedy"
    if a.label_smoothing and a.dpo_loss == "ipo":
        yield f"--label_smoothing {a.label_smoothing} is of --dpo_loss sigmoid, not of ipo"
    if a.seed is not None and a.seed >= 2**63:  # the page's may be empty
        yield f"--seed {a.seed} must be below 2**63"
    if a.label_smoothing >= 0.5:
        yield f"--label_smoothing {a.label_smoothing} must be below 0.5"
    for name in ("dropout", "attn_dropout", "beta_1", "beta_2", "muon_momentum"):
        if getattr(a, name) >= 1:
            yield f"--{name} {getattr(a, name)} must be below 1"
    if not re.fullmatch(r"(cuda|mps|cpu)(:\d+)?", a.device):
        yield f"--device {a.device} is unknown: use cuda, cuda:N, mps or cpu"
    if not 0 < a.top_p <= 1:
        yield f"--top_p {a.top_p} must be above 0 and at most 1"
    if a.min_p > 1:
        yield f"--min_p {a.min_p} is a share: it must be at most 1"
    if a.repetition_penalty < 1e-3:
        yield f"--repetition_penalty {a.repetition_penalty} must be 0.001 or more; 1 = off"
    if "" in a.stop:
        yield "--stop must not be empty"


class Parser(argparse.ArgumentParser):
    """argparse with whole flag names only, and one line on stderr instead of the usage when a flag is wrong."""

    def __init__(self, description: str, **options):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def error(self, message: str) -> typing.NoReturn:
        """One line and exit code 2."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def add_settings(self, wanted: Iterable[str]) -> None:
        """A flag for each field that is wanted by its name or its group's; if not typed, it leaves nothing behind."""
        hints = typing.get_type_hints(ModelArgs)
        sections: dict[str, argparse._ArgumentGroup] = {}
        for f in fields(ModelArgs):
            name = f.metadata["group"]
            if name in wanted or f.name in wanted:
                if name not in sections:
                    sections[name] = self.add_argument_group(name)
                sections[name].add_argument(
                    f"--{f.name}", default=argparse.SUPPRESS, **_flag(hints[f.name], f)
                )


def _flag(hint: type, f: dataclasses.Field) -> dict:
    """argparse's options for a field: X | None reads an X, Literal gives choices, bool gives --x and --no-x."""
    described = f.metadata["help"] + ("" if f.default in (None, ()) else f" (default: {f.default})")
    options = {"help": described.replace("%", "%%")}
    if type(None) in typing.get_args(hint):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return {**options, "choices": typing.get_args(hint)}
    if hint is bool:
        return {**options, "action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:
        return {**options, "nargs": "+", "metavar": "TEXT"}
    return {**options, "type": hint, "metavar": hint.__name__.upper()}


def resolve(typed: dict[str, object], stored: dict[str, object] | None = None) -> ModelArgs:
    """Settings by precedence: default < preset < stored in a checkpoint < typed. Other names are left out."""
    names = {f.name for f in fields(ModelArgs)}
    stored = dict(stored or {})
    if "batch_size" in typed:
        stored.pop("micro_batch_size", None)  # the same under its other name
    preset = {**PRESETS.get(typed.get("preset"), {}), **stored, **typed}
    merged = {**STAGE_DEFAULTS[preset.get("train", "P")], **preset}
    return ModelArgs(**{name: value for name, value in merged.items() if name in names})


def settings_table() -> str:
    """The settings as a Markdown table, in the order of the dataclass."""
    rows = ["| flag | default | what |", "|---|---|---|"]
    for f in fields(ModelArgs):
        default = "" if f.default in (None, ()) else f"`{f.default}`"
        rows.append(f"| `--{f.name}` | {default} | {f.metadata['help'].replace('|', ' or ')} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(settings_table())
