"""Sample of a run: the prompt that suits its data, and what the model writes after it."""

from pathlib import Path

from config import PRESETS, ModelArgs
from dataprep.shards import TokenDataset
from generation.chat import sampling_params
from generation.generate import generate
from model import Llama
from runtime.distributed import DistributedEnv
from runtime.errors import UserError
from tokenizer import Tokenizer

ENGLISH_TEXTS = {"stories", "fw", "tinystories"}  # named datasets, whose text the default prompt suits
DOCUMENTS_SEARCHED = 100  # of the validation set, for a short prompt
MAX_QUESTION = 200  # characters
PROMPT_WORDS = 5
PROMPT_TOKENS = 64  # that surely hold so few words
PROMPT_CHARACTERS = 40  # where words are not separated


def default_prompt_remains(cli_args: dict[str, object], state: dict | None) -> bool:
    """Check whether neither a flag, nor a preset, nor the checkpoint that is resumed has chosen a prompt."""
    preset = PRESETS.get(cli_args.get("preset"), {})
    return "prompt" not in cli_args and "prompt" not in preset and not state


def fitting_prompt(dataset: Path, meta: dict, tokenizer: Tokenizer) -> str:
    """Return a prompt from the validation set: a question, or the first words of a text; else the default."""
    prompt = ""
    documents = TokenDataset(dataset, "val", meta)
    if meta["kind"] != "text":
        prompt = first_question(documents, tokenizer)
    elif dataset.name not in ENGLISH_TEXTS:
        prompt = first_words(documents, tokenizer)
    return prompt or ModelArgs.prompt


def first_question(documents: TokenDataset, tokenizer: Tokenizer) -> str:
    """Return the first short question of conversations of one turn; empty where there is none."""
    marker = "?"
    rendered = tokenizer.decode(tokenizer.render([{"role": "user", "content": marker}])[0])
    before, _, after = rendered.partition(marker)

    for number in range(min(DOCUMENTS_SEARCHED, documents.documents)):
        ids, loss_mask = documents.document(number)
        text = tokenizer.decode(ids[: int(loss_mask.argmax())].tolist())
        question = text.removeprefix(before).removesuffix(after)

        # A system message, or an earlier turn, makes the text longer than heading and question.
        is_one_turn = text == before + question + after and after.strip() not in question
        if is_one_turn and 0 < len(question) <= MAX_QUESTION and "\n" not in question:
            return question
    return ""


def first_words(documents: TokenDataset, tokenizer: Tokenizer) -> str:
    """Return the first words of the first text, at most PROMPT_CHARACTERS of them."""
    if not documents.documents:
        return ""
    ids, _ = documents.document(0)
    text = tokenizer.decode(ids[:PROMPT_TOKENS].tolist()).strip("\ufffd")
    return " ".join(text.split()[:PROMPT_WORDS])[:PROMPT_CHARACTERS]


def encode_prompt(args: ModelArgs, kind: str, tokenizer: Tokenizer, is_typed: bool) -> list[int]:
    """Return the token ids of --prompt as data of a kind has them; none where the default exceeds the context."""
    if kind == "text":
        prompt_ids = tokenizer.encode_prompt(args.prompt)
    else:
        prompt_ids = tokenizer.render([{"role": "user", "content": args.prompt}])[0]

    if len(prompt_ids) < args.block_size:
        return prompt_ids
    if is_typed:
        raise UserError(
            f"--prompt has {len(prompt_ids)} tokens; a --block_size of {args.block_size} holds fewer"
        )
    return []


def generate_sample(
    model: Llama, prompt_ids: list[int], args: ModelArgs, stop_ids: list[int], env: DistributedEnv
) -> list[int]:
    """Return the tokens that a model writes after a prompt; none after an empty one."""
    if not prompt_ids:
        return []
    with env.autocast():
        return list(generate(model, prompt_ids, args.max_length, stop_ids, sampling_params(args)))
