"""Writing with a trained model, streamed. The name is history: it runs base models as well.

    python inference_sft.py --prompt "Once upon a time" --model checkpoints/P-stories --temperature 0
    python inference_sft.py --model sft --prompt "Name the color of a ripe cherry."   the newest SFT model
    python inference_sft.py --model dpo --chat [--system "Be brief."]                 a conversation
    cat question.txt | python inference_sft.py --model dpo
    python inference_sft.py --model dpo --prompts questions.jsonl --to replies.jsonl

stdout gets only the model's text; notes go to stderr. Base models continue the text; fine-tuned ones answer
in the prompt template, unless --raw.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors")

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from checkpoint import load_sampling
from config import ModelArgs, Parser, resolve
from generation.chat import ChatModel, choose_model, load_chat_model
from generation.conversation import Conversation, note, say, system_turn
from generation.cpu_decoder import quantize
from generation.generate import move_for_generation
from generation.reply_file import write_replies
from runtime import distributed
from runtime.distributed import DistributedEnv
from runtime.errors import run_cli


@dataclass(frozen=True)
class CommandLine:
    """Flags of this script. `typed` are the settings that were typed, `args` all of them with their defaults."""

    model: str | None
    system: str | None
    prompts: Path | None
    to: Path | None
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
        "in Hugging Face format, or OWNER/NAME of one on the hub (default: the newest run)",
    )
    parser.add_argument("--system", metavar="TEXT", help="system turn before the conversation")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="a conversation: --prompt, then each line of stdin, is a turn; /help lists its commands",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='JSONL with {"prompt": TEXT} or {"messages": [...]} in each row',
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="JSONL for the replies to --prompts; an unfinished one is continued",
    )
    parser.add_argument("--raw", action="store_true", help="no prompt template: continue the text as it is")
    parser.add_argument(
        "--quantize", choices=("int8",), help="int8 weights: two to three times faster on a CPU"
    )
    parser.add_settings({"sampling", "device", "save_checkpoint_dir"})

    flags = vars(parser.parse_args())
    if (flags["prompts"] is None) != (flags["to"] is None):
        parser.error("--prompts FILE and --to FILE go together")
    if flags["prompts"] and (flags["chat"] or "prompt" in flags):
        parser.error("--prompts has its prompts in a file: drop --chat and --prompt")
    return CommandLine(
        model=flags["model"],
        system=flags["system"],
        prompts=flags["prompts"],
        to=flags["to"],
        chat=flags["chat"],
        raw=flags["raw"],
        quantize=flags["quantize"],
        typed=flags,
        args=resolve(flags),
    )


def read_prompt(command: CommandLine) -> str:
    """Return the prompt: --prompt, else piped text, else the default prompt."""
    if "prompt" not in command.typed and not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\n")
        if piped:
            return piped
    return command.args.prompt


def load(name: str | None, command: CommandLine, env: DistributedEnv) -> tuple[ChatModel, ModelArgs, str]:
    """Load a model onto the device; return it with the settings that it writes by, and a line on what it does."""
    folder = choose_model(name, command.args)
    chat_model = load_chat_model(folder)
    if command.quantize:
        quantize(chat_model.model)
    move_for_generation(chat_model.model, env)

    does = "continues the text"
    if chat_model.is_instruct and not command.raw:
        does = "answers in the prompt template"
    dtype = f" in {str(env.dtype).removeprefix('torch.')}" if "dtype" in command.typed else ""
    chosen = {"device", "dtype"} & command.typed.keys()
    reason = f" ({env.device_note})" if chosen and env.device_note else ""  # such as why it is another one
    description = f"{folder} on {env.device}{dtype}{reason}: {does}"
    return chat_model, resolve({**load_sampling(folder), **command.typed}), description


def main() -> None:
    """Stream a model's reply to one prompt, hold a conversation, or answer a file of prompts."""
    command = parse_command_line()
    env = distributed.init(command.args.device, command.args.dtype)
    chat_model, args, description = load(command.model, command, env)
    system = system_turn(command.system, chat_model, command.raw)

    with env.autocast():
        if command.prompts and command.to:
            count = write_replies(chat_model, command.prompts, command.to, args, system, command.raw)
            note(f"{count} replies in {command.to}")
        elif command.chat:
            note(description)
            talk = Conversation(
                chat_model, args, command.system, command.raw, lambda name: load(name, command, env)
            )
            talk.run([args.prompt] if "prompt" in command.typed else [])
        else:
            question = {"role": "user", "content": read_prompt(command)}
            prompt = chat_model.build_prompt([*system, question], args.max_length, command.raw)
            note(description)
            say(chat_model, prompt, args)


if __name__ == "__main__":
    run_cli(main)
