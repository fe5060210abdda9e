"""Tasks of the story world: instructions with their answers, and measures of the stories that answer them.

A task is either a story to write, about a given character and a given object, or a question that has one exact answer.
Combinations (world.split_of) and, of each kind of task, some phrasings are held out for validation. examples.py makes
training rows of tasks.

A function that draws something takes the random generator `rng`. The order of its draws is part of the data.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from stories.task_tables import GROUPS, NUMBERS, OPPOSITES, PHRASINGS, PLURALS, UNKIND_DEEDS, UNKIND_WORDS
from stories.world import Tale, capital, sample_tale, tell, with_article, words_of
from stories.world_tables import BOYS, GIRLS
from tokenization.prompt_template import instruction_text

# How often each kind is drawn. Questions without a story are short rows with many answers: they are drawn most.
STORIES = {"about": 7, "wish": 7, "continue": 7}
QUESTIONS = {"who": 1, "where": 1, "when": 1, "what": 1, "want": 1, "helper": 1, "end": 1, "lesson": 1, "opposite": 12,
             "add": 14, "take": 24, "list": 70}  # fmt: skip
KINDS = STORIES | QUESTIONS

# Questions without a story, and how often each is drawn for a later turn.
UNRELATED = {kind: QUESTIONS[kind] for kind in ("opposite", "add", "take", "list")}

# Words of a story, read or written. With 1.25 tokens a word, prompt, story and answer stay below 256 tokens.
MAX_WORDS = 140
BRIEF_TRIES = 5  # brief tellings that are tried before another tale is drawn

WRONG_BELOW_SHARE = 0.5  # of the wrong counts: one too few instead of one too many
MAX_COUNT = 6  # the largest number that a count, right or wrong, may be
MIN_UNKIND_PIECE = 13  # characters; a shorter piece of an unkind ending may be part of a kind story
HELPING_PLOTS = ("lost", "stuck", "broken", "dark", "learn", "heavy")  # in which somebody helps
SENTENCE_GAP = re.compile(r'(?<=[.!?"])\s+(?=[A-Z"])')

ANSWERS: dict[str, Callable[[Tale], str]] = {
    "who": lambda tale: tale.character,
    "where": lambda tale: tale.at,
    "when": lambda tale: f"on {with_article(tale.weather)} {tale.time}",
    "what": lambda tale: with_article(f"{tale.adjective} {tale.object}"),
    "want": lambda tale: tale.wish,
    "helper": lambda tale: words_of(vars(tale))["helper"],
    "end": lambda tale: f"{tale.character} was {tale.end_feeling}",
    "lesson": lambda tale: tale.lesson,
}


@dataclass(frozen=True)
class Task:
    """Instruction in Alpaca's form; `character` and `object` are set where the task is to write a story about them.

    `story_task` is the story to write, with the text that was written, where the instruction is the second turn.
    """

    kind: str
    instruction: str
    input: str
    output: str
    character: str = ""
    object: str = ""
    story_task: "Task | None" = None

    @property
    def turns(self) -> list[dict[str, str]]:
        """Return the conversation with its answers."""
        earlier = []
        if self.story_task:
            earlier = self.story_task.turns
        question = instruction_text(self.instruction, self.input)
        return [
            *earlier,
            {"role": "user", "content": question},
            {"role": "assistant", "content": self.output},
        ]


def names(text: str, words: str) -> bool:
    """Check whether the text names a character or a thing, not as a part of other words."""
    return re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None


def repetition(text: str) -> float:
    """Return the share of sentences, 0 to 1, that the text has said before."""
    sentences = SENTENCE_GAP.split(text.strip())
    return 1 - len(set(sentences)) / len(sentences)


def complete(text: str) -> bool:
    """Check whether the text ends where a sentence ends, with every quotation closed."""
    ends_sentence = text.rstrip().endswith((".", "!", "?", '"'))
    quotes_closed = text.count('"') % 2 == 0
    return ends_sentence and quotes_closed


def unkind(text: str) -> bool:
    """Check whether somebody in the text does or says one of the unkind things of the story world."""
    return _unkind_pattern().search(text) is not None


@cache
def _unkind_pattern() -> re.Pattern:
    """Return a pattern of the pieces of unkind endings between their slots."""
    pieces = set()
    for line in table_lines(UNKIND_DEEDS) + table_lines(UNKIND_WORDS):
        pieces |= {piece.strip() for piece in re.split(r"{\w+}", line)}
    return re.compile("|".join(re.escape(piece) for piece in pieces if len(piece) >= MIN_UNKIND_PIECE))


@cache
def table_lines(table: str) -> tuple[str, ...]:
    """Split a table into its lines."""
    return tuple(table.strip().split("\n"))


@cache
def _opposites() -> dict[str, str]:
    """Map each word to its opposite, in both directions."""
    pairs = [pair.split() for pair in OPPOSITES.split(",")]
    return {a: b for a, b in pairs} | {b: a for a, b in pairs}


def sentence(words: str) -> str:
    """Return the words as a sentence."""
    return f"{capital(words)}."


def _series(words: list[str]) -> str:
    """Return "a, b and c"."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def draw_weighted(weights: dict[str, int], rng: random.Random) -> str:
    """Draw a name by its weight."""
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def phrase_instruction(kind: str, split: str, slots: dict[str, str], rng: random.Random) -> str:
    """Return one of the phrasings of a kind of task, its slots filled."""
    return rng.choice(table_lines(PHRASINGS[split][kind])).format_map(slots)


def _tell_in_parts(kind: str, tale: Tale, rng: random.Random) -> tuple[str, str] | None:
    """Return a story as (paragraph to continue, rest), the first "" for other kinds; None where all are too long.

    A story to write is complete if that is short enough; a story to read is always brief.
    """
    brief_of_tries = [kind not in STORIES] + [True] * BRIEF_TRIES
    for brief in brief_of_tries:
        text = tell(tale, rng, brief)

        beginning, rest = "", text
        if kind == "continue":
            beginning, gap, rest = text.partition("\n\n")
            if not gap:
                continue

        short_enough = len(text.split()) <= MAX_WORDS
        if short_enough and names(rest, tale.character) and names(rest, tale.object):
            return beginning, rest
    return None


def draw_story(kind: str, split: str, rng: random.Random) -> tuple[Tale, str, str]:
    """Draw a tale that the kind of task can be about, and tell it in parts (see _tell_in_parts)."""
    while True:
        tale = sample_tale(split, rng)
        if kind == "wish" and not names(tale.wish, tale.object):
            continue
        if kind == "helper" and tale.plot not in HELPING_PLOTS:
            continue

        if parts := _tell_in_parts(kind, tale, rng):
            return tale, *parts


def story_task(kind: str, split: str, rng: random.Random) -> tuple[Task, Tale]:
    """Draw a story to write, and its facts."""
    tale, beginning, rest = draw_story(kind, split, rng)
    slots = words_of(vars(tale)) | {"a_kind": with_article(tale.kind)}
    instruction = phrase_instruction(kind, split, slots, rng)
    return Task(kind, instruction, beginning, rest, tale.character, tale.object), tale


def _reading(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """Draw a question about a story, and a wrong answer to it: the right one of another tale."""
    tale, _, text = draw_story(kind, split, rng)
    answer = ANSWERS[kind](tale)
    task = Task(kind, phrase_instruction(kind, split, words_of(vars(tale)), rng), text, sentence(answer))

    wrong = answer
    while wrong == answer:
        wrong = ANSWERS[kind](sample_tale(split, rng))
    return task, sentence(wrong)


def _opposite(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """Draw a question for the opposite of a word, and a wrong answer to it."""
    opposites = _opposites()
    word, wrong = rng.sample(tuple(opposites), 2)
    while wrong == opposites[word]:
        wrong = rng.choice(tuple(opposites))

    instruction = phrase_instruction(kind, split, {"word": word}, rng)
    return Task(kind, instruction, "", sentence(opposites[word])), sentence(wrong)


def _counted(count: int, thing: str) -> str:
    """Return the number in words and the thing in the singular or the plural."""
    if count != 1:
        thing = PLURALS.get(thing, thing + "s")
    return f"{NUMBERS[count]} {thing}"


def _counting(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """Draw a sum or a difference of things, from one to five, and a wrong answer to it."""
    tale = sample_tale(split, rng)
    small, large = sorted(rng.sample(range(1, MAX_COUNT), 2))
    if kind == "take":
        start, change, result = large, small, large - small
    else:
        start, change, result = large - small, small, large

    slots = words_of(vars(tale))
    _, plural = _counted(0, tale.object).split(" ", 1)
    slots |= {"things": plural, "a_things": _counted(start, tale.object),
              "b": NUMBERS[change], "b_things": _counted(change, tale.object)}  # fmt: skip
    slots |= {"Helper": capital(slots["helper"]), "A_things": capital(slots["a_things"])}

    wrong = _wrong_count(result, rng)
    task = Task(
        kind, phrase_instruction(kind, split, slots, rng), "", sentence(_counted(result, tale.object))
    )
    return task, sentence(_counted(wrong, tale.object))


def _wrong_count(result: int, rng: random.Random) -> int:
    """Return a number next to the result, at least 1 and at most MAX_COUNT."""
    if result > 1 and rng.random() < WRONG_BELOW_SHARE:
        return result - 1
    if result < MAX_COUNT:
        return result + 1
    return result - 1


def _listing(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """Draw a question for the two words that belong to a group, in the order given, and a wrong answer to it."""
    group, other_group = rng.sample(tuple(GROUPS), 2)
    members = rng.sample(GROUPS[group].split(), 2)
    strangers = rng.sample(GROUPS[other_group].split(), rng.choice((1, 2)))

    words = members + strangers
    rng.shuffle(words)
    right = [word for word in words if word in members]
    wrong = rng.sample(words, 2)
    while set(wrong) == set(right):
        wrong = rng.sample(words, 2)

    slots = {"what": group, "items": _series(words), "number": "two", "name": rng.choice(GIRLS + BOYS)}
    task = Task(kind, phrase_instruction(kind, split, slots, rng), "", sentence(_series(right)))
    return task, sentence(_series(wrong))


def question_task(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """Draw a question of the kind, and a wrong answer to it."""
    without_story = {"opposite": _opposite, "add": _counting, "take": _counting, "list": _listing}
    draw_question = without_story.get(kind, _reading)
    return draw_question(kind, split, rng)


def follow_up(kind: str, story: Task | None, tale: Tale | None, split: str, rng: random.Random) -> Task:
    """Draw the turn after a story: a question about it, or a question of UNRELATED."""
    if kind in UNRELATED:
        task, _ = question_task(kind, split, rng)
        return replace(task, story_task=story)

    instruction = phrase_instruction(kind, split, words_of(vars(tale)), rng)
    return Task(kind, instruction, "", sentence(ANSWERS[kind](tale)), story_task=story)


def about_the_tale(tale: Tale) -> list[str]:
    """Return the kinds of questions that a story of the tale answers."""
    return [kind for kind in ANSWERS if kind != "helper" or tale.plot in HELPING_PLOTS]


def second_turn_at(split: str, index: int, seed: int = 0, about_story: bool = False) -> Task:
    """Return a question after a story: about it, or one of UNRELATED. It depends on the arguments alone."""
    rng = random.Random(f"{seed}/{split}/{index}/{about_story}/second turn")
    story, tale = story_task(draw_weighted(STORIES, rng), split, rng)
    kinds = tuple(UNRELATED)
    if about_story:
        kinds = about_the_tale(tale)
    return follow_up(kinds[index % len(kinds)], story, tale, split, rng)


def task_at(split: str, index: int, seed: int = 0, kind: str | None = None) -> Task:
    """Return a task, of the kind or of any, which depends on nothing but (seed, split, index, kind)."""
    rng = random.Random(f"{seed}/{split}/{index}/task")
    kind = kind or draw_weighted(KINDS, rng)
    if kind in STORIES:
        return story_task(kind, split, rng)[0]
    return question_task(kind, split, rng)[0]
