"""Measure a model on a prepared dataset: loss, perplexity, bits per byte on the whole validation set.

    python evaluation.py --model checkpoints/P-stories --dataset stories [--json]
"""

import json
import math
from pathlib import Path

import distributed
from batches import validation_batches
from checkpoint import find_model, load_model
from config import Parser, UserError, resolve, run
from objectives import evaluate, next_token
from store import Store, read_meta


def scores(folder: str, data: Path, env: distributed.Env, batch_size: int, block_size: int | None) -> dict[str, float]:
    """{"loss" in nats per token, "perplexity", "bits_per_byte", "tokens"} on a dataset's whole validation set."""
    model, tokenizer = load_model(folder)
    meta = read_meta(data)
    if meta["tokenizer"]["hash"] != tokenizer.hash:
        raise UserError(f"{data} was prepared with another tokenizer than that of {folder}: prepare it with "
                        f"data.py --tokenizer {find_model(folder)}")
    store = Store(data, "val", meta)
    model.to(env.device)
    T = min(block_size or model.args.block_size, model.args.block_size)
    means = evaluate(next_token, model, validation_batches(store, T, batch_size, env.rank, env.world_size), env)
    nats = means["loss"] * means["count"]
    return {"loss": means["loss"], "perplexity": math.exp(means["loss"]), "tokens": int(means["count"]),
            "bits_per_byte": nats / math.log(2) / store.bytes}


def main() -> None:
    """Print the scores of a model on a dataset."""
    parser = Parser(__doc__)
    parser.add_argument("--model", required=True, help="run folder, step folder or Llama folder in Hugging Face format")
    parser.add_argument("--dataset", required=True, help="folder under data_dir")
    parser.add_argument("--batch_size", type=int, default=16, help="rows at a time (default: 16)")
    parser.add_argument("--block_size", type=int, help="shorter rows than the model's context")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_settings({"data", "device"})
    typed = vars(parser.parse_args())
    args = resolve({name: typed[name] for name in ("data_dir", "seed", "device", "dtype") if name in typed})
    env = distributed.init(args.device, args.dtype)
    data = Path(args.data_dir) / typed["dataset"]
    result = scores(typed["model"], data, env, typed["batch_size"], typed["block_size"])
    if env.main and typed["json"]:
        print(json.dumps({"model": str(find_model(typed["model"])), "dataset": typed["dataset"], **result}))
    elif env.main:
        print(f"{find_model(typed['model'])} on the validation set of {typed['dataset']} ({result['tokens']:,} tokens)")
        for name in ("loss", "perplexity", "bits_per_byte"):
            print(f"  {name:14} {result[name]:.4f}")
    distributed.shutdown()


if __name__ == "__main__":
    run(main)
