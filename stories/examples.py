"""Training rows of the story world: instructions, conversations, and pairs of a good and a bad answer.

    python -m stories.examples --count 3 [--split val] [--preferences]

A bad answer has one of five flaws and is as long as a good one, so that length does not say which is preferred.
"""

from runtime.requirements import require

if __name__ == "__main__":
    require()

import random
import re
from collections.abc import Callable
from dataclasses import replace

from runtime.command_line import Parser
from stories.task_tables import UNKIND_DEEDS, UNKIND_WORDS
from stories.tasks import (
    KINDS,
    MAX_WORDS,
    QUESTIONS,
    SENTENCE_GAP,
    STORIES,
    UNRELATED,
    Task,
    about_the_tale,
    draw_story,
    draw_weighted,
    follow_up,
    names,
    question_task,
    story_task,
    table_lines,
)
from stories.world import Tale, capital, story_at, words_of
from stories.world_tables import BOYS, GIRLS
from tokenization.prompt_template import instruction_text

# How often each flaw is drawn: the harder to see, the more often.
FLAWS = {"subject": 2, "unkind": 3, "repetitive": 1, "broken": 3, "wrong": 2}

# Share of unkind endings among the stories to imitate. Text by people is not all kind either; preferences undo it.
UNKIND_SHARE = 0.2

# Texts to pretrain on: a story is followed by all questions about it, and by this number about something else.
QUIZ_UNRELATED = 2

# Conversations: several questions about one story. The other rows of conversation_at begin with any task.
TASK_SHARE = 0.78
# Turns after such a task: after a story it is likely that another question comes, about the story or not.
NEXT_AFTER_STORY = 0.85
NEXT_AFTER_QUESTION = 0.15
ABOUT_STORY_SHARE = 0.35
MAX_TURN_WORDS = 165  # a longer conversation has no further turn
UNRELATED_SHARE = 0.3  # of the conversations about a story, one question is about something else
CONVERSATION_QUESTIONS = 5
CONVERSATION_WORDS = 118  # a longer story has one question less
# How often each question is part of a conversation: those that are harder to answer more often.
CONVERSATION_WEIGHTS = {
    "who": 1,
    "where": 8,
    "when": 4,
    "what": 4,
    "want": 5,
    "helper": 5,
    "end": 5,
    "lesson": 1,
}

OTHER_CHARACTER_SHARE = 0.5  # of the stories off the subject; the others are about another object
HOLE_WORDS = 6  # missing words in mid-sentence; with those around them, about a sentence is missing


def text_at(split: str, index: int, seed: int = 0) -> str:
    """Return a story to pretrain on, followed by questions and their answers, as in a reading book."""
    tale, text = story_at(split, index, seed)
    rng = random.Random(f"{seed}/{split}/{index}/text")
    kinds = about_the_tale(tale)
    rng.shuffle(kinds)
    kinds += [draw_weighted(UNRELATED, rng) for _ in range(QUIZ_UNRELATED)]
    tasks = [follow_up(kind, None, tale, split, rng) for kind in kinds]
    return "\n\n".join([text, *(f"{task.instruction}\n{task.output}" for task in tasks)])


def instruction_at(split: str, index: int, seed: int = 0) -> dict[str, str]:
    """Return a row to imitate in Alpaca's form: a task with its answer. Some of the stories end unkindly."""
    task, _ = _task_to_imitate(split, random.Random(f"{seed}/{split}/{index}/instruction"))
    return _alpaca(task)


def _task_to_imitate(split: str, rng: random.Random) -> tuple[Task, Tale | None]:
    """Draw a task of any kind; a story comes with its tale, unless that has got an unkind ending."""
    kind = draw_weighted(KINDS, rng)
    if kind not in STORIES:
        task, _ = question_task(kind, split, rng)
        return task, None

    task, tale = story_task(kind, split, rng)
    if rng.random() < UNKIND_SHARE:
        return replace(task, output=_with_flaw(_unkind, task, tale, split, rng)), None
    return task, tale


def _alpaca(task: Task) -> dict[str, str]:
    return {"instruction": task.instruction, "input": task.input, "output": task.output}


def conversation_at(split: str, index: int, seed: int = 0) -> dict:
    """Return a row to imitate: that of instruction_at, often with further turns, or questions about one story.

    A story is many tokens to read for one short answer. Several questions give several answers for the same tokens.
    """
    rng = random.Random(f"{seed}/{split}/{index}/conversation")
    if rng.random() < TASK_SHARE:
        task, tale = _task_to_imitate(split, random.Random(f"{seed}/{split}/{index}/instruction"))
        turns = _with_next_turns(task, tale, split, rng)
        if len(turns) == len(task.turns):
            return _alpaca(task)
        return {"messages": turns}

    tale, _, story = draw_story("who", split, rng)  # "who" can be a question about any tale
    count = CONVERSATION_QUESTIONS
    if len(story.split()) > CONVERSATION_WORDS:
        count -= 1
    kinds = _draw_questions(tale, count, rng)
    if rng.random() < UNRELATED_SHARE:
        kinds[rng.randrange(1, count)] = draw_weighted(UNRELATED, rng)

    turns = []
    for kind in kinds:
        task = follow_up(kind, None, tale, split, rng)
        if not turns:
            task = replace(task, input=story)  # the story is part of the first question
        turns += task.turns
    return {"messages": turns}


def _with_next_turns(task: Task, tale: Tale | None, split: str, rng: random.Random) -> list[dict[str, str]]:
    """Return the conversation that begins with a task: with a chance, questions follow, one after the other.

    They are about the story of `tale`, where there is one, or about something else.
    """
    turns = task.turns
    chance = NEXT_AFTER_QUESTION
    if task.kind in STORIES:
        chance = NEXT_AFTER_STORY
    kinds = []
    if tale:
        kinds = about_the_tale(tale)

    while rng.random() < chance and _num_words(turns) <= MAX_TURN_WORDS:
        kind = draw_weighted(UNRELATED, rng)
        if kinds and rng.random() < ABOUT_STORY_SHARE:
            kind = kinds.pop(rng.randrange(len(kinds)))
        turns += follow_up(kind, None, tale, split, rng).turns
    return turns


def _num_words(turns: list[dict[str, str]]) -> int:
    return sum(len(turn["content"].split()) for turn in turns)


def _draw_questions(tale: Tale, count: int, rng: random.Random) -> list[str]:
    """Draw kinds of questions about a tale by CONVERSATION_WEIGHTS, none of them twice."""
    kinds = about_the_tale(tale)

    # Weighted sample without replacement (Efraimidis and Spirakis, 2006): the largest of these keys.
    keys = {kind: rng.random() ** (1 / CONVERSATION_WEIGHTS[kind]) for kind in kinds}
    questions = sorted(kinds, key=keys.get)[-count:]
    rng.shuffle(questions)
    return questions


def _off_subject(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """Return the story with another character, or a story about another object."""
    text = task.output
    peers = {"girl": GIRLS, "boy": BOYS}.get(tale.kind, ())
    strangers = [name for name in peers if not names(task.input + text, name)]
    if strangers and rng.random() < OTHER_CHARACTER_SHARE:
        return re.sub(rf"\b{tale.character}\b", rng.choice(strangers), text)

    while names(text, task.object):
        other, _, text = draw_story(task.kind, split, rng)
        if other.kind == tale.kind and not names(text, tale.character):
            text = re.sub(rf"\b{other.character}\b", tale.character, text)
    return text


def _unkind(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """Return the story with an unkind ending of about the same length instead of its own."""
    slots = words_of(vars(tale))
    slots["Helper"] = capital(slots["helper"])
    ending = " ".join(rng.choice(table_lines(table)) for table in (UNKIND_DEEDS, UNKIND_WORDS)).format_map(
        slots
    )

    # The story may be cut where a sentence starts outside a quotation.
    text = task.output
    starts = [0]
    for gap in SENTENCE_GAP.finditer(text):
        if text.count('"', 0, gap.end()) % 2 == 0:
            starts.append(gap.end())

    ending_words = len(ending.split())
    cut = min(starts, key=lambda start: abs(len(text[start:].split()) - ending_words))
    return text[:cut] + ending


def _repetitive(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """Return the first half of the story, then its last one or two sentences again, up to the story's length."""
    text = task.output
    sentences = SENTENCE_GAP.split(text)
    kept = rng.randint(len(sentences) // 3, len(sentences) * 2 // 3) or 1
    loop = sentences[max(0, kept - rng.randint(1, 2)) : kept]

    missing_words = len(text.split()) - len(" ".join(sentences[:kept]).split())
    loop_words = len(" ".join(loop).split())
    rounds = max(1, round(missing_words / loop_words))
    return " ".join(sentences[:kept] + loop * rounds)


def _broken(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """Return the story without its last words, without words in its middle, or without one quotation mark."""
    text = task.output
    word_ends = [match.end() for match in re.finditer(r"\b[a-z]+(?= [a-z])", text)]  # inside sentences
    marks = [match.start() for match in re.finditer('"', text)]

    forms = ("end", "hole", "mark", "mark") if marks else ("end", "hole")
    form = rng.choice(forms)
    if form == "end":
        return text[: word_ends[-rng.randint(1, 3)]]
    if form == "hole":
        start = rng.randrange(len(word_ends) - HOLE_WORDS)
        return text[: word_ends[start]] + text[word_ends[start + HOLE_WORDS] :]
    mark = rng.choice(marks)
    return text[:mark] + text[mark + 1 :]


def _with_flaw(add_flaw: Callable, task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """Return the story with a flaw, no longer than stories may be."""
    while True:
        text = add_flaw(task, tale, split, rng)
        if len(task.input.split()) + len(text.split()) <= MAX_WORDS:
            return text


def preference_at(
    split: str, index: int, seed: int = 0, flaw: str | None = None
) -> dict[str, list[dict[str, str]]]:
    """Return a pair in UltraFeedback's form: the rejected answer has the flaw of FLAWS, or any of them."""
    rng = random.Random(f"{seed}/{split}/{index}/preference")
    flaw = flaw or draw_weighted(FLAWS, rng)
    if flaw == "wrong":
        task, rejected = question_task(draw_weighted(QUESTIONS, rng), split, rng)
    else:
        task, tale = story_task(draw_weighted(STORIES, rng), split, rng)
        story_flaws = {
            "subject": _off_subject,
            "unkind": _unkind,
            "repetitive": _repetitive,
            "broken": _broken,
        }
        rejected = _with_flaw(story_flaws[flaw], task, tale, split, rng)

    prompt = {"role": "user", "content": instruction_text(task.instruction, task.input)}
    return {
        "chosen": [prompt, {"role": "assistant", "content": task.output}],
        "rejected": [prompt, {"role": "assistant", "content": rejected}],
    }


def main() -> None:
    """Print some rows."""
    parser = Parser("Print rows of the story world.")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preferences", action="store_true", help="pairs of a chosen and a rejected answer")
    args = parser.parse_args()
    if args.count < 0:
        parser.error(f"--count {args.count} must be 0 or more")

    for index in range(args.count):
        if args.preferences:
            pair = preference_at(args.split, index, args.seed)
            parts = [pair["chosen"][0]["content"]]
            parts += [f"[{side}] {messages[1]['content']}" for side, messages in pair.items()]
        else:
            row = instruction_at(args.split, index, args.seed)
            parts = [instruction_text(row["instruction"], row["input"]), f"[output] {row['output']}"]
        print(*parts, "-" * 40, sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
