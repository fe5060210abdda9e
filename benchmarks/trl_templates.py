"""Compare what is learned under public chat templates with TRL's training templates, token by token.

    pip install trl && python benchmarks/trl_templates.py

TRL has, for many models, the published template and one with generation marks for assistant_only_loss. Ours sees the
published one alone.
"""

import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runtime.errors import UserError
from tokenizer import load_tokenizer, train_bpe

SPECIAL = re.compile(r"<[|｜]?[\w▁｜ ]{2,40}[|｜]?>|\[/?INST\]")
NOT_SPECIAL = ("think", "tool", "response")  # tags that these models have as words
CONVERSATIONS = (
    ("What is red?", "A ripe cherry."),
    ("one", "two", "three", "    five\n six"),
    ("system: Be brief.", "What?", "Red.", "Why?", "It is."),
)


def messages(texts: tuple[str, ...]) -> list[dict[str, str]]:
    """Return turns; a first text of the system says so."""
    turns = []
    for text in texts:
        if text.startswith("system: "):
            turns.append({"role": "system", "content": text.removeprefix("system: ")})
            continue
        is_answer = bool(turns) and turns[-1]["role"] == "user"
        turns.append({"role": "assistant" if is_answer else "user", "content": text})
    return turns


def write(folder: Path, template: str, special: list[str]) -> Path:
    """Write a tokenizer with these special tokens and a chat template."""
    folder.mkdir()
    hf = Tokenizer.from_str(train_bpe(["a red cherry, one two three"], 300).hf.to_str())
    hf.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    hf.save(str(folder / "tokenizer.json"))
    end = "<|im_end|>" if "<|im_end|>" in special else "</s>"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def compare(published: Path, training: Path, turns: list[dict[str, str]]) -> str:
    """Return whether token ids and loss mask are equal, or why they are not compared."""
    try:
        theirs = AutoTokenizer.from_pretrained(training).apply_chat_template(
            turns, return_dict=True, return_assistant_tokens_mask=True
        )
    except Exception as error:  # a template may raise anything
        return f"TRL's raises {type(error).__name__}"
    try:
        ids, loss_mask = load_tokenizer(published).render(turns)
    except UserError as error:
        return f"refused: {error}"
    if ids != theirs["input_ids"]:
        return "another text: TRL's template changes it"
    differing = sum(
        ours != bool(other) for ours, other in zip(loss_mask, theirs["assistant_masks"], strict=True)
    )
    return f"{differing} tokens differ" if differing else "equal"


def main() -> None:
    """Print a line for each template."""
    logging.set_verbosity_error()
    package = importlib.util.find_spec("trl")
    if package is None:
        sys.exit("trl is missing: pip install trl")
    folder = Path(package.submodule_search_locations[0]) / "chat_templates"
    for path in sorted(folder.glob("*_training.jinja")):
        published = folder / path.name.replace("_training", "")
        if not published.is_file():
            continue
        templates = [each.read_text(encoding="utf-8") for each in (published, path)]
        found = sorted(set(SPECIAL.findall("".join(templates))))
        special = [name for name in found if not any(word in name for word in NOT_SPECIAL)]
        with tempfile.TemporaryDirectory() as made:
            ours, theirs = (
                write(Path(made) / name, template, [*special, "<s>", "</s>"])
                for name, template in zip(("published", "training"), templates, strict=True)
            )
            results = [compare(ours, theirs, messages(texts)) for texts in CONVERSATIONS]
        print(f"{published.stem}: {'; '.join(results)}", flush=True)


if __name__ == "__main__":
    main()
