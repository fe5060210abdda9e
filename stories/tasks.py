"""What the story world asks for after pretraining: instructions with their answers, pairs of a good and a bad answer.

    python -m stories.tasks --count 3 [--split val] [--preferences]

A task is either a story to write, about a given character and a given object, or a question that has one exact answer.
Held out for validation are combinations (story_world.split_of) and, of each kind of task, some phrasings. A bad answer
has one of five flaws and is as long as a good one, so that preferring the good one is no matter of length.
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

# How often each kind is drawn. A question without a story is the shortest row, and has the most to be learned from it.
STORIES = {"about": 7, "wish": 7, "continue": 7}
QUESTIONS = {"who": 1, "where": 1, "when": 1, "what": 1, "want": 1, "helper": 1, "end": 1, "lesson": 1, "opposite": 12,
             "add": 14, "take": 24, "list": 70}  # fmt: skip
KINDS = STORIES | QUESTIONS
FLAWS = {
    "subject": 2,
    "unkind": 3,
    "repetitive": 1,
    "broken": 3,
    "wrong": 2,
}  # and how often, the hardest to see most
UNKIND_SHARE = (
    0.2  # of the stories to imitate: what people write is not all kind, and preferences teach against it
)
# Of a story, read or written: at 1.25 tokens a word, a prompt with its story and its answer stays below 256 tokens.
MAX_WORDS = 140
TALKED_WORDS = 118  # of a story that is asked about five times; a longer one is asked about four times
# How likely a question is to be among them: those that are harder to answer come more often.
TALKED = {"who": 1, "where": 3, "when": 4, "what": 2, "want": 2, "helper": 5, "end": 3, "lesson": 2}
HOLE = 6  # words in mid-sentence; with those around them, about a sentence is missing
TELLING = 13  # characters at least of what unkind endings alone say
BRIEF_TRIES = 5  # tellings that are too long before the tale is given up
HELPING_PLOTS = ("lost", "stuck", "broken", "dark", "learn", "heavy")
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
SENTENCE_GAP = re.compile(r'(?<=[.!?"])\s+(?=[A-Z"])')


@dataclass(frozen=True)
class Task:
    """An instruction in Alpaca's form; `character` and `object` are set where a story about them is asked for."""

    kind: str
    instruction: str
    input: str
    output: str
    character: str = ""
    object: str = ""


def names(text: str, words: str) -> bool:
    """Whether the text names a character or a thing, as whole words."""
    return re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None


def repetition(text: str) -> float:
    """The share of sentences, 0 to 1, that stand in the text once before."""
    sentences = SENTENCE_GAP.split(text.strip())
    return 1 - len(set(sentences)) / len(sentences)


def complete(text: str) -> bool:
    """Whether the text ends where a sentence ends, with every quotation closed."""
    return text.rstrip().endswith((".", "!", "?", '"')) and text.count('"') % 2 == 0


@cache
def _unkind_pieces() -> re.Pattern:
    """What the unkind endings say, between the words that change from story to story."""
    lines = _lines(UNKIND_DEEDS) + _lines(UNKIND_WORDS)
    pieces = {piece.strip() for line in lines for piece in re.split(r"{\w+}", line)}
    return re.compile("|".join(re.escape(piece) for piece in pieces if len(piece) >= TELLING))


def unkind(text: str) -> bool:
    """Whether somebody in the text does or says one of the unkind things of the story world."""
    return _unkind_pieces().search(text) is not None


@cache
def _lines(table: str) -> tuple[str, ...]:
    return tuple(table.strip().split("\n"))


@cache
def _opposites() -> dict[str, str]:
    """Map each word to its opposite, in both directions."""
    pairs = [pair.split() for pair in OPPOSITES.split(",")]
    return {a: b for a, b in pairs} | {b: a for a, b in pairs}


def _instruction(kind: str, split: str, slots: dict[str, str], rng: random.Random) -> str:
    return rng.choice(_lines(PHRASINGS[split][kind])).format_map(slots)


def _told(kind: str, tale: Tale, rng: random.Random) -> tuple[str, str] | None:
    """A telling in two parts: the first paragraph if it is to be continued, and the rest; None if too long.

    Full tellings are for writing only, and where one is too long, short_error ones are tried.
    """
    for short_error in (kind not in STORIES, *[True] * BRIEF_TRIES):
        text = tell(tale, rng, short_error)
        beginning, gap, rest = text.partition("\n\n") if kind == "continue" else ("", " ", text)
        if (
            gap
            and len(text.split()) <= MAX_WORDS
            and names(rest, tale.character)
            and names(rest, tale.object)
        ):
            return beginning, rest
    return None


def _tale(kind: str, split: str, rng: random.Random) -> tuple[Tale, str, str]:
    """A tale that the kind of task can be about, and a telling of it in two parts."""
    while True:
        tale = sample_tale(split, rng)
        if (
            kind == "wish"
            and not names(tale.wish, tale.object)
            or kind == "helper"
            and tale.plot not in HELPING_PLOTS
        ):
            continue
        if told := _told(kind, tale, rng):
            return tale, *told


def _story_task(kind: str, split: str, rng: random.Random) -> tuple[Task, Tale]:
    """A story to write, and its facts."""
    tale, beginning, rest = _tale(kind, split, rng)
    slots = words_of(vars(tale)) | {"a_kind": with_article(tale.kind)}
    return Task(
        kind, _instruction(kind, split, slots, rng), beginning, rest, tale.character, tale.object
    ), tale


def _reading(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """A question about a story, and a wrong answer to it."""
    answer = ANSWERS[kind]
    tale, _, text = _tale(kind, split, rng)
    task = Task(kind, _instruction(kind, split, words_of(vars(tale)), rng), text, capital(answer(tale)) + ".")
    other = tale
    while answer(other) == answer(tale):
        other = sample_tale(split, rng)
    return task, capital(answer(other)) + "."


def _opposite(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """A question for the opposite of a word, and a wrong answer to it."""
    word, other = rng.sample(tuple(_opposites()), 2)
    while other == _opposites()[word]:
        other = rng.choice(tuple(_opposites()))
    instruction = _instruction(kind, split, {"word": word}, rng)
    return Task(kind, instruction, "", capital(_opposites()[word]) + "."), capital(other) + "."


def _counted(count: int, thing: str) -> str:
    """The number in words and the thing in the singular or the plural."""
    return f"{NUMBERS[count]} {thing if count == 1 else PLURALS.get(thing, thing + 's')}"


def _counting(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """A sum or a difference of things, from one to five, and a wrong answer to it."""
    tale = sample_tale(split, rng)
    few, many = sorted(rng.sample(range(1, 6), 2))
    start, change, result = (many, few, many - few) if kind == "take" else (many - few, few, many)
    slots = words_of(vars(tale))
    slots |= {"things": _counted(0, tale.object).partition(" ")[2], "a_things": _counted(start, tale.object),
              "b": NUMBERS[change], "b_things": _counted(change, tale.object)}  # fmt: skip
    slots |= {"Helper": capital(slots["helper"]), "A_things": capital(slots["a_things"])}
    wrong = result - 1 if result > 1 and rng.random() < 0.5 else result + 1 if result < 6 else result - 1
    task = Task(kind, _instruction(kind, split, slots, rng), "", capital(_counted(result, tale.object)) + ".")
    return task, capital(_counted(wrong, tale.object)) + "."


def _series(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _listing(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """A question for the two words that belong to a group, in the order given, and a wrong answer to it."""
    group, other = rng.sample(tuple(GROUPS), 2)
    members, strangers = (
        rng.sample(GROUPS[group].split(), 2),
        rng.sample(GROUPS[other].split(), rng.choice((1, 2))),
    )
    words = members + strangers
    rng.shuffle(words)
    belonging = [word for word in words if word in members]
    wrong = rng.sample(words, 2)
    while sorted(wrong) == sorted(belonging):
        wrong = rng.sample(words, 2)
    slots = {"what": group, "items": _series(words), "number": "two", "name": rng.choice(GIRLS + BOYS)}
    task = Task(kind, _instruction(kind, split, slots, rng), "", capital(_series(belonging)) + ".")
    return task, capital(_series(wrong)) + "."


def _question(kind: str, split: str, rng: random.Random) -> tuple[Task, str]:
    """A question of the kind, and a wrong answer to it."""
    ask = {"opposite": _opposite, "add": _counting, "take": _counting, "list": _listing}.get(kind, _reading)
    return ask(kind, split, rng)


def _draw(kinds: dict[str, int], rng: random.Random) -> str:
    return rng.choices(tuple(kinds), tuple(kinds.values()))[0]


def task_at(split: str, index: int, seed: int = 0, kind: str | None = None) -> Task:
    """One task, of the kind or of any, which depends on nothing but (seed, split, index, kind)."""
    rng = random.Random(f"{seed}/{split}/{index}/task")
    kind = kind or _draw(KINDS, rng)
    return (_story_task if kind in STORIES else _question)(kind, split, rng)[0]


def instruction_at(split: str, index: int, seed: int = 0) -> dict[str, str]:
    """A row to imitate in Alpaca's form: a task with its answer. Of the stories some end unkindly."""
    rng = random.Random(f"{seed}/{split}/{index}/instruction")
    kind = _draw(KINDS, rng)
    if kind in STORIES:
        task, tale = _story_task(kind, split, rng)
        if rng.random() < UNKIND_SHARE:
            task = replace(task, output=_spoilt(_unkind, task, tale, split, rng))
    else:
        task, _ = _question(kind, split, rng)
    return {"instruction": task.instruction, "input": task.input, "output": task.output}


def conversation_at(split: str, index: int, seed: int = 0) -> dict:
    """A row to learn from: that of instruction_at, or several questions about one story as messages.

    A story is many tokens to read for one short answer; asked several times over, it teaches as many times as much.
    """
    rng = random.Random(f"{seed}/{split}/{index}/conversation")
    if rng.random() < 0.72:
        return instruction_at(split, index, seed)
    while True:
        tale = sample_tale(split, rng)
        if told := _told("who", tale, rng):
            break
    asked = [kind for kind in TALKED if kind != "helper" or tale.plot in HELPING_PLOTS]
    # A sample without replacement by weight (Efraimidis and Spirakis, 2006).
    questions = 5 if len(told[1].split()) <= TALKED_WORDS else 4
    asked = sorted(asked, key=lambda kind: rng.random() ** (1 / TALKED[kind]))[-questions:]
    rng.shuffle(asked)
    messages, given = [], told[1]
    for kind in asked:
        question = instruction_text(_instruction(kind, split, words_of(vars(tale)), rng), given)
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": capital(ANSWERS[kind](tale)) + "."},
        ]
        given = ""  # it stands in the first turn
    return {"messages": messages}


def _off_subject(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """The story told of somebody else, or a story of another object."""
    text = task.output
    peers = {"girl": GIRLS, "boy": BOYS}.get(tale.kind, ())
    strangers = [name for name in peers if not names(task.input + text, name)]
    if strangers and rng.random() < 0.5:
        return re.sub(rf"\b{tale.character}\b", rng.choice(strangers), text)
    while names(text, task.object):
        other, _, text = _tale(task.kind, split, rng)
        if other.kind == tale.kind and not names(text, tale.character):
            text = re.sub(rf"\b{other.character}\b", tale.character, text)
    return text


def _unkind(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """The story with an unkind ending in the place of its own."""
    slots = words_of(vars(tale))
    slots["Helper"] = capital(slots["helper"])
    ending = " ".join(rng.choice(_lines(table)) for table in (UNKIND_DEEDS, UNKIND_WORDS)).format_map(slots)
    text = task.output
    starts = [
        match.end() for match in SENTENCE_GAP.finditer(text) if text.count('"', 0, match.end()) % 2 == 0
    ]
    cut = min([0, *starts], key=lambda start: abs(len(text[start:].split()) - len(ending.split())))
    return text[:cut] + ending


def _repetitive(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """The first half of the story, and then one or two of its sentences again and again, up to a story's length."""
    text = task.output
    sentences = SENTENCE_GAP.split(text)
    kept = rng.randint(len(sentences) // 3, len(sentences) * 2 // 3) or 1
    loop = sentences[max(0, kept - rng.randint(1, 2)) : kept]
    length = len(" ".join(loop).split())
    rounds = round((len(text.split()) - len(" ".join(sentences[:kept]).split())) / length)
    return " ".join(sentences[:kept] + loop * max(1, rounds))


def _broken(task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """The story without its last words, without some words in its middle, or without one of its quotation marks."""
    text = task.output
    inside = [
        match.end() for match in re.finditer(r"\b[a-z]+(?= [a-z])", text)
    ]  # of a sentence, after a word
    marks = [match.start() for match in re.finditer('"', text)]
    form = rng.choice(("end", "hole", "mark", "mark") if marks else ("end", "hole"))
    if form == "end":
        return text[: inside[-rng.randint(1, 3)]]
    if form == "hole":
        start = rng.randrange(len(inside) - HOLE)
        return text[: inside[start]] + text[inside[start + HOLE] :]
    place = rng.choice(marks)
    return text[:place] + text[place + 1 :]


def _spoilt(spoil: Callable, task: Task, tale: Tale, split: str, rng: random.Random) -> str:
    """The story with a flaw, no longer than stories may be."""
    while True:
        text = spoil(task, tale, split, rng)
        if len(task.input.split()) + len(text.split()) <= MAX_WORDS:
            return text


def preference_at(
    split: str, index: int, seed: int = 0, flaw: str | None = None
) -> dict[str, list[dict[str, str]]]:
    """A pair in UltraFeedback's form: the rejected answer has the flaw of FLAWS, or any of them."""
    rng = random.Random(f"{seed}/{split}/{index}/preference")
    flaw = flaw or _draw(FLAWS, rng)
    if flaw == "wrong":
        task, rejected = _question(_draw(QUESTIONS, rng), split, rng)
    else:
        task, tale = _story_task(_draw(STORIES, rng), split, rng)
        spoil = {"subject": _off_subject, "unkind": _unkind, "repetitive": _repetitive, "broken": _broken}[
            flaw
        ]
        rejected = _spoilt(spoil, task, tale, split, rng)
    prompt = {"role": "user", "content": instruction_text(task.instruction, task.input)}
    return {
        name: [prompt, {"role": "assistant", "content": answer}]
        for name, answer in (("chosen", task.output), ("rejected", rejected))
    }


def main() -> None:
    """Print some rows for people to look at."""
    parser = argparse.ArgumentParser(description="Print tasks of the story world.")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preferences", action="store_true", help="pairs of a chosen and a rejected answer")
    args = parser.parse_args()
    for index in range(args.count):
        if args.preferences:
            pair = preference_at(args.split, index, args.seed)
            parts = [
                pair["chosen"][0]["content"],
                *(f"[{name}] {turns[1]['content']}" for name, turns in pair.items()),
            ]
        else:
            row = instruction_at(args.split, index, args.seed)
            parts = [instruction_text(row["instruction"], row["input"]), f"[output] {row['output']}"]
        print(*parts, "-" * 40, sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
