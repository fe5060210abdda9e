"""Writing with a trained model, streamed. The name is history: it runs base models as well.

    python inference_sft.py --prompt "Once upon a time" --model checkpoints/P-stories --temperature 0
    python inference_sft.py --model sft --prompt "Name the color of a ripe cherry."   the newest SFT model
    python inference_sft.py --model dpo --chat [--system "Be brief."]                 a conversation
    cat question.txt | python inference_sft.py --model dpo

stdout gets only the model's text; notes go to stderr. Base models continue the text; fine-tuned ones answer
in the prompt template, unless --raw.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors")

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from checkpoint import load_sampling
from config import ModelArgs, Parser, resolve
from generation.chat import ChatModel, Messages, Prompt, choose_model, load_chat_model
from generation.cpu_decoder import quantize
from generation.generate import move_for_generation
from runtime import distributed
from runtime.errors import UserError, run_cli


@dataclass(frozen=True)
class CommandLine:
    """Flags of this script. `typed` are the settings that were typed, `args` all of them with their defaults."""

    model: str | None
    system: str | None
    chat: bool
    raw: bool
    quantize: Literal["int8"] | None
    typed: dict[str, object]
    args: ModelArgs


def parse_command_line() -> CommandLine:
    """Return the flags of this script."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="sft, dpo or pretrained (the newest of that kind), or a run folder, step folder or Llama folder "
        "in Hugging Face format (default: the newest run)",
    )
    parser.add_argument("--system", metavar="TEXT", help="system turn before the conversation")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="a conversation: --prompt, then each line of stdin, is a turn",
    )
    parser.add_argument("--raw", action="store_true", help="no prompt template: continue the text as it is")
    parser.add_argument(
        "--quantize", choices=("int8",), help="int8 weights: two to three times faster on a CPU"
    )
    parser.add_settings({"sampling", "device", "save_checkpoint_dir"})

    flags = vars(parser.parse_args())
    return CommandLine(
        model=flags["model"],
        system=flags["system"],
        chat=flags["chat"],
        raw=flags["raw"],
        quantize=flags["quantize"],
        typed=flags,
        args=resolve(flags),
    )


def say(chat_model: ChatModel, prompt: Prompt, args: ModelArgs) -> str:
    """Stream the reply to stdout and its speed to stderr; return the text."""
    text = ""
    num_tokens = 0
    room = chat_model.model.args.block_size - len(prompt.ids)
    start = time.perf_counter()

    for piece in chat_model.stream_reply(prompt, args):
        print(piece.text, end="", flush=True)
        text += piece.text
        num_tokens = len(piece.out_ids)
        room = piece.room

    seconds = time.perf_counter() - start
    print(flush=True)
    note(
        f"{num_tokens} tokens, {num_tokens / seconds:.0f} tokens/s{cut_note(num_tokens, room, args.max_length)}"
    )
    return text


def cut_note(num_tokens: int, room: int, max_length: int) -> str:
    """Return what to say of a reply that did not end but was cut; empty for one that ended."""
    if num_tokens < min(room, max_length):
        return ""
    if room <= max_length:
        return f"; cut: the context has no room for more than {room} tokens after this prompt"
    return f"; cut at --max_length {max_length}: a larger one lets it continue"


def chat(
    chat_model: ChatModel, first_lines: list[str], args: ModelArgs, raw: bool, system: Messages = ()
) -> None:
    """Answer each line, first_lines and then stdin's, as a turn of one conversation, which `system` begins.

    A turn that does not fit is skipped and is no part of the conversation.
    """
    messages = list(system)
    for line in itertools.chain(first_lines, read_lines()):
        question = {"role": "user", "content": line}
        try:
            prompt = chat_model.build_prompt([*messages, question], args.max_length, raw)
        except UserError as error:
            note(f"error: {error}")
            continue

        if prompt.dropped:
            note(f"the context is full: the oldest {prompt.dropped} turns are dropped")
        answer = {"role": "assistant", "content": say(chat_model, prompt, args)}
        messages += [question, answer]


def read_lines() -> Iterator[str]:
    """Yield the lines of stdin that are not empty, with a prompt sign on a terminal."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)

        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


def read_prompt(command: CommandLine) -> str:
    """Return the prompt: --prompt, else piped text, else the default prompt."""
    if "prompt" not in command.typed and not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\n")
        if piped:
            return piped
    return command.args.prompt


def system_turn(command: CommandLine, chat_model: ChatModel) -> Messages:
    """Return the turn of --system, [] without it. Raises UserError where there is no prompt template to hold it."""
    if command.system is None:
        return []
    if command.raw or not chat_model.is_instruct:
        what_continues = "--raw" if command.raw else "a base model"
        raise UserError(
            f"--system is a turn of the prompt template, and {what_continues} continues a text: drop it"
        )
    return [{"role": "system", "content": command.system}]


def note(text: str) -> None:
    """Write a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Stream a model's reply to one prompt, or hold a conversation."""
    command = parse_command_line()
    env = distributed.init(command.args.device, command.args.dtype)

    folder = choose_model(command.model, command.args)
    chat_model = load_chat_model(folder)
    args = resolve({**load_sampling(folder), **command.typed})
    if command.quantize:
        quantize(chat_model.model)
    move_for_generation(chat_model.model, env)

    mode = "continues the text"
    if chat_model.is_instruct and not command.raw:
        mode = "answers in the prompt template"
    description = f"{folder} on {env.device}: {mode}"
    system = system_turn(command, chat_model)

    if command.chat:
        note(description)
        first_lines = [args.prompt] if "prompt" in command.typed else []
        with env.autocast():
            chat(chat_model, first_lines, args, command.raw, system)
        return

    question = {"role": "user", "content": read_prompt(command)}
    prompt = chat_model.build_prompt([*system, question], args.max_length, command.raw)
    note(description)
    with env.autocast():
        say(chat_model, prompt, args)


if __name__ == "__main__":
    run_cli(main)
