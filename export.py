"""Take a model to where it is used: a Hugging Face folder, a GGUF file for llama.cpp and Ollama, the hub.

    python export.py --model dpo --to my-model --dtype bfloat16
    python export.py --model dpo --to my-model-gguf --format gguf --dtype q8_0
    python export.py --model dpo --to my-model --push_to_hub OWNER/NAME
    python export.py --model dpo --to my-model --card                               the model card alone

What was written is read again and compared with the checkpoint before it gets its name. The same command may be run
again: it replaces its own folder, never another. The last line of stdout is the folder.
"""

import importlib.util
import shutil
from pathlib import Path

import huggingface_hub
import torch

from checkpoint import read_config, read_weights, write_model
from config import ModelArgs, Parser, resolve
from generation.chat import ChatModel, choose_model, load_chat_model
from generation.generate import GREEDY, generate
from model import Llama
from publishing.gguf_export import modelfile, read_gguf, write_gguf
from publishing.model_card import USES, history, model_card
from runtime.errors import RunError, UserError, run_cli
from runtime.files import commit_folder
from runtime.hub import hub_errors, retry

# Largest error of a weight, as a share of its matrix's largest one: rounding to 8, 11 bits; to 1/127 with its scale.
ROUNDING = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-11, "q8_0": 1 / 220}
SHORT = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}  # llama.cpp's names
COMPARED = 64  # tokens
SAMPLES = 3
SHOWN = ("prompt", "max_length", "temperature", "top_k", "top_p")  # settings of the samples
WRITTEN = {
    "README.md",
    "Modelfile",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    *(f"model-{precision}.gguf" for precision in ROUNDING),
}


def write(folder: Path, source: Path, speaker: ChatModel, form: str, precision: str) -> Llama:
    """Write the files of a format; returns the model as they hold it."""
    again = Llama(speaker.model.args, speaker.model.legacy)
    if form == "safetensors":
        about = read_config(source).get("smolllama") or {}
        write_model(folder, speaker.model, speaker.tokenizer, about, getattr(torch, precision))
        again.load_state_dict(read_weights(folder, again))
    else:
        file = folder / f"model-{precision}.gguf"
        write_gguf(file, speaker.model, speaker.tokenizer, precision)
        (folder / "Modelfile").write_text(
            modelfile(file.name, speaker.is_instruct, speaker.model.args), encoding="utf-8"
        )
        again.load_state_dict(read_gguf(file, again))
    return again.eval()


@torch.inference_mode()
def compare(model: Llama, again: Llama, precision: str, ids: list[int]) -> str:
    """What became of weights, logits and greedy tokens, in words. Raises RunError for more than rounding.

    `ids` are a prompt and what the model writes after it, COMPARED tokens at most.
    """
    theirs = again.state_dict()
    for name, weight in model.state_dict().items():
        error = (weight - theirs[name]).abs().max()
        if not error <= ROUNDING[precision] * weight.abs().max():
            raise RunError(
                f"{name}, read again, is off by {error:.3g}, which is not {precision}'s rounding: nothing "
                "was exported"
            )
    ours, read = (found(torch.tensor([ids]))[0] for found in (model, again))
    same = (ours.argmax(-1) == read.argmax(-1)).sum().item()
    return (
        f"read again: weights as {precision} rounds them; over {len(ids)} tokens the largest change of a logit is "
        f"{(ours - read).abs().max():.3g}, and the most probable next token is the same at {same} of {len(ids)}"
    )


def compare_llama_cpp(file: Path, prompt: list[int], greedy: list[int]) -> str:
    """How many of our greedy tokens llama.cpp gives for a GGUF file, in words."""
    if not importlib.util.find_spec("llama_cpp"):
        return "not compared with llama.cpp itself: pip install llama-cpp-python, and it will be"
    import llama_cpp  # an extra

    exact = {
        "type_k": llama_cpp.GGML_TYPE_F32,
        "type_v": llama_cpp.GGML_TYPE_F32,
    }  # its cache is in half precision
    theirs = llama_cpp.Llama(str(file), n_ctx=0, verbose=False, **exact)
    tokens = theirs.generate(prompt, temp=0.0, repeat_penalty=1.0)
    same = 0
    for ours, token in zip(greedy, tokens, strict=False):
        if ours != token:
            break
        same += 1
    theirs.close()
    return f"llama.cpp gives our greedy tokens: the first {same} of {len(greedy)}"


def samples(speaker: ChatModel, args: ModelArgs) -> list[tuple[str, str]]:
    """What the model writes after the prompt with the first seeds; nothing where the prompt fills the context."""
    try:
        ids, _ = speaker.build_prompt([{"role": "user", "content": args.prompt}], args.max_length)
    except UserError:
        return []
    replies = []
    for seed in range(SAMPLES):
        pieces = speaker.stream_reply(ids, args.replace(seed=seed))
        replies.append((args.prompt, "".join(piece.text for piece in pieces)))
    return replies


def push(folder: Path, repo: str, names: set[str]) -> None:
    """Upload files of a folder to the hub. Raises UserError when the hub does not take them."""
    with hub_errors(repo) as endpoint:
        api = huggingface_hub.HfApi()
        retry(lambda: api.create_repo(repo, exist_ok=True), repo)
        retry(
            lambda: api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                allow_patterns=sorted(names),
                commit_message="Export from SmolLlama",
            ),
            repo,
        )
        print(f"uploaded to {endpoint}/{repo}", flush=True)


def check_target(target: Path, source: Path) -> None:
    """Raises UserError where a folder must not be replaced: it holds something else than an earlier export."""
    if not target.exists():
        return
    strange = sorted({path.name for path in target.iterdir()} - WRITTEN) if target.is_dir() else ["no folder"]
    if strange or target.resolve() == source.resolve():
        raise UserError(
            f"{target} is not replaced, since it holds {strange[0] if strange else 'the model itself'}: "
            "choose another --to"
        )


def write_card(folder: Path, source: Path, speaker: ChatModel, asked: dict) -> None:
    """Write README.md, with samples by the settings of the run that made the model, or by those typed."""
    stages = history(source)
    args = resolve(asked, {name: getattr(stages[-1].args, name) for name in SHOWN} if stages else None)
    use = USES["legacy" if speaker.model.legacy else asked["format"]]
    name, file = asked["push_to_hub"] or asked["to"].absolute().name, f"model-{asked['dtype']}.gguf"
    use = use.format(name=name, short=name.split("/")[-1], file=file)
    (folder / "README.md").write_text(
        model_card(name, stages, speaker.model, use, samples(speaker, args)), encoding="utf-8"
    )


def export(source: Path, asked: dict) -> None:
    """Write, read again, compare, describe, and only then give the folder its name."""
    target, precision = asked["to"].absolute(), asked["dtype"]  # "." has no name
    check_target(target, source)
    speaker, partial = load_chat_model(source), target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        again = write(partial, source, speaker, asked["format"], precision)
        prompt = [speaker.tokenizer.eos_id]  # where a document begins
        greedy = list(generate(speaker.model, prompt, COMPARED, params=GREEDY))
        print(compare(speaker.model, again, precision, prompt + greedy))
        if asked["format"] == "gguf":
            print(compare_llama_cpp(partial / f"model-{precision}.gguf", prompt, greedy))
        write_card(partial, source, speaker, asked)
        commit_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main() -> None:
    """Export a model as the flags say; print the folder."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="sft, dpo or pretrained (the newest of that kind), or a folder",
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
        type=lambda name: SHORT.get(name, name),
        help="float32 (the default), bfloat16, float16 or, in GGUF, q8_0; f32, bf16, f16 will do",
    )
    parser.add_argument(
        "--card", action="store_true", help="write the model card, README.md, and nothing else"
    )
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload the folder to this repository")
    parser.add_settings({"save_checkpoint_dir", *SHOWN})
    asked = vars(parser.parse_args())
    args = resolve(asked)
    if asked["dtype"] == "q8_0" and asked["format"] != "gguf":
        parser.error("--dtype q8_0 is of --format gguf")
    if not asked["to"] and not asked["card"]:
        parser.error("where to? give --to DIR")
    source = choose_model(asked["model"], args)
    asked["to"] = target = asked["to"] or source
    try:
        if asked["card"]:
            target.mkdir(parents=True, exist_ok=True)
            write_card(target, source, load_chat_model(source), asked)
        else:
            export(source, asked)
    except OSError as error:
        raise UserError(
            f"cannot write to {target} ({error.strerror or error}): make room there, or choose another --to"
        ) from None
    if asked["push_to_hub"]:
        push(target, asked["push_to_hub"], {"README.md"} if asked["card"] else WRITTEN)
    print(target)


if __name__ == "__main__":
    run_cli(main)
