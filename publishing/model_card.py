"""The model card, written from what the run itself has kept: data, settings, losses, hardware, hours."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config import ModelArgs
from model import Llama
from training.metrics import read_metrics
from training.state import TrainState, initial_weights_folder, load_state

SETTINGS = (
    "optimizer",
    "max_lr",
    "min_lr",
    "warmup_iters",
    "weight_decay_optim",
    "beta_1",
    "beta_2",
    "clip",
    "tokens_per_step",
    "block_size",
    "epochs",
    "dropout",
    "attn_dropout",
    "dtype",
    "seed",
)
DPO_SETTINGS = ("beta", "dpo_loss", "label_smoothing")
USES = {  # by format; {name} is the repository or folder, {file} the GGUF file
    "safetensors": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (auto.from_pretrained("{name}") for auto in (AutoModelForCausalLM, AutoTokenizer))
```

It is a plain `LlamaForCausalLM`, in the form that vLLM and `transformers serve` take. With SmolLlama:

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
    """One stage of training, as its step folder and its run's metrics.jsonl tell it."""

    name: str
    args: ModelArgs
    state: dict
    progress: TrainState
    rows: list[dict]

    def last(self, split: str) -> dict:
        """The newest row of a split; empty where there is none."""
        return next((row for row in reversed(self.rows) if row["split"] == split), {})

    @property
    def hours(self) -> float:
        """Hours that the steps took, evaluations and pauses not counted."""
        per_step = self.progress.tokens / max(1, self.progress.step)
        return (
            sum(per_step / row["tokens_per_second"] for row in self.rows if "tokens_per_second" in row) / 3600
        )


def history(folder: Path) -> list[StageRecord]:
    """The stages that made the model in a step folder, first to last, as far back as their folders are there."""
    stages, seen = [], set()
    while (folder / "train_state" / "state.json").is_file() and (place := folder.resolve()) not in seen:
        seen.add(place)
        progress, state = load_state(folder)
        rows = [row for row in read_metrics(folder.parent / "metrics.jsonl") if row["step"] <= progress.step]
        stages.insert(0, StageRecord(state["stage"], ModelArgs(**state["args"]), state, progress, rows))
        folder = initial_weights_folder(folder, state) or Path("nowhere")
    return stages


def model_card(
    name: str, stages: Sequence[StageRecord], model: Llama, use: str, samples: Sequence[tuple[str, str]]
) -> str:
    """The card of a model as Markdown; `use` is what its last section says, samples are (prompt, text)."""
    args, parameters = model.args, sum(weight.numel() for weight in model.parameters())
    repos = [stage.state["source"]["repo"] for stage in stages if "repo" in stage.state.get("source", {})]
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["smolllama", "llama", *(stage.name.replace(" ", "-") for stage in stages)],
        **({"datasets": repos} if repos else {}),
    }
    made = " then ".join(stage.name for stage in stages) or "training"
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items()) + "---",
        f"# {name.split('/')[-1]}",
        f"A small Llama of {parameters:,} parameters, made from nothing by {made} with SmolLlama: "
        f"{args.no_of_decoder_layers} layers, width {args.embeddings_dims}, {args.no_of_heads} query and "
        f"{args.no_kv_heads} key-value heads, a vocabulary of {args.vocab_size}, a context of {args.block_size} "
        "tokens. What it says may be wrong or harmful: nothing filters it.",
    ]
    if stages:
        parts += ["## Training", _table(stages), *map(_data, stages), "## Settings", _settings(stages)]
    if samples:
        parts += [
            "## Samples",
            "The first ones drawn, none left out.",
            *(f"> **{_quoted(prompt)}** {_quoted(text)}" for prompt, text in samples),
        ]
    return "\n\n".join([*parts, "## How to use it", use])


def _table(stages: Sequence[StageRecord]) -> str:
    heads = (
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
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for stage in stages:
        losses = [f"{row['loss']:.4f}" if row else "-" for row in (stage.last("train"), stage.last("val"))]
        scores = [
            f"{key} {stage.last('val')[key]:.3f}"
            for key in ("accuracy", "margin")
            if key in stage.last("val")
        ]
        world, device = stage.state["world_size"], stage.state.get("device", "not recorded")
        cells = (
            stage.name,
            stage.args.dataset,
            f"{stage.progress.step:,}",
            f"{stage.progress.tokens:,}",
            *losses,
            ", ".join(scores) or "-",
            f"{stage.hours:.2f}",
            f"{world} x {device}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _data(stage: StageRecord) -> str:
    """Where the data of a stage was from, in a line."""
    source = stage.state.get("source", {})
    if "repo" in source:
        origin = (
            f"[{source['repo']}](https://hf.co/datasets/{source['repo']}) at revision {source['revision']}"
        )
    elif "files" in source:
        origin = "local files: " + ", ".join(
            f"{Path(file['path']).name} ({file['bytes']:,} bytes)" for file in source["files"]
        )
    elif "generator" in source:
        origin = f"SmolLlama's story world ({source['generator']}, seed {source['seed']})"
    else:
        origin = "origin not recorded"
    return f"- {stage.args.dataset}: {origin}; prepared data {stage.state['data'][:12]}"


def _settings(stages: Sequence[StageRecord]) -> str:
    lines = [f"| setting | {' | '.join(stage.name for stage in stages)} |", "|---" * (1 + len(stages)) + "|"]
    for name in (*SETTINGS, *(DPO_SETTINGS if stages[-1].args.train == "D" else ())):
        cells = [f"{getattr(stage.args, name)}" for stage in stages]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """A text inside a quotation of Markdown."""
    return text.strip().replace("\n", "\n> ")
