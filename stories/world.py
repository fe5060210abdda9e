"""A closed world of short children's stories, written by a seeded grammar from world_tables.py.

    python -m stories.world --count 3

A `Tale` holds the facts (who, what, where, what went wrong, who helped) and `tell` writes them down, so a question
about a story has an exact answer. Whole combinations of character, object and plot are kept for validation only.
"""

import argparse
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from stories.world_tables import (
    ANIMALS,
    BOYS,
    CLOSING,
    GIRLS,
    HELPERS,
    PHRASES,
    PLACES,
    PLOTS,
    PRONOUNS,
    THINGS,
    TIMES,
    Plot,
)

MAX_WORDS = 190
# Each of these slots also exists with a capital letter, for the beginning of a sentence.
CAPITAL_SLOTS = "he his hhe helper some_helper stranger any_thing mishap fix clue result".split()


@dataclass(frozen=True)
class Tale:
    """The facts of one story in plain words, each of which the text states."""

    character: str
    kind: str
    he: str
    trait: str
    place: str
    at: str
    object: str
    adjective: str
    plot: str
    helper: str
    helper_kind: str
    helper_he: str
    weather: str
    time: str
    wish: str
    mishap: str
    fix: str
    clue: str
    result: str
    feeling: str
    end_feeling: str
    ending: str
    lesson: str


def _lines(text: str) -> list[str]:
    """Split a table into its lines, joining the indented ones to the line before."""
    return text.strip().replace("\n  ", " ").split("\n")


@cache
def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Read PLACES or THINGS: a record per line, its first column is the key."""
    records = (tuple(column.strip() for column in line.split(";")) for line in _lines(text))
    return {record[0]: record[1:] for record in records}


@cache
def _characters() -> dict[str, tuple[str, str]]:
    """Map each character to its kind and pronoun."""
    children = {name: ("girl", "she") for name in GIRLS} | {name: ("boy", "he") for name in BOYS}
    animals = (entry.split() for entry in ANIMALS.split(";"))
    return children | {name: (kind, he) for kind, name, he in animals}


@cache
def _details(plot: Plot) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Map each thing that fits the plot to its rows of (mishap, fix, clue, result)."""
    rows: dict[str, tuple[tuple[str, ...], ...]] = {}
    for line in _lines(plot.details):
        names, _, rest = line.partition(": ")
        columns = tuple(column.strip() for column in rest.split(";"))
        for name in names.split(", "):
            rows[name] = (*rows.get(name, ()), columns + ("",) * (4 - len(columns)))
    return rows


@cache
def _drawing_pool() -> tuple[tuple[str, ...], tuple[tuple[Plot, tuple[str, ...]], ...]]:
    """List what a tale is drawn from: the characters, and each plot with its things."""
    return tuple(_characters()), tuple((plot, tuple(_details(plot))) for plot in PLOTS)


@cache
def _helpers(group: str) -> tuple[tuple[str, str], ...]:
    """List the helpers of a group as (noun, pronoun)."""
    return tuple((noun, he) for noun, he in (entry.split() for entry in HELPERS[group].split(",")))


@cache
def _parse(template: str) -> tuple:
    """Turn [a|b] and <phrase> into nested tuples: strings stay, a tuple of tuples is a choice."""
    for name, phrase in PHRASES.items():
        template = template.replace(f"<{name}>", f"[{phrase}]")
    stack: list[list] = [[[]]]
    for token in re.split(r"([\[\]|])", template):
        if token == "[":
            stack.append([[]])
        elif token == "]":
            choice = tuple(tuple(option) for option in stack.pop())
            stack[-1][-1].append(choice)
        elif token == "|":
            stack[-1].append([])
        elif token:
            stack[-1][-1].append(token)
    (options,) = stack
    return tuple(tuple(option) for option in options)


def _length(options: tuple) -> float:
    """How many characters a choice makes on average."""
    sizes = [
        sum(len(part) if part.__class__ is str else _length(part) for part in option) for option in options
    ]
    return sum(sizes) / len(sizes)


@cache
def _script(plot: str, short_error: bool) -> tuple[tuple[str, tuple], ...]:
    """Split the script of a plot into (mark, parsed beat); a short one keeps the shorter half of a beat's tellings."""
    (text,) = (each.script + CLOSING for each in PLOTS if each.name == plot)
    beats = re.findall(r"^([+=&]) (.*?)(?=^[+=&] |\Z)", text, re.MULTILINE | re.DOTALL)
    # A "|" with a space on both sides parts two tellings; inside [ ] the spaces belong to the text.
    script = []
    for mark, body in beats:
        flat = re.sub(r" ((?:\| )+)", lambda bars: bars[1].replace(" ", ""), " ".join(body.split()) + " ")
        options = _parse(flat.strip())
        if short_error:
            options = tuple(
                sorted(options, key=lambda option: _length((option,)))[: max(1, len(options) // 2)]
            )
        script.append((mark, options))
    return tuple(script)


def _expand(options: tuple, rng: random.Random) -> str:
    """Choose one of the options, and choose again inside it."""
    option = options[int(rng.random() * len(options))]
    return "".join([part if part.__class__ is str else _expand(part, rng) for part in option])


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def capital(words: str) -> str:
    """Begin the words with a capital letter."""
    return words[:1].upper() + words[1:]


def words_of(facts: dict[str, str]) -> dict[str, str]:
    """Work out the slots that follow from the facts: pronouns, articles and the ways to speak of the helper."""
    him, his, himself = PRONOUNS[facts["he"]]
    helper, kind, thing = facts["helper"], facts["helper_kind"], facts["object"]
    hhim, hhis, _ = PRONOUNS[facts["helper_he"]]
    adjective = facts["adjective"]
    slots = {
        **facts, "name": facts["character"], "him": him, "his": his, "himself": himself, "hhe": facts["helper_he"],
        "hhim": hhim, "hhis": hhis, "thing": thing, "a_thing": with_article(f"{adjective} {thing}"),
        "any_thing": with_article(thing), "to": f"to the {facts['place']}", "glad": facts["end_feeling"],
    }  # fmt: skip
    if helper != kind:
        named = {
            "helper": helper,
            "dear": helper,
            "my_helper": helper,
            "stranger": f"a {kind} named {helper}",
        }
    elif (helper, facts["helper_he"]) in _helpers("family"):
        title = helper.capitalize()
        named = {"helper": title, "dear": title, "my_helper": f"my {helper}"}
    else:
        named = {"helper": f"the {helper}", "dear": f"kind {helper}", "my_helper": f"the {helper}"}
    return slots | named


def split_of(character: str, thing: str, plot: str) -> str:
    """Say which split owns a combination: about one in twenty is kept for validation."""
    return "train" if zlib.crc32(f"{character}|{thing}|{plot}".encode()) % 20 else "val"


def _draw_helper(plot: Plot, character: str, rng: random.Random) -> tuple[str, str, str]:
    """Draw (helper, kind, pronoun): a friend has a name and a kind, for others the noun serves as both."""
    is_child = _characters()[character][0] in ("girl", "boy")
    if plot.helpers == "friend":
        while True:
            friend = rng.choice(_drawing_pool()[0])
            kind, he = _characters()[friend]
            if friend != character and (kind in ("girl", "boy")) == is_child:
                return friend, kind, he
    group = "family" if plot.helpers == "family" or rng.random() < 0.4 else "people" if is_child else "beasts"
    noun, he = rng.choice(_helpers(group))
    return noun, noun, he


def sample_tale(split: str, rng: random.Random) -> Tale:
    """Draw the facts of a story from the combinations that belong to the split ("train" or "val")."""
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")
    characters, plots = _drawing_pool()
    while True:
        plot, things = rng.choice(plots)
        character, thing = rng.choice(characters), rng.choice(things)
        if split_of(character, thing, plot.name) == split:
            break
    adjectives, wish, did, _, places, weather = _table(THINGS)[thing]
    place = rng.choice((plot.places or places).split()).replace("_", " ")
    preposition, *spots = _table(PLACES)[place]
    kind, he = _characters()[character]
    helper, helper_kind, helper_he = _draw_helper(plot, character, rng)
    time = plot.time or ("evening" if thing == "lantern" else rng.choice(TIMES))
    facts = {
        "character": character, "kind": kind, "he": he, "trait": rng.choice(plot.traits.split()), "place": place,
        "at": f"{preposition} the {place}", "object": thing, "adjective": rng.choice(adjectives.split()),
        "plot": plot.name, "helper": helper, "helper_kind": helper_kind, "helper_he": helper_he,
        "weather": rng.choice((plot.weather or weather).split()), "time": time,
        "feeling": rng.choice(plot.feelings.split()), "end_feeling": rng.choice(plot.end_feelings.split()),
        "lesson": plot.lesson,
    }  # fmt: skip
    slots = words_of(facts)
    slots |= {"did": did, "spot": rng.choice(spots)}
    columns = rng.choice(_details(plot)[thing])
    for fact, template in zip(("mishap", "fix", "clue", "result"), columns, strict=True):
        facts[fact] = slots[fact] = _expand(_parse(template), rng).format_map(slots)
    facts["wish"] = (plot.wish or wish).format_map(slots)
    facts["ending"] = plot.ending.format_map(slots)
    return Tale(**facts)


def tell(tale: Tale, rng: random.Random, short_error: bool = False) -> str:
    """Write the story of a tale in one of many ways, naming each of its facts in plain words."""
    slots = words_of(vars(tale))
    _, _, did, about, *_ = _table(THINGS)[tale.object]
    wrong = [spot for spot in _table(PLACES)[tale.place][1:] if spot not in tale.fix]
    slots["did"], slots["about"] = did, _expand(_parse(about), rng)
    slots["wrong"] = rng.choice(wrong)
    size = rng.choice(("little", "young", "small"))
    slots["a_kid"] = with_article(f"{tale.trait} {size} {tale.kind}")
    if tale.helper != tale.helper_kind:
        slots["some_helper"] = f"{slots['his']} friend {tale.helper}"
    elif slots["helper"] == slots["dear"]:
        slots["some_helper"] = f"{slots['his']} {tale.helper}"
    else:
        slots["some_helper"] = with_article(
            f"{rng.choice(('old', 'kind', 'friendly', 'wise'))} {tale.helper}"
        )
    for key in CAPITAL_SLOTS:
        slots[key.capitalize()] = capital(slots.get(key, ""))
    paragraphs: list[list[str]] = [[]]
    for mark, beat in _script(tale.plot, short_error):
        sentences = _expand(beat, rng)
        if mark == "=":
            paragraphs.append([])
        comes_earlier = mark == "&" and rng.random() < 0.5
        paragraphs[-1].insert(len(paragraphs[-1]) - comes_earlier, sentences)
    gap = " " if rng.random() < 0.3 else "\n\n"
    return gap.join([" ".join(filter(None, paragraph)) for paragraph in paragraphs]).format_map(slots)


def story_at(split: str, index: int, seed: int = 0) -> tuple[Tale, str]:
    """Return the facts and the text of one row, which depends on nothing but (seed, split, index)."""
    rng = random.Random(f"{seed}/{split}/{index}")
    tale = sample_tale(split, rng)
    text = tell(tale, rng)
    while len(text.split()) > MAX_WORDS:
        text = tell(tale, rng)
    return tale, text


def stories(split: str, count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield rows {"text": story} of a split, ready to be written as JSON lines."""
    return ({"text": story_at(split, index, seed)[1]} for index in range(count))


def main() -> None:
    """Print some stories for people to look at."""
    parser = argparse.ArgumentParser(description="Print stories of the built-in world.")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for row in stories(args.split, args.count, args.seed):
        print(row["text"], "-" * 40, sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
