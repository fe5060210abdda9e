"""Story world: short children's stories, written by a seeded grammar from world_tables.py.

    python -m stories.world --count 3

A `Tale` holds the facts (character, object, mishap, helper ...) and `tell` writes them as a story, so a question
about a story has an exact answer. Some combinations of character, object and plot are used for validation only.
"""

import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from runtime.command_line import Parser
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

MAX_WORDS = 190  # of a story; a longer one is written again
VAL_SHARE = 20  # one in this many combinations is for validation
FAMILY_SHARE = 0.4  # of the helpers, where the plot does not say who helps
SWAP_SHARE = 0.5  # how often a beat marked "&" comes before the sentences that it follows in the script
ONE_PARAGRAPH_SHARE = 0.3  # of the stories
DETAIL_COLUMNS = ("mishap", "fix", "clue", "result")  # of a row of a plot's details
# Each of these slots also exists with a capital letter, for the beginning of a sentence.
CAPITAL_SLOTS = "he his hhe helper some_helper stranger any_thing mishap fix clue result".split()


@dataclass(frozen=True)
class Tale:
    """Facts of one story in plain words; the text states each of them."""

    character: str
    kind: str
    he: str
    trait: str
    setting: str
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
    """Split a table into its lines; an indented line continues the line before."""
    return text.strip().replace("\n  ", " ").split("\n")


@cache
def _table(text: str) -> dict[str, tuple[str, ...]]:
    """Read PLACES or THINGS: a record per line, its first column is the key."""
    records = {}
    for line in _lines(text):
        key, *columns = (column.strip() for column in line.split(";"))
        records[key] = tuple(columns)
    return records


@cache
def _characters() -> dict[str, tuple[str, str]]:
    """Map each character to its kind and pronoun."""
    characters = {name: ("girl", "she") for name in GIRLS}
    characters |= {name: ("boy", "he") for name in BOYS}

    for entry in ANIMALS.split(";"):
        kind, name, he = entry.split()
        characters[name] = (kind, he)
    return characters


@cache
def _details(plot: Plot) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Map each thing that fits the plot to its rows of (mishap, fix, clue, result)."""
    rows: dict[str, tuple[tuple[str, ...], ...]] = {}
    for line in _lines(plot.details):
        things, _, rest = line.partition(": ")
        columns = [column.strip() for column in rest.split(";")]
        columns += [""] * (len(DETAIL_COLUMNS) - len(columns))

        for thing in things.split(", "):
            rows[thing] = (*rows.get(thing, ()), tuple(columns))
    return rows


@cache
def _drawing_pool() -> tuple[tuple[str, ...], tuple[tuple[Plot, tuple[str, ...]], ...]]:
    """List the characters, and each plot with its things: a tale is drawn from these."""
    return tuple(_characters()), tuple((plot, tuple(_details(plot))) for plot in PLOTS)


@cache
def _helpers(group: str) -> tuple[tuple[str, str], ...]:
    """List the helpers of a group as (noun, pronoun)."""
    return tuple(tuple(entry.split()) for entry in HELPERS[group].split(","))


@cache
def _parse(template: str) -> tuple:
    """Parse [a|b] and <phrase> into options; an option is a tuple of strings and of nested options.

    Example: "the [red|blue] hat" -> (("the ", (("red",), ("blue",)), " hat"),).
    """
    for name, phrase in PHRASES.items():
        template = template.replace(f"<{name}>", f"[{phrase}]")

    # One list of options for each bracket that is open; the last option of the last list grows.
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


def _mean_length(options: tuple) -> float:
    """Return the mean length in characters of what _expand makes of the options."""
    return sum(_option_length(option) for option in options) / len(options)


def _option_length(option: tuple) -> float:
    """Return the mean length in characters of one option."""
    length = 0.0
    for part in option:
        if isinstance(part, str):
            length += len(part)
        else:
            length += _mean_length(part)
    return length


@cache
def _script(plot: str, brief: bool) -> tuple[tuple[str, tuple], ...]:
    """Split the script of a plot into (mark, options) of each beat; if brief, with the shorter half of the options."""
    (text,) = (each.script + CLOSING for each in PLOTS if each.name == plot)
    beats = re.findall(r"^([+=&]) (.*?)(?=^[+=&] |\Z)", text, re.MULTILINE | re.DOTALL)

    script = []
    for mark, body in beats:
        one_line = " ".join(body.split()) + " "

        # A "|" with a space on both sides parts two options; inside [ ] the spaces belong to the text.
        template = re.sub(r" ((?:\| )+)", lambda bars: bars[1].replace(" ", ""), one_line)
        options = _parse(template.strip())
        if brief:
            shorter_half = max(1, len(options) // 2)
            options = tuple(sorted(options, key=_option_length)[:shorter_half])
        script.append((mark, options))
    return tuple(script)


def _expand(options: tuple, rng: random.Random) -> str:
    """Choose one of the options, and choose again inside it."""
    option = options[int(rng.random() * len(options))]  # not rng.choice: it would give other stories
    return "".join([part if isinstance(part, str) else _expand(part, rng) for part in option])


def with_article(words: str) -> str:
    """Put "a" or "an" before the words."""
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words}"


def capital(words: str) -> str:
    """Begin the words with a capital letter."""
    return words[:1].upper() + words[1:]


def words_of(facts: dict[str, str]) -> dict[str, str]:
    """Return the slots of the facts and those that follow: pronouns, articles, the ways to speak of the helper."""
    him, his, himself = PRONOUNS[facts["he"]]
    hhim, hhis, _ = PRONOUNS[facts["helper_he"]]
    thing = facts["object"]
    adjective = facts["adjective"]

    slots = {
        **facts, "name": facts["character"], "him": him, "his": his, "himself": himself, "hhe": facts["helper_he"],
        "hhim": hhim, "hhis": hhis, "thing": thing, "a_thing": with_article(f"{adjective} {thing}"),
        "any_thing": with_article(thing), "to": f"to the {facts['setting']}", "glad": facts["end_feeling"],
    }  # fmt: skip
    return slots | _helper_words(facts)


def _helper_words(facts: dict[str, str]) -> dict[str, str]:
    """Return the slots that speak of the helper: "Ben", "Grandma" or "the owl"."""
    helper, kind = facts["helper"], facts["helper_kind"]

    if helper != kind:  # a friend
        return {
            "helper": helper,
            "dear": helper,
            "my_helper": helper,
            "stranger": f"a {kind} named {helper}",
        }

    if (helper, facts["helper_he"]) in _helpers("family"):
        title = helper.capitalize()
        return {"helper": title, "dear": title, "my_helper": f"my {helper}"}

    return {"helper": f"the {helper}", "dear": f"kind {helper}", "my_helper": f"the {helper}"}


def split_of(character: str, thing: str, plot: str) -> str:
    """Return the split of a combination: about one in VAL_SHARE is for validation."""
    number = zlib.crc32(f"{character}|{thing}|{plot}".encode())
    return "train" if number % VAL_SHARE else "val"


def _draw_helper(plot: Plot, character: str, rng: random.Random) -> tuple[str, str, str]:
    """Draw (helper, kind, pronoun): a friend has a name and a kind, for others the noun serves as both."""
    is_child = _characters()[character][0] in ("girl", "boy")

    if plot.helpers == "friend":
        while True:
            friend = rng.choice(_drawing_pool()[0])
            kind, he = _characters()[friend]
            if friend != character and (kind in ("girl", "boy")) == is_child:
                return friend, kind, he

    if plot.helpers == "family" or rng.random() < FAMILY_SHARE:
        group = "family"
    elif is_child:
        group = "people"
    else:
        group = "beasts"
    noun, he = rng.choice(_helpers(group))
    return noun, noun, he


def sample_tale(split: str, rng: random.Random) -> Tale:
    """Draw the facts of a story from the combinations that belong to the split ("train" or "val")."""
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', not {split!r}")

    characters, plots = _drawing_pool()
    while True:
        plot, things = rng.choice(plots)
        character = rng.choice(characters)
        thing = rng.choice(things)
        if split_of(character, thing, plot.name) == split:
            break

    # The plot says where and in which weather, or else the thing does.
    adjectives, wish, did, _, thing_places, thing_weather = _table(THINGS)[thing]
    setting = rng.choice((plot.places or thing_places).split()).replace("_", " ")
    preposition, *spots = _table(PLACES)[setting]
    kind, he = _characters()[character]
    helper, helper_kind, helper_he = _draw_helper(plot, character, rng)

    time = plot.time
    if not time:
        time = "evening" if thing == "lantern" else rng.choice(TIMES)

    # The order of these draws is part of the data: another order gives other stories.
    facts = {
        "character": character, "kind": kind, "he": he, "trait": rng.choice(plot.traits.split()), "setting": setting,
        "at": f"{preposition} the {setting}", "object": thing, "adjective": rng.choice(adjectives.split()),
        "plot": plot.name, "helper": helper, "helper_kind": helper_kind, "helper_he": helper_he,
        "weather": rng.choice((plot.weather or thing_weather).split()), "time": time,
        "feeling": rng.choice(plot.feelings.split()), "end_feeling": rng.choice(plot.end_feelings.split()),
        "lesson": plot.lesson,
    }  # fmt: skip

    # Details may use the facts, and those that come before them in their row.
    slots = words_of(facts) | {"did": did, "spot": rng.choice(spots)}
    details = rng.choice(_details(plot)[thing])
    for name, template in zip(DETAIL_COLUMNS, details, strict=True):
        facts[name] = slots[name] = _expand(_parse(template), rng).format_map(slots)

    facts["wish"] = (plot.wish or wish).format_map(slots)
    facts["ending"] = plot.ending.format_map(slots)
    return Tale(**facts)


def tell(tale: Tale, rng: random.Random, brief: bool = False) -> str:
    """Write the story of a tale in one of many ways, naming each of its facts in plain words."""
    slots = _telling_slots(tale, rng)

    paragraphs: list[list[str]] = [[]]
    for mark, options in _script(tale.plot, brief):
        sentences = _expand(options, rng)
        if mark == "=":
            paragraphs.append([])

        paragraph = paragraphs[-1]
        if mark == "&" and rng.random() < SWAP_SHARE:
            paragraph.insert(len(paragraph) - 1, sentences)
        else:
            paragraph.append(sentences)

    gap = " " if rng.random() < ONE_PARAGRAPH_SHARE else "\n\n"
    text = gap.join(" ".join(filter(None, paragraph)) for paragraph in paragraphs)
    return text.format_map(slots)


def _telling_slots(tale: Tale, rng: random.Random) -> dict[str, str]:
    """Return the slots of a tale, some drawn for one telling, those of CAPITAL_SLOTS also with a capital."""
    slots = words_of(vars(tale))
    _, _, did, about, *_ = _table(THINGS)[tale.object]
    wrong_spots = [spot for spot in _table(PLACES)[tale.setting][1:] if spot not in tale.fix]

    slots["did"] = did
    slots["about"] = _expand(_parse(about), rng)
    slots["wrong"] = rng.choice(wrong_spots)
    size = rng.choice(("little", "young", "small"))
    slots["a_kid"] = with_article(f"{tale.trait} {size} {tale.kind}")

    if tale.helper != tale.helper_kind:
        slots["some_helper"] = f"{slots['his']} friend {tale.helper}"
    elif slots["helper"] == slots["dear"]:  # of the family
        slots["some_helper"] = f"{slots['his']} {tale.helper}"
    else:
        adjective = rng.choice(("old", "kind", "friendly", "wise"))
        slots["some_helper"] = with_article(f"{adjective} {tale.helper}")

    for name in CAPITAL_SLOTS:
        slots[name.capitalize()] = capital(slots.get(name, ""))
    return slots


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
    for index in range(count):
        _, text = story_at(split, index, seed)
        yield {"text": text}


def main() -> None:
    """Print some stories."""
    parser = Parser("Print stories of the built-in world.")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.count < 0:
        parser.error(f"--count {args.count} must be 0 or more")

    for row in stories(args.split, args.count, args.seed):
        print(row["text"], "-" * 40, sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
