"""Model card, written from the records of the run itself: data, settings, losses, hardware, hours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from config import ModelArgs
from model import Llama
from training.metrics import read_metrics
from training.state import TrainState, initial_weights_folder, load_state

DATA_HASH_LENGTH = 12  # leading characters of the hash of prepared data
# Settings of a stage, each with the condition under which it mattered to it.
SETTINGS: dict[str, Callable[[ModelArgs], bool]] = {
    "optimizer": lambda args: True,
    "max_lr": lambda args: True,
    "muon_lr": lambda args: args.optimizer == "muon",
    "muon_momentum": lambda args: args.optimizer == "muon",
    "min_lr": lambda args: True,
    "lr_schedule": lambda args: True,
    "warmup_iters": lambda args: True,
    "cooldown_iters": lambda args: args.lr_schedule == "wsd",
    "weight_decay_optim": lambda args: True,
    "beta_1": lambda args: True,
    "beta_2": lambda args: True,
    "clip": lambda args: True,
    "tokens_per_step": lambda args: True,
    "block_size": lambda args: True,
    "dropout": lambda args: args.dropout > 0,
    "attn_dropout": lambda args: args.attn_dropout > 0,
    "dtype": lambda args: True,
    "seed": lambda args: True,
    "lora_rank": lambda args: args.lora_rank > 0,
    "lora_alpha": lambda args: args.lora_rank > 0,
    "lora_modules": lambda args: len(args.lora_modules) > 0,
    "beta": lambda args: args.train == "D",
    "dpo_loss": lambda args: args.train == "D",
    "label_smoothing": lambda args: args.train == "D" and args.label_smoothing > 0,
}
COLUMNS = (
    "stage",
    "data",
    "steps",
    "tokens",
    "last training loss",
    "validation loss",
    "validation scores",
    "hours of steps",
    "hardware",
)
CARD_TAG = "smolllama"  # of every card that is written here
SCORES_COMMAND = (
    "Losses are nats a token with a label, of the last step and of the newest evaluation. SmolLlama measures a model "
    "again with `python evaluation.py --model FOLDER --dataset NAME`."
)
# By format: {name} is the repository or folder, {short} its last part, {file} the GGUF file.
USES = {
    "safetensors": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (auto.from_pretrained("{name}") for auto in (AutoModelForCausalLM, AutoTokenizer))
```

It is a plain `LlamaForCausalLM`, which vLLM and `transformers serve` also load. With SmolLlama:

```bash
python download_model_weight.py --repo_id {name}     # prints the folder
python inference_sft.py --model FOLDER --prompt "..."
```
""",
    "gguf": """```bash
llama-server -m {file}                               # llama.cpp, with an OpenAI-compatible API
ollama create {short} -f Modelfile && ollama run {short}
```
""",
    "legacy": """```bash
python inference_sft.py --model FOLDER --prompt "..."    # of SmolLlama; no other library has this architecture
```
""",
}


@dataclass(frozen=True)
class StageRecord:
    """One stage of training, from its step folder and its run's metrics.jsonl."""

    name: str
    args: ModelArgs
    state: dict
    progress: TrainState
    rows: list[dict]

    def last(self, split: str) -> dict:
        """Return the newest row of a split, or {}."""
        for row in reversed(self.rows):
            if row["split"] == split:
                return row
        return {}

    @property
    def hours(self) -> float:
        """Return the hours that the steps took, without evaluations and pauses."""
        tokens_per_step = self.progress.tokens / max(1, self.progress.step)
        speeds = [row["tokens_per_second"] for row in self.rows if "tokens_per_second" in row]
        seconds = sum(tokens_per_step / speed for speed in speeds)
        return seconds / 3600


def training_history(folder: Path) -> list[StageRecord]:
    """Return the stages that made the model in a step folder, first to last, as far back as their folders exist."""
    stages = []
    visited = set()
    current: Path | None = folder

    while current and (current / "train_state" / "state.json").is_file():
        if current.resolve() in visited:
            break  # renamed runs may name each other
        visited.add(current.resolve())

        progress, state = load_state(current)
        rows = [row for row in read_metrics(current.parent / "metrics.jsonl") if row["step"] <= progress.step]
        record = StageRecord(state["stage"], ModelArgs(**state["args"]), state, progress, rows)
        stages.insert(0, record)
        current = initial_weights_folder(current, state)
    return stages


def model_card(
    name: str,
    stages: Sequence[StageRecord],
    model: Llama,
    use: str,
    samples: Sequence[tuple[str, str]],
    base_model: Mapping[str, str] | None = None,
    license_id: str | None = None,
    averaged: Sequence[Path] = (),
) -> str:
    """Return the card of a model as Markdown; `use` is the text of the last section, samples are (prompt, text).

    `base_model` is the model of another program that training began with, {"name", "revision", "license"}.
    `averaged` are the folders whose mean the model is; `stages` are those of the last of them.
    """
    parts = [
        f"---\n{_metadata(stages, base_model, license_id)}\n---",
        f"# {name.split('/')[-1]}",
        _introduction(stages, model, base_model),
    ]
    if averaged:
        parts.append(_average(averaged))

    if stages:
        parts += ["## Training", _stage_table(stages), SCORES_COMMAND]
        parts += [_data_line(stage) for stage in stages]
        parts += ["## Settings", _settings_table(stages)]

    if samples:
        parts += ["## Samples", "The first ones drawn, none omitted."]
        parts += [f"> **{_quote(prompt)}** {_quote(text)}" for prompt, text in samples]

    parts += ["## Limits", _limits(stages, model, base_model), "## How to use it", use]
    return "\n\n".join(parts)


def _metadata(
    stages: Sequence[StageRecord], base_model: Mapping[str, str] | None, license_id: str | None
) -> str:
    """Return the card's header as YAML, which the hub reads."""
    sources = [source for stage in stages for source in stage.state.get("sources", {}).values()]
    repos = [source["repo"] for source in sources if "repo" in source]
    stage_tags = [stage.name.replace(" ", "-") for stage in stages]
    is_on_hub = base_model is not None and "/" in base_model["name"]
    data = ModelCardData(
        license=license_id,
        base_model=base_model["name"] if is_on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[CARD_TAG, "llama", *stage_tags],
        datasets=repos or None,
    )
    return data.to_yaml()


def _introduction(stages: Sequence[StageRecord], model: Llama, base_model: Mapping[str, str] | None) -> str:
    """Return what the model is, and what it was made from, as far as that is recorded."""
    args = model.args
    num_parameters = sum(weight.numel() for weight in model.parameters())
    training = " then ".join(stage.name for stage in stages)
    if base_model:
        origin = f"made from {_base_name(base_model)}"
        origin += f" by {training} with SmolLlama" if stages else ", its weights unchanged"
    elif not stages:
        origin = "trained with SmolLlama; its runs are not recorded here"
    elif stages[0].state["init_from"]:
        origin = f"trained by {training} with SmolLlama; the runs before these are not recorded here"
    else:
        origin = f"trained from scratch by {training} with SmolLlama"
    return (
        f"A Llama of {num_parameters:,} parameters, {origin}: {args.no_of_decoder_layers} layers, width "
        f"{args.embeddings_dims}, {args.no_of_heads} query and {args.no_kv_heads} key-value heads, a vocabulary of "
        f"{args.vocab_size}, a context of {args.block_size} tokens."
    )


def _base_name(base_model: Mapping[str, str]) -> str:
    """Return the name of a base model, as a link if it is on the hub, with its revision and licence."""
    name = base_model["name"]
    described = f"[{name}](https://hf.co/{name})" if "/" in name else name
    facts = []
    if "revision" in base_model:
        facts.append(f"revision {base_model['revision']}")
    if "license" in base_model:
        facts.append(f"licence {base_model['license']}")
    return f"{described} ({', '.join(facts)})" if facts else described


def _limits(stages: Sequence[StageRecord], model: Llama, base_model: Mapping[str, str] | None) -> str:
    """Return what the model should not be trusted with."""
    lines = ["Nothing filters its output, which may be wrong, made up or offensive."]
    if stages:
        tokens = sum(stage.progress.tokens for stage in stages)
        knows = f"It has seen {tokens:,} tokens of the data above"
        lines.append(
            f"{knows}, besides what its base model knows." if base_model else f"{knows} and nothing else."
        )
    lines.append(f"It reads and writes at most {model.args.block_size} tokens in all.")
    lines.append("Do not rely on it where a wrong answer does harm.")
    return " ".join(lines)


def _average(folders: Sequence[Path]) -> str:
    """Return the sentence that names the steps whose mean a model is; of a path, no more than run and step."""
    names = []
    for folder in folders:
        is_step = (folder / "train_state").is_dir()
        names.append(f"{folder.resolve().parent.name}/{folder.name}" if is_step else folder.name)
    return f"Its weights are the mean of those of {', '.join(names)}; losses and settings below are those of the last."


def _stage_table(stages: Sequence[StageRecord]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for stage in stages:
        train = stage.last("train")
        val = stage.last("val")
        scores = [f"{key} {val[key]:.3f}" for key in ("accuracy", "margin") if key in val]
        cells = (
            stage.name,
            stage.args.dataset,
            f"{stage.progress.step:,}",
            f"{stage.progress.tokens:,}",
            f"{train['loss']:.4f}" if train else "-",
            f"{val['loss']:.4f}" if val else "-",
            ", ".join(scores) or "-",
            f"{stage.hours:.2f}",
            f"{stage.state['world_size']} x {stage.state.get('device', 'not recorded')}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _data_line(stage: StageRecord) -> str:
    """Return the origin of a stage's data, as an item of a list."""
    sources = stage.state.get("sources", {})
    origins = [f"{name}: {_origin(source)}" for name, source in sources.items()]
    described = "; ".join(origins) or f"{stage.args.dataset}: origin not recorded"
    return f"- {described}; prepared data {stage.state['data'][:DATA_HASH_LENGTH]}"


def _origin(source: dict) -> str:
    """Return where a dataset comes from."""
    if "repo" in source:
        url = f"https://hf.co/datasets/{source['repo']}"
        licence = source.get("license") or "not recorded"
        return f"[{source['repo']}]({url}) at revision {source['revision']}, licence {licence}"
    if "files" in source:  # by name only: the path of a file is private
        files = [f"{Path(file['path']).name} ({file['bytes']:,} bytes)" for file in source["files"]]
        return f"local files: {', '.join(files)}"
    if "generator" in source:
        return f"SmolLlama's story world ({source['generator']}, seed {source['seed']})"
    return "origin not recorded"


def _settings_table(stages: Sequence[StageRecord]) -> str:
    """Return the settings that mattered to at least one stage, "-" where they did not."""
    heads = " | ".join(stage.name for stage in stages)
    lines = [f"| setting | {heads} |", "|---" * (1 + len(stages)) + "|"]
    for name, mattered in SETTINGS.items():
        cells = [str(getattr(stage.args, name)) if mattered(stage.args) else "-" for stage in stages]
        if set(cells) != {"-"}:
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _quote(text: str) -> str:
    """Return a text as the inside of a Markdown quotation."""
    return text.strip().replace("\n", "\n> ")
