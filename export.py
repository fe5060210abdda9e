"""Take a trained model to where people use models: a Hugging Face folder, a GGUF for llama.cpp and Ollama, the hub.

    python export.py --model checkpoints/D-dpo --to exports/mine --dtype bfloat16
    python export.py --model checkpoints/D-dpo --to exports/mine-gguf --format gguf --dtype q8_0
    python export.py --model checkpoints/D-dpo --to exports/mine --push_to_hub OWNER/NAME
    python export.py --model checkpoints/D-dpo --card                                       the model card alone

What is written is read back and compared before it takes its name. The last line of stdout is what was made.
"""

import shutil
from pathlib import Path

import huggingface_hub
import torch
from torch import Tensor

from card import model_card
from checkpoint import find_model, publish, write_model
from config import EOS, ModelArgs, Parser, UserError, run
from fetching import hub_errors
from gguf_file import TYPES, read_gguf, write_gguf
from model import Llama
from sources import retry
from talk import Speaker, load_speaker
from template import HEADINGS

CHECKED = 128  # tokens of the text that is compared
SAMPLES = ("Once upon a time", "The little", "One day")
QUESTIONS = ("Tell a short story about a fox.", "What is the color of the sky?", "Give one piece of advice.")
ENDS, GAP = {"assistant": EOS}, "\n\n"  # what stands after a turn, after any other
SHORT = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def check(speaker: Speaker, ids: list[int], reader: str, logits: Tensor, exact: bool) -> str:
    """How the exported model's logits (T, V) compare with ours, in words.

    Raises UserError where an exact format is not exact, or any is far off.
    """
    with torch.no_grad():
        ours = speaker.model(torch.tensor([ids]))[0]
    error, scale = (ours - logits).abs().max().item(), max(1.0, ours.abs().max().item())
    if not error <= (1e-4 if exact else 0.1) * scale:
        raise UserError(f"what was exported is not the model that was given: read back by {reader}, its logits are "
                        f"{error:.2g} off; nothing is left of it")
    same = (ours.argmax(-1) == logits.argmax(-1)).sum().item()
    return (f"read back by {reader}: after {len(ids)} tokens the logits are at most {error:.2g} off (the largest is "
            f"{scale:.3g}), the most probable next token is the same {same} times")


@torch.no_grad()
def to_safetensors(speaker: Speaker, folder: Path, dtype: str, ids: list[int], name: str) -> str:
    """Write a Hugging Face folder; returns how the model that transformers reads in it compares with ours."""
    write_model(folder, speaker.model, speaker.tokenizer, {"stage": speaker.stage}, getattr(torch, dtype))
    import transformers  # seconds, which only this format needs
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return check(speaker, ids, "transformers", theirs(torch.tensor([ids])).logits[0], dtype == "float32")


@torch.no_grad()
def to_gguf(speaker: Speaker, folder: Path, dtype: str, ids: list[int], name: str) -> str:
    """Write a GGUF and a Modelfile for Ollama; returns how a model of the weights in it compares with ours."""
    file, args = folder / f"{name}-{dtype}.gguf", speaker.model.args
    write_gguf(file, name, speaker.model, speaker.tokenizer, dtype)
    (folder / "Modelfile").write_text(modelfile(file.name, speaker), encoding="utf-8")
    again = Llama(args).eval()
    again.load_state_dict(read_gguf(file, args))
    return check(speaker, ids, "gguf", again(torch.tensor([ids]))[0], dtype == "float32")


FORMATS = {"safetensors": to_safetensors, "gguf": to_gguf}


def modelfile(file: str, speaker: Speaker) -> str:
    """What `ollama create` reads: the file, the prompt template in its language, where to stop."""
    turns = " else ".join(f'if eq .Role "{role}" }}}}{heading}{{{{ .Content }}}}{ENDS.get(role, GAP)}{{{{'
                          for role, heading in HEADINGS.items())
    template = f"{{{{ range .Messages }}}}{{{{ {turns} end }}}}{{{{ end }}}}{HEADINGS['assistant']}"
    return (f'FROM ./{file}\nTEMPLATE """{template if speaker.answers else "{{ .Prompt }}"}"""\n'
            f'PARAMETER stop "{EOS}"\nPARAMETER num_ctx {speaker.model.args.block_size}\n')


def write_card(speaker: Speaker, step: Path, name: str, form: str, folder: Path) -> Path:
    """Write README.md, the model card, into a folder; returns it."""
    args, samples = ModelArgs(max_length=80, temperature=0.5, seed=1, device="cpu"), []
    for prompt in QUESTIONS if speaker.answers else SAMPLES:
        ids, _ = speaker.prompt([{"role": "user", "content": prompt}], args.max_length)
        samples.append((prompt, "".join(speaker.reply(ids, args, []))))
    path = folder / "README.md"
    path.write_text(model_card(name, step, speaker.model.args, form, samples), encoding="utf-8")
    return path


def export(speaker: Speaker, step: Path, folder: Path, form: str, dtype: str, name: str) -> None:
    """Make the folder of an export, read it back, say how it compares; half an export never has the folder's name."""
    ids = torch.randint(speaker.tokenizer.vocab_size, (min(CHECKED, speaker.model.args.block_size),),
                        generator=torch.Generator().manual_seed(0)).tolist()
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        print(FORMATS[form](speaker, partial, dtype, ids, name.split("/")[-1]), flush=True)
        write_card(speaker, step, name, form, partial)
        publish(partial, folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error}): choose another --to") from None


def push(folder: Path, repo: str) -> None:
    """Publish a folder as a model on the hub. Raises UserError when that cannot be done."""
    api = huggingface_hub.HfApi()
    with hub_errors(repo) as endpoint:
        retry(lambda: api.create_repo(repo, exist_ok=True), repo)
        retry(lambda: api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export from SmolLlama"), repo)
        print(f"published at {endpoint}/{repo}")


def main() -> None:
    """Export, read back, compare; write the card; publish."""
    parser = Parser(__doc__)
    parser.add_argument("--model", required=True, help="run folder, step folder or Llama folder in Hugging Face format")
    parser.add_argument("--to", type=Path, help="folder to make (default: one under exports/)")
    parser.add_argument("--format", choices=FORMATS, default="safetensors")
    parser.add_argument("--dtype", "--outtype", choices=(*TYPES, *SHORT), default="float32",
                        help="type of the matrices (default: float32; q8_0 is for gguf)")
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="publish the folder and its model card on the hub")
    parser.add_argument("--card", action="store_true", help="write the card alone, into --to or the model's folder")
    asked = parser.parse_args()
    dtype = SHORT.get(asked.dtype, asked.dtype)
    if dtype == "q8_0" and asked.format != "gguf":
        parser.error("--dtype q8_0 is for --format gguf")
    step = find_model(asked.model)
    speaker = load_speaker(step)
    if speaker.model.legacy:
        raise UserError(f"{step} holds the published legacy weights: no other program knows their form")
    name = Path(asked.model).resolve().name
    if asked.card:
        print(write_card(speaker, step, asked.push_to_hub or name, asked.format, asked.to or step))
        return
    folder = asked.to or Path("exports") / f"{name}-{asked.format}-{dtype}"
    if not folder.exists():
        export(speaker, step, folder, asked.format, dtype, asked.push_to_hub or name)
    elif asked.push_to_hub and (folder / "README.md").is_file():  # the hub failed the last time
        print(f"{folder} is there already: it is published as it is")
    else:
        raise UserError(f"{folder} is there already: remove it, or choose another --to")
    if asked.push_to_hub:
        push(folder, asked.push_to_hub)
    print(folder)


if __name__ == "__main__":
    run(main)
