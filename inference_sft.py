"""Write with a trained model, streamed. The name is history: it runs base models as well.

    python inference_sft.py --prompt "Once upon a time" --model checkpoints/P-stories [--temperature 0] [--seed 1]
    python inference_sft.py --model sft --prompt "Name the color of a ripe cherry."     the newest fine-tuned model
    python inference_sft.py --model dpo --chat                                          a conversation, line by line
    cat question.txt | python inference_sft.py --model dpo

stdout carries what the model writes alone; notes go to stderr. Base models continue the text; fine-tuned ones are asked
in the prompt template, unless --raw.
"""

import itertools
import sys
import time
from collections.abc import Iterator

from config import ModelArgs, Parser, resolve
from generation.chat import ChatModel, choose_model, load_chat_model
from generation.cpu_decoder import quantize
from runtime import distributed
from runtime.errors import UserError, run_cli


def say(speaker: ChatModel, ids: list[int], args: ModelArgs, env: distributed.DistributedEnv) -> str:
    """Stream what follows the ids to stdout, its figures to stderr; returns the text."""
    text, made, t0 = "", [], time.perf_counter()
    with env.autocast():
        for piece in speaker.reply(ids, args, made):
            text += piece
            print(piece, end="", flush=True)
    print(flush=True)
    note(f"{len(made)} tokens, {len(made) / (time.perf_counter() - t0):.0f} tokens/s")
    return text


def chat(
    speaker: ChatModel, first: list[str], args: ModelArgs, env: distributed.DistributedEnv, raw: bool
) -> None:
    """A turn for each line, those of `first`, then of stdin; one that does not fit is refused, and the next taken."""
    messages: list[dict[str, str]] = []
    for line in itertools.chain(first, turns()):
        asked = [*messages, {"role": "user", "content": line}]
        try:
            ids, dropped = speaker.prompt(asked, args.max_length, raw)
        except UserError as error:
            note(f"error: {error}")
            continue
        if dropped:
            note(f"the context is full: the oldest {dropped} turns are left out")
        messages = [*asked, {"role": "assistant", "content": say(speaker, ids, args, env)}]


def turns() -> Iterator[str]:
    """The lines of stdin that are not empty; a person is shown where to write."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Stream what a model writes after a prompt, or hold a conversation."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="sft, dpo or pretrained (the newest of that kind), or a run "
        "folder, step folder or Llama folder in Hugging Face format "
        "(default: the newest run)",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="a conversation: --prompt, then each line that comes in, is a turn",
    )
    parser.add_argument("--raw", action="store_true", help="no prompt template: continue the text as it is")
    parser.add_argument(
        "--quantize", choices=("int8",), help="weights as bytes: two to three times faster on a CPU"
    )
    parser.add_settings({"sampling", "device", "save_checkpoint_dir"})
    typed = vars(parser.parse_args())
    args = resolve(typed)
    env = distributed.init(args.device, args.dtype)
    folder = choose_model(typed["model"], args)
    speaker = load_chat_model(folder)
    if typed["quantize"]:
        quantize(speaker.model)
    speaker.model.to(env.device)
    answers = speaker.answers and not typed["raw"]
    who = f"{folder} on {env.device}: {'answers in the prompt template' if answers else 'continues the text'}"
    if typed["chat"]:
        note(who)
        chat(speaker, [typed["prompt"]] if "prompt" in typed else [], args, env, typed["raw"])
        return
    piped = b"" if "prompt" in typed or sys.stdin.isatty() else sys.stdin.buffer.read()
    asked = piped.decode("utf-8", "replace").rstrip("\n") or args.prompt
    ids, _ = speaker.prompt([{"role": "user", "content": asked}], args.max_length, typed["raw"])
    note(who)
    say(speaker, ids, args, env)


if __name__ == "__main__":
    run_cli(main)
