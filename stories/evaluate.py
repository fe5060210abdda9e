"""The story suite: what a model answers to held-out questions of the story world, and how it tells held-out stories."""

from collections.abc import Iterator, Sequence

from tqdm import tqdm

from generation.generate import GREEDY, UNCHANGED, SamplingParams, generate_batch
from model import Llama
from runtime.errors import UserError
from stories.tasks import QUESTIONS, STORIES, Task, complete, names, repetition, task_at, unkind
from tokenizer import Tokenizer, instruction_text

BATCH = 32
ANSWER_TOKENS, STORY_TOKENS = 24, 220  # at most; the longest of the world have fewer


def story_suite(
    model: Llama,
    tokenizer: Tokenizer,
    questions: int = 240,
    stories: int = 240,
    seed: int = 0,
    temperature: float = 0.7,
) -> dict[str, float]:
    """Shares, from 0 to 1, over held-out tasks; exact-match answers are greedy, stories sampled with this seed.

    exact: answers equal to the expected one, and for each kind exact_<kind>; ended: stories that the model ends;
    on_subject: that name the asked-for character and object; complete: told to their end; kind: in which nobody is
    unkind; repetition: of what a story says again; words: of a story.
    """
    asked = held_out(tuple(QUESTIONS), questions, seed)
    right = [
        task.output == answer
        for task, (answer, _) in zip(
            asked, answers(model, tokenizer, asked, ANSWER_TOKENS, GREEDY), strict=True
        )
    ]
    result = {"exact": mean(right)}
    for kind in QUESTIONS:
        result[f"exact_{kind}"] = mean(
            [hit for task, hit in zip(asked, right, strict=True) if task.kind == kind]
        )
    wished = held_out(tuple(STORIES), stories, seed)
    params = SamplingParams(temperature=temperature, seed=seed)
    told = list(answers(model, tokenizer, wished, STORY_TOKENS, params))
    texts = [text for text, _ in told]
    subject = [
        names(text, task.character) and names(text, task.object)
        for text, task in zip(texts, wished, strict=True)
    ]
    return {
        **result,
        "on_subject": mean(subject),
        "ended": mean([ended for _, ended in told]),
        "complete": mean([ended and complete(text) for text, ended in told]),
        "kind": mean([not unkind(text) for text in texts]),
        "repetition": mean(map(repetition, texts)),
        "words": mean([len(text.split()) for text in texts]),
    }


def held_out(kinds: Sequence[str], count: int, seed: int) -> list[Task]:
    """Tasks of combinations and phrasings that training never sees, the kinds in turn."""
    return [task_at("val", n, seed, kinds[n % len(kinds)]) for n in range(count)]


def answers(
    model: Llama,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    max_new_tokens: int,
    params: SamplingParams = UNCHANGED,
) -> Iterator[tuple[str, bool]]:
    """The model's response to each task, and whether the model ended it; prompts of like length go together.

    Raises UserError where a task does not fit the model's context.
    """
    prompts = [
        tokenizer.render([{"role": "user", "content": instruction_text(task.instruction, task.input)}])[0]
        for task in tasks
    ]
    longest, context = max(map(len, prompts), default=0), model.args.block_size
    if longest >= context:
        raise UserError(
            f"the longest question has {longest} tokens, and the model's context holds {context}: it "
            "cannot be asked"
        )
    order = sorted(range(len(tasks)), key=lambda n: len(prompts[n]))
    found: dict[int, tuple[str, bool]] = {}
    for first in tqdm(range(0, len(order), BATCH), unit=" batches", leave=False, disable=None):
        group = order[first : first + BATCH]
        room = min(max_new_tokens, context - len(prompts[group[-1]]))
        columns = list(
            generate_batch(model, [prompts[n] for n in group], max_new_tokens, tokenizer.eos_id, params)
        )
        for place, n in enumerate(group):
            told = [column[place] for column in columns if column[place] is not None]
            found[n] = tokenizer.decode(told).strip(), len(told) < room
    return (found[n] for n in range(len(tasks)))


def mean(values: Sequence[float]) -> float:
    """The mean of some numbers; 0 of none."""
    values = list(values)
    return sum(values) / max(1, len(values))
