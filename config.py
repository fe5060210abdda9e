"""Settings of SmolLlama: default, type and help of each, once; the command lines are generated from here.

    python config.py        prints the table of docs/SETTINGS.md

Precedence: default (of the stage) < preset < stored in the checkpoint that is resumed < flag typed. This file imports
no torch and reads no hardware, so it can be imported, tested and documented anywhere.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from runtime import command_line
from runtime.command_line import setting
from runtime.errors import UserError

MAX_NAME_BYTES = 200  # of a run or dataset; file systems take 255, and names made from it are longer
EOS = "<|endoftext|>"  # the special token that ends every document
IGNORE = -100  # the label of a position from which nothing is learned
NO_FLAG = "architecture"  # group of the settings that only a checkpoint sets


class _DerivedInt(int):
    """Integer that follows from other settings; `dataclasses.replace` derives it again."""


class _DerivedFloat(float):
    """Number that follows from other settings; `dataclasses.replace` derives it again."""


PresetName = typing.Literal[
    "smol-130m", "book", "stories", "stories-instruct", "stories-preference", "shakespeare"
]


@dataclass(frozen=True)
class ModelArgs:
    """Settings of a run. Fields left at None are derived from others, see DERIVED_DEFAULTS."""

    # fmt: off
    train: typing.Literal["P", "S", "D"] = setting("P", "run",
        "stage: P = pretraining, S = supervised fine-tuning (so does P on instructions), D = DPO")
    preset: PresetName | None = setting(None, "run",
        "a named set of settings: smol-130m = 130M parameters of web text; book = 1M for one text of 0.1 to 20 MB; "
        "stories, stories-instruct, stories-preference = the quickstart; shakespeare = characters in two minutes")
    dataset: str | None = setting(None, "run",
        "folder under data_dir, or several, mixed by shares of the tokens: A:0.7,B:0.3, or A,B by size "
        "(default: the first prepared one that fits the stage)")
    data_dir: str = setting("data", "data", "where prepared datasets are")
    run_name: str | None = setting(None, "run", "name of the run's folder (default: stage and dataset)")
    save_checkpoint_dir: str = setting("checkpoints", "run", "where runs are kept")
    resume: bool = setting(False, "run", "continue the run from its newest checkpoint, exactly")
    init_from: str | None = setting(None, "run", "start from the weights in this folder, or of OWNER/NAME on the hub")
    dry_run: bool = setting(False, "run", "print the plan and stop")
    tracker: typing.Literal["wandb", "trackio", "none"] = setting("wandb", "run",
        "where metrics go beside metrics.jsonl: Weights & Biases, or trackio, which stays on this machine")
    wandb: typing.Literal["auto", "online", "offline", "disabled"] = setting("auto", "run",
        "how --tracker wandb logs; auto = WANDB_MODE, else online when logged in, else offline")
    keep_checkpoints: int = setting(3, "run", "keep the newest N checkpoints, the best, wsd's before decay; 0 = all", 0)
    save_checkpoint_iter: int = setting(50, "run", "save every N steps", 1)
    skip_limit: int = setting(3, "run", "roll back after N steps in a row without a finite loss and gradient", 1)
    stall_minutes: float = setting(20.0, "run",
        "end with the stacks of all threads after N minutes without a step; 0 = never", 0.0)
    seed: int = setting(1337, "device", "seed of initialisation, row order, dropout and sampling", 0, below=2**63)
    device: str = setting("cuda", "device", "cuda, mps or cpu; falls back to mps, then cpu, with a note")
    dtype: typing.Literal["bfloat16", "float16", "float32"] | None = setting(None, "device",
        "precision of the matrix products (default: on CUDA bfloat16, or float16 where that is not in "
        "hardware; elsewhere float32)")
    parallel: typing.Literal["ddp", "fsdp"] = setting("ddp", "run",
        "on several ranks: ddp = each has the model, fsdp = each has a shard of it")
    document_mask: bool = setting(True, "run",
        "in pretraining, a token attends to its own document only; without, to all earlier tokens of its row: faster "
        "on a GPU, for long documents")
    activation_checkpointing: bool = setting(False, "run",
        "recompute each layer in backward: less memory, about a third more work")

    block_size: int = setting(512, "model", "context length in tokens", 2)
    vocab_size: int | None = setting(None, "model",
        "rows of the embedding (default: the tokenizer's, rounded up to 64; GPT-2: 50304)", 1)
    embeddings_dims: int = setting(512, "model", "width of the model", 2)
    no_of_decoder_layers: int = setting(8, "model", "decoder layers", 1)
    no_of_heads: int = setting(8, "model", "query heads", 1)
    no_kv_heads: int = setting(2, "model", "key and value heads (grouped-query attention)", 1)
    head_dim: int | None = setting(None, "model", "width of a head (default: embeddings_dims / no_of_heads)", 2)
    hidden_dims: int | None = setting(None, "model",
        "width of the SwiGLU (default: 8/3 embeddings_dims, rounded up to 64)", 1)
    eps: float = setting(1e-5, "model", "epsilon of RMSNorm", 0.0, maximum=1.0)
    rope_theta: float = setting(10000.0, "model", "base of the rotary frequencies", 1.0)
    tie_embeddings: bool = setting(True, "model", "share the embedding with the output head")
    rope_scaling: dict[str, object] | None = setting(None, NO_FLAG,
        "scaling of the rotary frequencies, which a model in Hugging Face format may bring")
    attn_dropout: float = setting(0.1, "model", "dropout on attention weights", 0.0, below=1.0)
    dropout: float = setting(0.1, "model", "dropout on the embedding and on each residual branch", 0.0, below=1.0)

    epochs: int | None = setting(4, "optimization",
        "end after N passes over the data; typed alone, total_iters does not end the run", 1)
    total_iters: int | None = setting(10000, "optimization",
        "end after N optimizer steps; typed alone, epochs do not end the run", 1)
    budget: str | None = setting(None, "optimization",
        "end within this time, start to last checkpoint: 90s, 20m, 3h; without --preset and a typed size, the model's "
        "size, batch and learning rate follow from it too")
    batch_size: int = setting(64, "optimization", "rows of block_size tokens on a device at a time", 1)
    micro_batch_size: int | typing.Literal["auto"] | None = setting(None, "optimization",
        "rows on a device at a time (default: batch_size, fewer where they do not fit); auto = the most that fit", 1)
    total_batch_size: int = setting(524288, "optimization", "tokens per optimizer step", 1)
    gradient_accumulation_steps: int | None = setting(None, "optimization",
        "micro-batches per step and rank (default: total_batch_size / (micro_batch_size * block_size * ranks))", 1)
    optimizer: typing.Literal["adamw", "muon"] = setting("adamw", "optimization",
        "muon: Muon for the matrices, AdamW for the rest")
    max_lr: float = setting(6e-4, "optimization", "peak learning rate", 0.0)
    min_lr: float | None = setting(None, "optimization", "final learning rate (default: 0.1 * max_lr)", 0.0)
    muon_lr: float = setting(0.02, "optimization",
        "peak learning rate of the matrices under muon; follows the same schedule", 0.0)
    muon_momentum: float = setting(0.95, "optimization", "momentum of muon; short runs want less", 0.0, below=1.0)
    warmup_iters: int = setting(700, "optimization", "steps of linear warm-up", 0)
    lr_schedule: typing.Literal["cosine", "wsd"] = setting("cosine", "optimization",
        "course of the rate after the warm-up; wsd = constant, then linear to min_lr over the last steps")
    cooldown_iters: int | None = setting(None, "optimization",
        "steps of wsd's linear decay (default: a fifth of the run)", 1)
    lr_decay_iters: int | None = setting(None, "optimization",
        "step at which the rate reaches min_lr (default: total_iters)", 1)
    weight_decay_optim: float = setting(0.1, "optimization",
        "decoupled weight decay of the matrices; embedding and norms have none", 0.0)
    beta_1: float = setting(0.9, "optimization", "AdamW's first moment", 0.0, below=1.0)
    beta_2: float = setting(0.95, "optimization", "AdamW's second moment", 0.0, below=1.0)
    clip: float = setting(1.0, "optimization", "largest gradient norm; 0 = any", 0.0)
    compile: bool | None = setting(None, "optimization", "torch.compile the model (default: on CUDA)")

    lora_rank: int = setting(0, "lora",
        "rank of an adapter that is trained (LoRA), while the weights of --init_from stay; 0 = train all weights", 0)
    lora_alpha: int = setting(32, "lora", "the adapter's product is scaled by lora_alpha / lora_rank", 1)
    lora_modules: tuple[str, ...] = setting((), "lora",
        "matrices that get an adapter, such as q_proj v_proj (default: all of the decoder layers)")

    eval_iters: int = setting(50, "evaluation", "evaluate every N steps", 1)
    eval_check: int = setting(100, "evaluation", "validation batches per evaluation", 1)
    val_epochs: int = setting(2, "evaluation", "every N epochs, evaluate on the complete validation set; 0 = never", 0)

    beta: float = setting(0.1, "dpo", "strength of the pull towards the reference in DPO", 0.0)
    dpo_loss: typing.Literal["sigmoid", "ipo"] = setting("sigmoid", "dpo", "loss of a preference pair")
    label_smoothing: float = setting(0.0, "dpo",
        "assumed share of pairs whose preference is the wrong way round", 0.0, below=0.5)

    prompt: str = setting("Once upon a time", "sampling", "text to continue")
    max_length: int = setting(100, "sampling", "new tokens, at most", 1)
    temperature: float = setting(0.8, "sampling", "0 = greedy", 0.0)
    top_k: int = setting(50, "sampling", "sample from the k most probable tokens; 0 = all", 0)
    top_p: float = setting(1.0, "sampling", "sample from the fewest tokens that hold this probability", 0.0, 1.0)
    min_p: float = setting(0.0, "sampling",
        "skip tokens less probable than this share of the most probable one", 0.0, maximum=1.0)
    repetition_penalty: float = setting(1.0, "sampling",
        "divide the logits of all earlier tokens by this (multiply those below 0); 1 = off", 0.001, maximum=1000.0)
    frequency_penalty: float = setting(0.0, "sampling",
        "subtract this from a token's logit for each time that it was generated", -1000.0, maximum=1000.0)
    num_beams: int = setting(1, "sampling", "beam search with N beams, without temperature and filters", 1,
        maximum=100)
    stop: tuple[str, ...] = setting((), "sampling", "end before any of these strings")
    # fmt: on

    def __post_init__(self):
        for name, rule in DERIVED_DEFAULTS.items():
            value = getattr(self, name)
            if value in (None, "auto") or isinstance(value, _DerivedInt | _DerivedFloat):
                derived = rule(self)
                kind = _DerivedInt if isinstance(derived, int) else _DerivedFloat
                object.__setattr__(self, name, kind(derived))

        if errors := list(_validation_errors(self)):
            raise UserError("; ".join(errors))

    @property
    def explicit(self) -> dict[str, object]:
        """All fields by name, None where the value was derived: what a checkpoint keeps."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        derived = {name for name in values if isinstance(values[name], _DerivedInt | _DerivedFloat)}
        return {name: None if name in derived else value for name, value in values.items()}

    def replace(self, **changes: object) -> "ModelArgs":
        """Return the settings with some changed; derived ones follow, as with `dataclasses.replace`."""
        return dataclasses.replace(self, **changes)

    @property
    def row_tokens(self) -> int:
        """Tokens of a row: twice block_size for preference pairs, which hold two answers."""
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
    """Return the number of ranks, as torchrun says it. Raises UserError where the environment has no number."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if not ranks.isdecimal() or int(ranks) == 0:
        raise UserError(
            f"WORLD_SIZE={ranks} in the environment is no number of ranks: use torchrun, or unset it"
        )
    return int(ranks)


def round_up(n: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least n."""
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
    "lr_decay_iters": lambda a: a.total_iters or 1,
}

# fmt: off
# Defaults of a stage that differ from those of pretraining; presets and flags override them.
STAGE_DEFAULTS: dict[str, dict[str, object]] = {
    "P": {},
    "S": dict(max_lr=2e-4, muon_lr=5e-3, warmup_iters=50, total_batch_size=32768, batch_size=16, epochs=3),
    "D": dict(
        max_lr=2e-6, muon_lr=1e-4, warmup_iters=20, total_batch_size=65536, batch_size=8, epochs=1,
        weight_decay_optim=0.0, dropout=0.0, attn_dropout=0.0,
    ),
}

PRESETS: dict[str, dict[str, object]] = {
    # 130.0M parameters at GPT-2's 50,257 tokens, 130.1M with the embedding rounded up to 50,304. Rates and schedule are
    # carried over from modded-nanogpt (Muon 0.02, decay 0.05) and SmolLM2-135M (3e-3, the last fifth linear to 0).
    "smol-130m": dict(
        embeddings_dims=768, no_of_decoder_layers=15, no_of_heads=12, no_kv_heads=2, block_size=1024,
        batch_size=32, dropout=0.0, attn_dropout=0.0, optimizer="muon", muon_lr=0.02, max_lr=3e-3, min_lr=0.0,
        weight_decay_optim=0.05, lr_schedule="wsd",
    ),
    # the quickstart: some minutes on two CPU cores, all three together; too short to gain from compiling
    "stories": dict(
        dataset="stories", embeddings_dims=128, no_of_decoder_layers=4, no_of_heads=4, no_kv_heads=2,
        block_size=320, batch_size=8, total_batch_size=2560, dropout=0.0, attn_dropout=0.0, compile=False,
        optimizer="muon", max_lr=2e-2, muon_lr=0.03, muon_momentum=0.8, warmup_iters=30,
        total_iters=600, eval_iters=300, eval_check=6, save_checkpoint_iter=300, max_length=150,
    ),
    "stories-instruct": dict(
        train="S", dataset="stories_instruct", batch_size=8, total_batch_size=2560, dropout=0.0,
        attn_dropout=0.0, compile=False, optimizer="muon", max_lr=2e-2, muon_lr=0.02, muon_momentum=0.8,
        warmup_iters=30, total_iters=840, eval_iters=280, eval_check=6, save_checkpoint_iter=280,
        max_length=220, prompt="Write a story about Tom and a bell.",
    ),
    # beta_2: Adam's second moments keep the first steps, or learned pairs would move weights as much as new ones.
    # epochs: as many as leave the batch as it is (training/run_length.py); total_iters ends the run in the first.
    "stories-preference": dict(
        train="D", dataset="stories_preference", batch_size=4, total_batch_size=5120, compile=False,
        max_lr=1e-4, beta_2=0.999, clip=0.0, beta=3.0, warmup_iters=14, epochs=3, total_iters=140,
        eval_iters=70, eval_check=8, save_checkpoint_iter=70, max_length=220,
        prompt="Write a story about Tom and a bell.",
    ),
    # one text of 0.1 to 20 MB with a BPE of its own, 1 to 2M parameters: some minutes on two CPU cores
    "book": dict(
        embeddings_dims=128, no_of_decoder_layers=4, no_of_heads=4, no_kv_heads=2, block_size=256,
        batch_size=4, total_batch_size=1024, dropout=0.1, attn_dropout=0.0, optimizer="muon", max_lr=2e-2,
        min_lr=0.0, muon_momentum=0.8, warmup_iters=50, epochs=5, total_iters=6000, eval_iters=200,
        eval_check=100, save_checkpoint_iter=200, max_length=150,
    ),
    # characters of Shakespeare, 0.8M parameters: about two minutes on two CPU cores
    "shakespeare": dict(
        dataset="shakespeare", embeddings_dims=128, no_of_decoder_layers=4, no_of_heads=4,
        no_kv_heads=2, block_size=256, batch_size=4, total_batch_size=1024, dropout=0.0,
        attn_dropout=0.0, optimizer="muon", max_lr=2e-2, min_lr=0.0, muon_momentum=0.8,
        warmup_iters=50, total_iters=1200, eval_iters=400, eval_check=109, save_checkpoint_iter=400,
        prompt="ROMEO:", max_length=150,
    ),
}
# fmt: on


def _validation_errors(a: ModelArgs) -> Iterable[str]:
    """Yield all that is wrong with the settings, by the flags' names."""
    for f in fields(a):
        yield from _field_errors(f, getattr(a, f.name))
    yield from _head_errors(a)
    if a.min_lr > a.max_lr:
        yield f"--min_lr {a.min_lr} is above --max_lr {a.max_lr}"
    if a.train == "D" and a.beta == 0:
        yield "--beta 0 must be above 0"
    if a.cooldown_iters and a.lr_schedule != "wsd":
        yield f"--cooldown_iters {a.cooldown_iters} works with --lr_schedule wsd only"
    if a.label_smoothing and a.dpo_loss == "ipo":
        yield f"--label_smoothing {a.label_smoothing} works with --dpo_loss sigmoid only"


def _field_errors(f: dataclasses.Field, value: object) -> Iterable[str]:
    """Yield what is wrong with the value of one field, whatever the others are."""
    if f.name == "run_name" and value is not None:
        parts = Path(value).parts
        if not parts or ".." in parts or Path(value).is_absolute():
            yield f"--run_name {value} must name a folder below --save_checkpoint_dir"
        if any(len(part.encode(errors="replace")) > MAX_NAME_BYTES for part in parts):
            yield f"--run_name is longer than {MAX_NAME_BYTES} bytes"
    if f.name == "device" and not re.fullmatch(r"(cuda|mps|cpu)(:\d+)?", value):
        yield f"--device {value} is unknown: use cuda, cuda:N, mps or cpu"
    if f.name == "budget" and value is not None and not re.fullmatch(r"\d+(\.\d+)?[smh]", value):
        yield f"--budget {value} is no time: write 90s, 20m or 3h"
    elif f.name == "budget" and value is not None and float(value[:-1]) == 0:
        yield f"--budget {value} must be above 0"
    if f.name == "stop" and "" in value:
        yield "--stop must not be empty"
    if f.name in ("max_lr", "top_p") and value == 0:
        yield f"--{f.name} {value} must be above 0"
    if f.name == "temperature" and 0 < value < 1e-3:
        yield f"--temperature {value} is too small: 0 = greedy"
    if isinstance(value, int | float):  # None: derived, or left out of the page's form
        yield from command_line.range_errors(f, value)


def _head_errors(a: ModelArgs) -> Iterable[str]:
    """Yield what is wrong with heads and widths."""
    if a.no_of_heads < 1 or a.no_kv_heads < 1:
        return  # below their minimum, which has been said
    if a.no_of_heads % a.no_kv_heads:
        yield f"--no_of_heads {a.no_of_heads} is not a multiple of --no_kv_heads {a.no_kv_heads}"

    # Also where --head_dim is given: transformers loads no other Llama.
    if a.embeddings_dims % a.no_of_heads:
        yield f"--embeddings_dims {a.embeddings_dims} is not a multiple of --no_of_heads {a.no_of_heads}"
    elif a.head_dim % 2:
        yield (
            f"--head_dim {a.head_dim} (--embeddings_dims / --no_of_heads unless given) must be even: "
            "rotary positions turn pairs"
        )


class Parser(command_line.Parser):
    """Command-line parser that knows the settings."""

    def add_settings(self, wanted: Iterable[str]) -> None:
        """Add a flag for each setting whose name or group is wanted."""
        self.add_fields(ModelArgs, wanted)


def merge_settings(
    cli_args: dict[str, object], checkpoint_args: dict[str, object] | None = None
) -> dict[str, object]:
    """Return the value of every field by precedence: default < stage < preset < checkpoint < command line.

    Names that are no fields are skipped; None means: derived from others. Raises UserError for a value that is not
    legal whatever the others are.
    """
    stored = dict(checkpoint_args or {})
    if "batch_size" in cli_args:
        stored.pop("micro_batch_size", None)  # another name of batch_size
    preset = PRESETS.get(cli_args.get("preset"), {})

    chosen = {**preset, **stored, **cli_args}
    stage = STAGE_DEFAULTS[chosen.get("train", "P")]
    defaults = {f.name: f.default for f in fields(ModelArgs)}
    settings = {name: {**stage, **chosen}.get(name, default) for name, default in defaults.items()}

    # The limit that was typed ends the run: it lifts those that were not.
    limits = {"epochs", "total_iters", "budget"}
    if limits & cli_args.keys():
        settings |= dict.fromkeys(limits - cli_args.keys())
    if errors := [error for f in fields(ModelArgs) for error in _field_errors(f, settings[f.name])]:
        raise UserError("; ".join(errors))
    return settings


def resolve(cli_args: dict[str, object], checkpoint_args: dict[str, object] | None = None) -> ModelArgs:
    """Return the settings of a command line, see `merge_settings`. Raises UserError for values that are not legal."""
    return ModelArgs(**merge_settings(cli_args, checkpoint_args))


def settings_table() -> str:
    """Return the settings as a Markdown table, in the order of the dataclass."""
    rows = ["| flag | default | what |", "|---|---|---|"]
    for f in fields(ModelArgs):
        if f.metadata["group"] == NO_FLAG:
            continue
        default = "" if f.default in (None, ()) else f"`{f.default}`"
        rows.append(f"| `--{f.name}` | {default} | {f.metadata['help'].replace('|', ' or ')} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(settings_table())
