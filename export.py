"""Export of a model to where it is used: a Hugging Face folder, a GGUF file for llama.cpp and Ollama, the hub.

    python export.py --model dpo --to my-model --dtype bfloat16
    python export.py --model dpo --to my-model-gguf --format gguf --dtype q8_0
    python export.py --model dpo --to my-model --push_to_hub OWNER/NAME --license mit [--private]
    python export.py --model dpo --to my-model --card                               the model card alone
    python export.py --average RUN/step_000580 RUN/step_000600 --to my-model        the mean of their weights

The files are read again and compared with the checkpoint before their folder gets its name. The same command may be run
again: it replaces its own folder, never another. The last line of stdout is the folder.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require("torch", "safetensors", "gguf", "huggingface_hub", "pyarrow")

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from checkpoint import load_sampling, write_model
from config import ModelArgs, Parser, resolve
from generation.chat import ChatModel, choose_model, load_chat_model
from generation.generate import GREEDY, generate
from model import Llama
from modelfiles.llama_config import own_metadata
from modelfiles.origin import BASE_README, LICENSES, read_origin
from modelfiles.weights import read_weights
from publishing.averaging import average_models
from publishing.gguf_export import (
    Description,
    check_supported,
    modelfile,
    ollama_template,
    read_gguf,
    write_gguf,
)
from publishing.hub_push import check_license, push, repository
from publishing.model_card import CARD_TAG, USES, model_card, training_history
from publishing.pre_tokenizer_tables import CHECK_TEXT
from runtime.errors import RunError, UserError, run_cli
from runtime.files import commit_folder, real_folder
from runtime.os_errors import in_words
from tokenization.guest_files import FILES
from tokenizer import Tokenizer

# Largest error of a weight, relative to the largest weight of its matrix. A rounded float keeps 8 or 11 bits; q8_0
# rounds to steps of 1/127 of the largest weight of a block, and rounds that scale too. q5_0 and q4_0 have 16 and 8
# steps on the side of the largest weight, one less on the other.
ROUNDING = {
    "float32": 0.0,
    "bfloat16": 2**-8,
    "float16": 2**-11,
    "q8_0": 1 / 220,
    "q5_0": 1 / 15.9,
    "q4_0": 1 / 7.9,
}
GGUF_ONLY = ("q8_0", "q5_0", "q4_0")
LLAMA_CPP_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
COMPARE_TOKENS = 64  # greedy tokens over which logits are compared
NUM_SAMPLES = 3
SAMPLE_SETTINGS = ("prompt", "max_length", "temperature", "top_k", "top_p")
EXPORT_FILES = {
    "README.md",
    "Modelfile",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    *FILES,
    *LICENSES,
    BASE_README,
    *(f"model-{precision}.gguf" for precision in ROUNDING),
}


@dataclass(frozen=True)
class CommandLine:
    """Flags of this script; `settings` are those settings that were given, `args` all with their defaults."""

    models: list[str]  # several: their average is exported
    to: Path | None
    format: Literal["safetensors", "gguf"]
    dtype: str
    card: bool
    push_to_hub: str | None
    private: bool
    license: str | None
    settings: dict[str, object]
    args: ModelArgs


def parse_command_line() -> CommandLine:
    """Return the flags of this script; exit with 2 if they do not fit together."""
    parser = Parser(__doc__)
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument(
        "--model",
        metavar="MODEL",
        help="sft, dpo or pretrained (the newest of that kind), a folder, or OWNER/NAME on the hub",
    )
    models.add_argument(
        "--average",
        nargs="+",
        action="extend",
        metavar="STEP",
        help="two or more step folders: the mean of their weights is exported, with all else of the last",
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="folder to write (with --card alone: the model's own)"
    )
    parser.add_argument(
        "--format",
        choices=("safetensors", "gguf"),
        default="safetensors",
        help="safetensors: a Hugging Face folder (the default); gguf: for llama.cpp and Ollama",
    )
    parser.add_argument(
        "--dtype",
        "--outtype",
        choices=tuple(ROUNDING),
        default="float32",
        metavar="TYPE",
        type=lambda name: LLAMA_CPP_NAMES.get(name, name),
        help="float32 (the default), bfloat16, float16 or, in GGUF, q8_0, q5_0, q4_0; also f32, bf16, f16",
    )
    parser.add_argument("--card", action="store_true", help="write only the model card, README.md")
    _add_publishing_flags(parser)
    parser.add_settings({"save_checkpoint_dir", *SAMPLE_SETTINGS})

    flags = vars(parser.parse_args())
    args = resolve(flags)
    if flags["dtype"] in GGUF_ONLY and flags["format"] != "gguf":
        parser.error(f"--dtype {flags['dtype']} needs --format gguf")
    if not flags["to"] and not flags["card"]:
        parser.error("--to DIR is required")
    if flags["private"] and not flags["push_to_hub"]:
        parser.error("--private goes with --push_to_hub")
    if flags["average"] and (flags["card"] or len(flags["average"]) < 2):
        parser.error("--average takes two steps or more and exports a model: give them, without --card")

    return CommandLine(
        models=flags["average"] or [flags["model"]],
        **{
            name: flags[name]
            for name in ("to", "format", "dtype", "card", "push_to_hub", "private", "license")
        },
        settings={name: flags[name] for name in SAMPLE_SETTINGS if name in flags},
        args=args,
    )


def _add_publishing_flags(parser: Parser) -> None:
    """Add the flags of an upload to the hub."""
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload the folder to this repository")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--license", metavar="ID", help="licence of the model, such as mit (default: that of its base model)"
    )


def write(folder: Path, source: Path, chat_model: ChatModel, command: CommandLine) -> Llama:
    """Write the files of a format; return the model as it is read from them."""
    model = chat_model.model
    exported = Llama(model.args, model.legacy)

    if command.format == "safetensors":
        metadata = own_metadata(source)
        metadata.pop("adapter_base", None)  # the weights are complete
        dtype = getattr(torch, command.dtype)
        sampling = load_sampling(source)
        origin = read_origin(source)
        write_model(folder, model, chat_model.tokenizer, metadata, dtype, sampling=sampling, origin=origin)
        exported.load_state_dict(read_weights(folder, exported))
    else:
        write_gguf_files(folder, source, chat_model, command)
        exported.load_state_dict(read_gguf(gguf_file(folder, command.dtype), exported))
    return exported.eval()


def write_gguf_files(folder: Path, source: Path, chat_model: ChatModel, command: CommandLine) -> None:
    """Write a GGUF file and a Modelfile for Ollama, which has the sampling settings of the model's run."""
    file = gguf_file(folder, command.dtype)
    model, tokenizer = chat_model.model, chat_model.tokenizer
    base_model = read_origin(source).base_model or {}
    name = command.push_to_hub or command.to.absolute().name
    description = Description(name, find_license(command, source), base_model.get("name"))
    chat_template = tokenizer.chat_template if chat_model.is_instruct else None
    write_gguf(file, model, tokenizer, command.dtype, chat_template, description)

    template = None  # a guest's own, in Jinja, is in the GGUF file
    if not (chat_model.is_instruct and tokenizer.has_own_template):
        template = ollama_template(chat_model.is_instruct, tokenizer.eos_token)
    sampling = load_sampling(source)
    args = model.args.replace(**sampling)
    stop_tokens = [tokenizer.hf.id_to_token(token_id) for token_id in chat_model.stop_ids]
    text = modelfile(file.name, template, args, stop_tokens, sampling.get("max_length"))
    (folder / "Modelfile").write_text(text, encoding="utf-8")


def gguf_file(folder: Path, precision: str) -> Path:
    """Return the path of the GGUF file in an exported folder."""
    return folder / f"model-{precision}.gguf"


@torch.inference_mode()
def compare(model: Llama, exported: Llama, precision: str, ids: list[int]) -> str:
    """Return a line that compares weights, logits and most probable tokens; raise RunError for more than rounding.

    `ids` are a prompt and the tokens that the model generates after it.
    """
    exported_weights = exported.state_dict()
    for name, weight in model.state_dict().items():
        error = (weight - exported_weights[name]).abs().max()
        bound = ROUNDING[precision] * weight.abs().max()
        if not error <= bound:  # also if the error is NaN
            raise RunError(
                f"{name}, read again, is off by {error:.3g}, which is not {precision}'s rounding: nothing "
                "was exported"
            )

    tokens = torch.tensor([ids])  # B T
    logits = model(tokens)[0]  # T V
    exported_logits = exported(tokens)[0]
    num_same = (logits.argmax(-1) == exported_logits.argmax(-1)).sum().item()
    change = (logits - exported_logits).abs().max()
    return (
        f"read again: weights as {precision} rounds them; over {len(ids)} tokens the largest change of a logit is "
        f"{change:.3g}, and the most probable next token is the same at {num_same} of {len(ids)}"
    )


def compare_llama_cpp(file: Path, tokenizer: Tokenizer, prompt: list[int], greedy: list[int]) -> str:
    """Return a line about the token ids of a text, and the number of our greedy tokens, that llama.cpp gives."""
    if not importlib.util.find_spec("llama_cpp"):
        return "not compared with llama.cpp itself: pip install llama-cpp-python to compare"
    import llama_cpp  # an extra

    llama = llama_cpp.Llama(
        str(file),
        n_ctx=0,
        verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32,  # the cache is in half precision by default
        type_v=llama_cpp.GGML_TYPE_F32,
    )
    num_same = 0
    tokens = llama.generate(prompt, temp=0.0, repeat_penalty=1.0)
    for our_token, token in zip(greedy, tokens, strict=False):
        if our_token != token:
            break
        num_same += 1
    ids = llama.tokenize(CHECK_TEXT.encode(), add_bos=False, special=False)
    llama.close()
    which = "our" if ids == tokenizer.encode(CHECK_TEXT) else "OTHER"
    return (
        f"llama.cpp gives {which} token ids for a text in several scripts, and the first {num_same} of our "
        f"{len(greedy)} greedy tokens"
    )


def samples(chat_model: ChatModel, args: ModelArgs) -> list[tuple[str, str]]:
    """Return (prompt, text) for the first seeds; nothing if the prompt fills the context."""
    try:
        prompt = chat_model.build_prompt([{"role": "user", "content": args.prompt}], args.max_length)
    except UserError:
        return []

    texts = []
    for seed in range(NUM_SAMPLES):
        pieces = chat_model.stream_reply(prompt, args.replace(seed=seed))
        texts.append("".join(piece.text for piece in pieces))
    return [(args.prompt, text) for text in texts]


def check_target(target: Path, sources: Sequence[Path]) -> None:
    """Raise UserError if a folder must not be replaced: it holds something other than an earlier export."""
    if not target.exists():
        return

    reason = None
    if not target.is_dir():
        reason = "it is not a folder"
    else:
        foreign = sorted({path.name for path in target.iterdir()} - EXPORT_FILES)
        if foreign:
            reason = f"it holds {foreign[0]}"
        elif target.resolve() in [source.resolve() for source in sources]:
            reason = "it is the model itself"

    if reason:
        raise UserError(f"{target} is not replaced, since {reason}: choose another --to")


def write_card(
    folder: Path, sources: Sequence[Path], target: Path, chat_model: ChatModel, command: CommandLine
) -> None:
    """Write README.md; its samples use the settings given, else those of the run that made the model."""
    source = sources[-1]
    stages = training_history(source)
    run_settings = None
    if stages:
        run_settings = {name: getattr(stages[-1].args, name) for name in SAMPLE_SETTINGS}
    args = resolve(command.settings, run_settings)

    name = command.push_to_hub or target.absolute().name
    use = USES["legacy" if chat_model.model.legacy else command.format].format(
        name=name,
        short=name.split("/")[-1],
        file=gguf_file(folder, command.dtype).name,
    )
    base_model = read_origin(source).base_model
    text = model_card(
        name,
        stages,
        chat_model.model,
        use,
        samples(chat_model, args),
        base_model,
        find_license(command, source),
        sources if len(sources) > 1 else (),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def check_card(path: Path) -> None:
    """Raise UserError if a README.md must not be replaced: it is no model card of ours."""
    if path.is_file() and CARD_TAG not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError(
            f"{path} is not replaced, since SmolLlama did not write it: choose another folder with --to"
        )


def find_license(command: CommandLine, source: Path) -> str | None:
    """Return the licence of --license, or that of the model that training began with; None if there is none."""
    return command.license or (read_origin(source).base_model or {}).get("license")


def export(sources: Sequence[Path], target: Path, command: CommandLine) -> None:
    """Write a model's files, read them again, compare, describe, and only then give the folder its name.

    Of several sources it is the average, with all else of the last.
    """
    check_target(target, sources)
    chat_model = average_models(sources) if len(sources) > 1 else load_chat_model(sources[0])
    if command.format == "gguf":
        check_supported(chat_model.model, chat_model.tokenizer)

    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        exported = write(partial, sources[-1], chat_model, command)

        prompt = chat_model.tokenizer.encode_prompt("")  # where a document begins
        greedy = list(generate(chat_model.model, prompt, COMPARE_TOKENS, params=GREEDY))
        print(compare(chat_model.model, exported, command.dtype, prompt + greedy))
        if command.format == "gguf":
            print(compare_llama_cpp(gguf_file(partial, command.dtype), chat_model.tokenizer, prompt, greedy))

        write_card(partial, sources, target, chat_model, command)
        commit_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main() -> None:
    """Export a model and print the folder."""
    command = parse_command_line()
    sources = [choose_model(name, command.args) for name in command.models]
    target = command.to or sources[-1]
    if command.push_to_hub:  # before anything is written
        check_license(find_license(command, sources[-1]), command.push_to_hub)
        command = replace(command, push_to_hub=repository(command.push_to_hub))

    try:
        if command.card:
            target.mkdir(parents=True, exist_ok=True)
            check_card(target / "README.md")
            write_card(target, sources, target, load_chat_model(sources[-1]), command)
        else:
            export(sources, real_folder(target.absolute()), command)  # "." has no name
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"cannot write to {in_words(error, target)}, or choose another --to") from None

    if command.push_to_hub:
        names = {"README.md"} if command.card else EXPORT_FILES
        push(target, command.push_to_hub, names, command.private)
    print(target)


if __name__ == "__main__":
    run_cli(main)
