"""Story suite: held-out questions with exact answers, and measures of held-out stories that a model writes."""

from collections.abc import Iterable, Iterator, Sequence

import torch.distributed as dist

from generation.generate import GREEDY, UNCHANGED, SamplingParams, generate_batch
from model import Llama
from runtime.distributed import gather_objects
from runtime.errors import UserError
from runtime.progress import track
from stories.tasks import (
    QUESTIONS,
    STORIES,
    UNRELATED,
    Task,
    complete,
    names,
    repetition,
    second_turn_at,
    task_at,
    unkind,
)
from tokenizer import Tokenizer

BATCH = 60  # prompts that are generated for together
SECOND_TURN_SHARE = 2  # one second turn for this many questions

# The most new tokens; all answers and stories of the story world have fewer.
ANSWER_TOKENS = 24
STORY_TOKENS = 220


def story_suite(
    model: Llama,
    tokenizer: Tokenizer,
    questions: int = 240,
    stories: int = 240,
    seed: int = 0,
    temperature: float = 0.7,
) -> dict[str, float]:
    """Return the measures of question_scores, second_turn_scores and story_scores on held-out tasks.

    Answers are greedy; stories are sampled at this temperature and seed.
    """
    question_tasks = held_out(tuple(QUESTIONS), questions, seed)
    replies = answers(model, tokenizer, question_tasks, ANSWER_TOKENS, GREEDY)
    scores = question_scores(question_tasks, [text for text, _ in replies])

    second_turns = held_out_second_turns(questions // SECOND_TURN_SHARE, seed)
    replies = answers(model, tokenizer, second_turns, ANSWER_TOKENS, GREEDY)
    scores |= second_turn_scores(second_turns, [text for text, _ in replies])

    story_tasks = held_out(tuple(STORIES), stories, seed)
    params = SamplingParams(temperature=temperature, seed=seed)
    replies = list(answers(model, tokenizer, story_tasks, STORY_TOKENS, params))
    return scores | story_scores(story_tasks, replies)


def question_scores(tasks: Sequence[Task], texts: Sequence[str]) -> dict[str, float]:
    """Return "exact", the share of texts equal to the expected answer, and "exact_<kind>" for each kind of question."""
    hits = [task.output == text for task, text in zip(tasks, texts, strict=True)]
    scores = {"exact": mean(hits)}

    for kind in QUESTIONS:
        scores[f"exact_{kind}"] = mean(
            hit for task, hit in zip(tasks, hits, strict=True) if task.kind == kind
        )
    return scores


def second_turn_scores(tasks: Sequence[Task], texts: Sequence[str]) -> dict[str, float]:
    """Return "exact_second_turn": the share of texts equal to the expected answer, in a turn after a story.

    Half of the questions are about the story ("exact_second_turn_story"), half are about something else
    ("exact_second_turn_other").
    """
    hits = [task.output == text for task, text in zip(tasks, texts, strict=True)]
    about_something_else = [task.kind in UNRELATED for task in tasks]
    story_hits = [hit for hit, other in zip(hits, about_something_else, strict=True) if not other]
    other_hits = [hit for hit, other in zip(hits, about_something_else, strict=True) if other]
    return {
        "exact_second_turn": mean(hits),
        "exact_second_turn_story": mean(story_hits),
        "exact_second_turn_other": mean(other_hits),
    }


def story_scores(tasks: Sequence[Task], replies: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Return measures of stories, each given as (text, ended by the model).

    | measure    | meaning                                                                   |
    |------------|---------------------------------------------------------------------------|
    | on_subject | share of stories that name the character and the object of their task     |
    | ended      | share of stories that the model ends before the limit                     |
    | complete   | share that the model ends after a complete sentence, with quotes closed  |
    | kind       | share of stories in which nobody is unkind                                |
    | repetition | mean share of sentences that repeat an earlier one of their story         |
    | words      | mean number of words                                                      |
    """
    texts = [text for text, _ in replies]
    on_subject = [
        names(text, task.character) and names(text, task.object)
        for text, task in zip(texts, tasks, strict=True)
    ]
    return {
        "on_subject": mean(on_subject),
        "ended": mean(ended for _, ended in replies),
        "complete": mean(ended and complete(text) for text, ended in replies),
        "kind": mean(not unkind(text) for text in texts),
        "repetition": mean(repetition(text) for text in texts),
        "words": mean(len(text.split()) for text in texts),
    }


def held_out(kinds: Sequence[str], count: int, seed: int) -> list[Task]:
    """Return tasks of combinations and phrasings that training never sees; the kinds alternate."""
    return [task_at("val", index, seed, kinds[index % len(kinds)]) for index in range(count)]


def held_out_second_turns(count: int, seed: int) -> list[Task]:
    """Return questions after a held-out story, in turn about the story and about something else."""
    return [second_turn_at("val", index // 2, seed, about_story=index % 2 == 0) for index in range(count)]


def answers(
    model: Llama,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    max_new_tokens: int,
    params: SamplingParams = UNCHANGED,
) -> Iterator[tuple[str, bool]]:
    """Yield (the model's response, ended by the model) for each task; prompts of like length share a batch.

    The ranks share the batches, and each yields all responses, the same on any number of ranks.

    Raises UserError where a task does not fit the model's context.
    """
    prompts = [_prompt_ids(tokenizer, task) for task in tasks]
    context = model.args.block_size
    longest = max(map(len, prompts), default=0)
    if longest >= context:
        raise UserError(
            f"the longest question has {longest} tokens, and the model's context holds {context}: evaluate a "
            "model with a larger --block_size"
        )

    by_length = sorted(range(len(tasks)), key=lambda index: len(prompts[index]))
    rank = 0
    world_size = 1
    if dist.is_initialized():
        rank = dist.get_rank()
        world_size = dist.get_world_size()
    batches = [by_length[first : first + BATCH] for first in range(0, len(by_length), BATCH)]
    replies: dict[int, tuple[str, bool]] = {}
    for indices in track(batches[rank::world_size], "answering", "batches", enabled=rank == 0):
        batch = [prompts[index] for index in indices]
        columns = list(generate_batch(model, batch, max_new_tokens, tokenizer.stop_ids, params))

        # A response that fills the room was not ended by the model. The last prompt is the longest.
        room = min(max_new_tokens, context - len(batch[-1]))
        for row, index in enumerate(indices):
            output_ids = [column[row] for column in columns if column[row] is not None]
            replies[index] = (tokenizer.decode(output_ids).strip(), len(output_ids) < room)

    for replies_of_rank in gather_objects(replies):
        replies |= replies_of_rank
    for index in range(len(tasks)):
        yield replies[index]


def _prompt_ids(tokenizer: Tokenizer, task: Task) -> list[int]:
    """Return the token ids of a task as a conversation that the model continues."""
    *messages, _ = task.turns  # all but the expected answer
    ids, _ = tokenizer.render(messages)
    return ids


def mean(values: Iterable[float]) -> float:
    """Return the mean of some numbers; 0 of none."""
    values = list(values)
    return sum(values) / max(1, len(values))
