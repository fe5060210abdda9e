"""Tasks of the story world for fine-tuning: instructions with their answers, pairs of a good and a bad answer.

    python -m stories.tasks --count 3 [--split val] [--preferences]

A task is either a story to write, about a given character and a given object, or a question that has one exact answer.
Combinations (world.split_of) and, of each kind of task, some phrasings are held out for validation. A bad answer has
one of five flaws and is as long as a good one, so that length does not say which is preferred.

A function that draws something takes the random generator `rng`. The order of its draws is part of the data.
"""

import argparse
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from stories.task_tables import GROUPS, NUMBERS, OPPOSITES, PHRASINGS, PLURALS, UNKIND_DEEDS, UNKIND_WORDS
from stories.world import Tale, capital, sample_tale, tell, with_article, words_of
from stories.world_tables import BOYS, GIRLS
from tokenizer import instruction_text

# How often each kind is drawn. Questions without a story are short rows with many answers: they are drawn most.
STORIES = {"about": 7, "wish": 7, "continue": 7}
QUESTIONS = {"who": 1, "where": 1, "when": 1, "what": 1, "want": 1, "helper": 1, "end": 1, "lesson": 1, "opposite": 12,
             "add": 14, "take": 24, "list": 70}  # fmt: skip
KINDS = STORIES | QUESTIONS

# How often each flaw is drawn: the harder to see, the more often.
FLAWS = {"subject": 2, "unkind": 3, "repetitive": 1, "broken": 3, "wrong": 2}

# Share of unkind endings among the stories to imitate. Text by people is not all kind either; preferences undo it.
UNKIND_SHARE = 0.2

# Words of a story, read or written. With 1.25 tokens a word, prompt, story and answer stay below 256 tokens.
MAX_WORDS = 140
BRIEF_TRIES = 5  # brief tellings that are tried before another tale is drawn

# Conversations: several questions about one story. The other rows of conversation_at are single instructions.
SINGLE_SHARE = 0.72
CONVERSATION_QUESTIONS = 5
CONVERSATION_WORDS = 118  # a longer story has one question less
# How often each question is part of a conversation: those that are harder to answer more often.
CONVERSATION_WEIGHTS = {
    "who": 1,
    "where": 3,
    "when": 4,
    "what": 2,
    "want": 2,
    "helper": 5,
    "end": 3,
    "lesson": 2,
}

OTHER_CHARACTER_SHARE = 0.5  # of the stories off the subject; the others are about another object
WRONG_BELOW_SHARE = 0.5  # of the wrong counts: one too few instead of one too many
MAX_COUNT = 6  # the largest number that a count, right or wrong, may be
HOLE_WORDS = 6  # missing words in mid-sentence; with those around them, about a sentence is missing
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
    """Instruction in Alpaca's form; `character` and `object` are set where the task is to write a story about them."""

    kind: str
    instruction: str
    input: str
    output: str
    character: str = ""
    object: str = ""


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
    for line in _lines(UNKIND_DEEDS) + _lines(UNKIND_WORDS):
        pieces |= {piece.strip() for piece in re.split(r"{\w+}", line)}
    return re.compile("|".join(re.escape(piece) for piece in pieces if len(piece) >= MIN_UNKIND_PIECE))


@cache
def _lines(table: str) -> tuple[str, ...]:
    """Split a table into its lines."""
    return tuple(table.strip().split("\n"))


@cache
def _opposites() -> dict[str, str]:
    """Map each word to its opposite, in both directions."""
    pairs = [pair.split() for pair in OPPOSITES.split(",")]
    return {a: b for a, b in pairs} | {b: a for a, b in pairs}


def _sentence(words: str) -> str:
    """Return the words as a sentence."""
    return f"{capital(words)}."


def _series(words: list[str]) -> str:
    """Return "a, b and c"."""
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _draw(weights: dict[str, int], rng: random.Random) -> str:
    """Draw a name by its weight."""
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _instruction(kind: str, split: str, slots: dict[str, str], rng: random.Random) -> str:
    """Return one of the phrasings of a kind of task, its slots filled."""
    return rng.choice(_lines(PHRASINGS[split][kind])).format_map(slots)


def _tell_in_parts(kind: str, tale: Tale, rng: random.Random) -> tuple[str, str] | None:
    """Return a story as (paragraph to continue, rest), the first "" for other kinds; None where all are too long.

    A story to write is told in full if that is short enough, a story to read is always brief.
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


def _draw_story(kind: str, split: str, rng: random.Random) -> tuple[Tale, str, str]:
    """Draw a tale that the kind of task can be about, and tell it in parts (see _tell_in_parts)."""
    while True:
        tale = sample_tale(split, rng)
        if kind == "wish" and not names(tale.wish, tale.object):
            continue
        if kind == "helper" and tale.plot not in HELPING_PLOTS:
            continue

        if parts := _tell_in_parts(kind, tale, rng):
            return tale, *parts


def _story_task(kind: str, split: str, rng: random.Random) -> tuple[Task, Tale]:
    """Draw a story to write, and its facts."""
    tale, beginning, rest = _draw_story(kind, split, rng)
    slots = words_of(vars(tale)) | {"a_kind": with_article(tale.kind)}
    instruction = _instruction(kind, split, slots, rng)
    return Task(kind, instruction, beginning, rest, tale.character, tale.object), tale


def _reading(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """Draw a question about a story, and a wrong answer to it: the right one of another tale."""
    tale, _, text = _draw_story(kind, split, rng)
    answer = ANSWERS[kind](tale)
    task = Task(kind, _instruction(kind, split, words_of(vars(tale)), rng), text, _sentence(answer))

    wrong = answer
    while wrong == answer:
        wrong = ANSWERS[kind](sample_tale(split, rng))
    return task, _sentence(wrong)


def _opposite(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """Draw a question for the opposite of a word, and a wrong answer to it."""
    opposites = _opposites()
    word, wrong = rng.sample(tuple(opposites), 2)
    while wrong == opposites[word]:
        wrong = rng.choice(tuple(opposites))

    instruction = _instruction(kind, split, {"word": word}, rng)
    return Task(kind, instruction, "", _sentence(opposites[word])), _sentence(wrong)


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
    task = Task(kind, _instruction(kind, split, slots, rng), "", _sentence(_counted(result, tale.object)))
    return task, _sentence(_counted(wrong, tale.object))


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
    task = Task(kind, _instruction(kind, split, slots, rng), "", _sentence(_series(right)))
    return task, _sentence(_series(wrong))


def _question(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """Draw a question of the kind, and a wrong answer to it."""
    without_story = {"opposite": _opposite, "add": _counting, "take": _counting, "list": _listing}
    draw_question = without_story.get(kind, _reading)
    return draw_question(kind, split, rng)


def task_at(split: str, index: int, seed: int = 0, kind: str | None = None) -> Task:
    """Return a task, of the kind or of any, which depends on nothing but (seed, split, index, kind)."""
    rng = random.Random(f"{seed}/{split}/{index}/task")
    kind = kind or _draw(KINDS, rng)
    if kind in STORIES:
        return _story_task(kind, split, rng)[0]
    return _question(kind, split, rng)[0]


def instruction_at(split: str, index: int, seed: int = 0) -> dict[str, str]:
    """Return a row to imitate in Alpaca's form: a task with its answer. Some of the stories end unkindly."""
    rng = random.Random(f"{seed}/{split}/{index}/instruction")
    kind = _draw(KINDS, rng)
    if kind in STORIES:
        task, tale = _story_task(kind, split, rng)
        if rng.random() < UNKIND_SHARE:
            task = replace(task, output=_with_flaw(_unkind, task, tale, split, rng))
    else:
        task, _ = _question(kind, split, rng)
    return {"instruction": task.instruction, "input": task.input, "output": task.output}


def conversation_at(split: str, index: int, seed: int = 0) -> dict:
    """Return a row to imitate: that of instruction_at, or several questions about one story as messages.

    A story is many tokens to read for one short answer. Several questions give several answers for the same tokens.
    """
    rng = random.Random(f"{seed}/{split}/{index}/conversation")
    if rng.random() < SINGLE_SHARE:
        return instruction_at(split, index, seed)

    tale, _, story = _draw_story("who", split, rng)  # "who" can be a question about any tale
    count = CONVERSATION_QUESTIONS
    if len(story.split()) > CONVERSATION_WORDS:
        count -= 1

    messages = []
    for kind in _draw_questions(tale, count, rng):
        context = "" if messages else story  # the story is part of the first question
        question = instruction_text(_instruction(kind, split, words_of(vars(tale)), rng), context)
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": _sentence(ANSWERS[kind](tale))},
        ]
    return {"messages": messages}


def _draw_questions(tale: Tale, count: int, rng: random.Random) -> list[str]:
    """Draw kinds of questions about a tale by CONVERSATION_WEIGHTS, none of them twice."""
    kinds = [kind for kind in CONVERSATION_WEIGHTS if kind != "helper" or tale.plot in HELPING_PLOTS]

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
        other, _, text = _draw_story(task.kind, split, rng)
        if other.kind == tale.kind and not names(text, tale.character):
            text = re.sub(rf"\b{other.character}\b", tale.character, text)
    return text


def _unkind(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """Return the story with an unkind ending of about the same length instead of its own."""
    slots = words_of(vars(tale))
    slots["Helper"] = capital(slots["helper"])
    ending = " ".join(rng.choice(_lines(table)) for table in (UNKIND_DEEDS, UNKIND_WORDS)).format_map(slots)

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
    flaw = flaw or _draw(FLAWS, rng)
    if flaw == "wrong":
        task, rejected = _question(_draw(QUESTIONS, rng), split, rng)
    else:
        task, tale = _story_task(_draw(STORIES, rng), split, rng)
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
    parser = argparse.ArgumentParser(description="Print tasks of the story world.")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preferences", action="store_true", help="pairs of a chosen and a rejected answer")
    args = parser.parse_args()

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
