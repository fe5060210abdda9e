"""The model card of a run, written from what the run left behind; what is not known is not said."""

import json
from pathlib import Path

from checkpoint import read_config
from config import ModelArgs
from metrics import read_metrics
from model import count_parameters
from plan import duration

STAGE_NAMES = {"P": "pretrained", "S": "fine-tuned on instructions", "D": "aligned with preferences (DPO)"}
LIBRARIES = {"safetensors": "transformers", "gguf": "gguf"}
SHOWN = ("total_iters", "total_batch_size", "block_size", "optimizer", "max_lr", "min_lr", "warmup_iters", "beta",
         "weight_decay_optim", "dropout", "attn_dropout", "dtype", "seed")


def model_card(name: str, step: Path, args: ModelArgs, form: str, samples: list[tuple[str, str]]) -> str:
    """The card (README.md) of the model in a step folder, exported to a form, with samples of (prompt, text)."""
    state = _json(step / "train_state" / "state.json")
    trained = state.get("args", {})
    about = read_config(step).get("smolllama", {})
    stage = STAGE_NAMES.get(about.get("stage"), "trained")
    rows = read_metrics(step.parent / "metrics.jsonl")
    rows = [row for row in rows if row["step"] <= state.get("step", row["step"])]
    parts = [
        f"---\nlibrary_name: {LIBRARIES[form]}\npipeline_tag: text-generation\ntags: [smolllama, llama]\n---",
        f"# {name}\n\nA Llama of {count_parameters(args) / 1e6:.1f}M parameters, {stage} with SmolLlama: "
        f"{args.no_of_decoder_layers} layers, width {args.embeddings_dims}, {args.no_of_heads} query and "
        f"{args.no_kv_heads} key-value heads, vocabulary {args.vocab_size}, context {args.block_size}.",
        _use(name, form, about.get("stage")), _training(state, rows), _data(trained), _settings(trained),
        _samples(samples)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(name: str, form: str, stage: str | None) -> str:
    if form == "gguf":
        return (f"## How to use\n\nllama.cpp: `llama-cli -hf {name}`. Ollama: `ollama run hf.co/{name}`, or "
                "`ollama create NAME -f Modelfile` in this folder. The prompt template is inside.")
    ask = """inputs = tokenizer("Once upon a time", return_tensors="pt")"""
    if stage in ("S", "D"):
        ask = """messages = [{"role": "user", "content": "..."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)"""
    return f"""## How to use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (kind.from_pretrained("{name}") for kind in (AutoModelForCausalLM, AutoTokenizer))
{ask}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))
```

With SmolLlama: `python download_model_weight.py --repo_id {name}`, then `python inference_sft.py --model FOLDER`."""


def _training(state: dict, rows: list[dict]) -> str:
    """Steps, tokens, losses, hours and hardware."""
    train = [row for row in rows if row["split"] == "train"]
    facts = []
    if state:
        facts.append(f"{state['step']:,} steps, {state['tokens']:,} tokens" + (
            f", on {state['world_size']} x {state['hardware']}" if "hardware" in state else ""))
    if state.get("init_from"):
        facts.append(f"started from {'/'.join(Path(state['init_from']).parts[-2:])}")
    if train:
        last = train[-50:]
        loss = sum(row["loss"] * row["count"] for row in last) / sum(row["count"] for row in last)
        facts.append(f"training loss {loss:.4f} (mean of the last {len(last)} steps)")
        steps = zip([0, *(row["tokens"] for row in train)], train, strict=False)
        seconds = sum((row["tokens"] - before) / row["tokens_per_second"] for before, row in steps)
        facts.append(f"{duration(seconds)} of training steps")
    for row in [row for row in rows if row["split"] == "val"][-1:]:
        measured = {what: value for what, value in row.items()
                    if isinstance(value, float) and what not in ("count", "tokens")}
        facts.append("validation at step {}: {}".format(row["step"], ", ".join(
            f"{what.replace('_', ' ')} {value:.4f}" for what, value in measured.items())))
    return "## Training\n\n" + "\n".join(f"- {fact}" for fact in facts) if facts else ""


def _data(trained: dict) -> str:
    """Where the data came from, if it is still prepared here."""
    if "dataset" not in trained:
        return ""
    meta = _json(Path(trained["data_dir"]) / trained["dataset"] / "meta.json")
    text = f"## Data\n\n- dataset: {trained['dataset']}"
    source = meta.get("source", {})
    if "repo" in source:
        text += f", https://huggingface.co/datasets/{source['repo']} at revision {source['revision']}"
    elif "generator" in source:
        text += f", made by {source['generator']} (sha256 of its words {source['sha256'][:16]}, seed {source['seed']})"
    for split, shards in meta.get("splits", {}).items():
        text += (f"\n- {split}: {sum(shard['tokens'] for shard in shards):,} tokens, "
                 f"{sum(shard['documents'] for shard in shards):,} documents")
    return text


def _settings(trained: dict) -> str:
    known = [(name, trained[name]) for name in SHOWN if trained.get(name) is not None
             and (name != "beta" or trained["train"] == "D")]
    table = "\n".join(f"| {name} | {value} |" for name, value in known)
    return f"## Settings\n\n| setting | value |\n|---|---|\n{table}" if known else ""


def _samples(samples: list[tuple[str, str]]) -> str:
    return "## Samples\n\n" + "\n\n".join(
        f"> **{' '.join(prompt.split())}** {' '.join(text.split())}" for prompt, text in samples) if samples else ""


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
