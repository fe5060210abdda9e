"""Continue a text with a trained model, streamed. Its name is history: it runs base models as well.

    python inference_sft.py --prompt "Once upon a time" --model checkpoints/P-stories [--temperature 0] [--seed 1]

stdout carries the completion alone; notes go to stderr.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import distributed
from checkpoint import find_model, load_model
from config import ModelArgs, Parser, UserError, resolve, run
from generate import generate, sampling_of, until


def choose_model(name: str | None, args: ModelArgs) -> Path:
    """The folder that --model names, or the newest run when it is not given. Raises UserError when there is none."""
    if name:
        return find_model(name)
    runs = sorted(Path(args.save_checkpoint_dir).glob("*/latest"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise UserError(f"no model in {args.save_checkpoint_dir}: train one with "
                        "python trainer.py --train P --preset stories, or give --model FOLDER")
    return find_model(runs[-1].parent)


def main() -> None:
    """Stream the completion of a prompt."""
    parser = Parser(__doc__)
    parser.add_argument("--model", help="run folder, step folder or Llama folder in Hugging Face format "
                                        "(default: the newest run)")
    parser.add_settings({"sampling", "device"})
    typed = vars(parser.parse_args())
    args = resolve(typed)
    env = distributed.init(args.device, args.dtype)
    folder = choose_model(typed["model"], args)
    model, tokenizer = load_model(folder)
    model.to(env.device)
    ids = tokenizer.encode(args.prompt) or [tokenizer.eos_id]
    if len(ids) >= model.args.block_size:
        raise UserError(f"the prompt has {len(ids)} tokens; the context of {folder} holds {model.args.block_size}, "
                        "the answer included")
    print(f"{folder} on {env.device}", file=sys.stderr)
    t0, count = time.perf_counter(), 0

    def counted(tokens: Iterator[int]) -> Iterator[int]:
        nonlocal count
        for token in tokens:
            count += 1
            yield token

    with env.autocast():
        tokens = generate(model, ids, args.max_length, tokenizer.eos_id, **sampling_of(args))
        for piece in until(tokenizer.stream(counted(tokens)), args.stop):
            print(piece, end="", flush=True)
    print()
    print(f"{count} tokens, {count / (time.perf_counter() - t0):.0f} tokens/s", file=sys.stderr)


if __name__ == "__main__":
    run(main)
