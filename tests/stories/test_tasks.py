"""Tasks of the story world: reproducible, separate splits, exact answers, clean English."""

import re
from collections import Counter

import pytest

from stories import tasks
from stories.examples import FLAWS, preference_at
from stories.task_tables import GROUPS, NUMBERS, PHRASINGS, UNKIND_DEEDS, UNKIND_WORDS
from stories.tasks import (
    KINDS,
    MAX_WORDS,
    QUESTIONS,
    STORIES,
    Task,
    complete,
    names,
    repetition,
    task_at,
    unkind,
)
from stories.world import split_of, story_at


@pytest.fixture(scope="module")
def train() -> list[Task]:
    return [task_at("train", index) for index in range(5_000)]


@pytest.fixture(scope="module")
def val() -> list[Task]:
    return [task_at("val", index) for index in range(1_000)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def test_a_row_depends_only_on_seed_split_and_index(train: list[Task]) -> None:
    assert [task_at("train", index) for index in (7, 3)] == [train[7], train[3]]
    assert task_at("train", 3, seed=1) != train[3] != task_at("val", 3)


def test_rows_are_distinct_and_of_every_kind(train: list[Task], val: list[Task]) -> None:
    assert len(set(train)) >= 0.9 * len(train)  # opposites are few
    for rows in (train, val):
        counts = Counter(task.kind for task in rows)
        assert counts.keys() == KINDS.keys()
        for kind, weight in KINDS.items():
            expected = len(rows) * weight / sum(KINDS.values())
            assert abs(counts[kind] - expected) < 4 * expected**0.5
    assert all(task_at("train", 0, kind=kind).kind == kind for kind in KINDS)


def test_no_phrasing_is_in_both_splits_and_held_out_ones_use_known_words() -> None:
    known = {word for table in PHRASINGS["train"].values() for word in words(re.sub(r"{\w+}", "", table))}
    for kind in KINDS:
        trained, held_out = (set(tasks.table_lines(PHRASINGS[split][kind])) for split in ("train", "val"))
        assert len(trained) >= 8 and len(held_out) >= 3 and not trained & held_out, kind
        assert set(words(re.sub(r"{\w+}", "", " ".join(held_out)))) <= known, kind


def test_no_combination_is_in_both_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    tales = []
    sample = tasks.sample_tale
    monkeypatch.setattr(
        tasks, "sample_tale", lambda split, rng: tales.append(sample(split, rng)) or tales[-1]
    )
    for split in ("train", "val"):
        tales.clear()
        for index in range(300):
            task_at(split, index)
            preference_at(split, index)
        assert len(tales) > 500
        assert {split_of(tale.character, tale.object, tale.plot) for tale in tales} == {split}


def test_stories_are_about_the_character_and_the_object_of_their_task(
    train: list[Task], val: list[Task]
) -> None:
    story_tasks = [task for task in train + val if task.kind in STORIES]
    assert len(story_tasks) > 200
    for task in story_tasks:
        prompt = task.instruction + task.input
        for text in (prompt, task.output):
            assert names(text, task.character) and names(text, task.object), task
        assert (task.kind == "continue") == bool(task.input) and complete(task.output)
        assert len((task.input + " " + task.output).split()) <= MAX_WORDS


def test_answers_are_stated_in_the_story(train: list[Task], val: list[Task]) -> None:
    questions = [task for task in train + val if task.kind in QUESTIONS and task.input]
    assert {task.kind for task in questions} == set(tasks.ANSWERS)
    for task in questions:
        assert task.character == task.object == "" and len(task.input.split()) <= MAX_WORDS
        assert re.fullmatch(r"[A-Z][\w ',]+\.", task.output), task
        # A story says "to the park" and "One windy day": the little words of the answer are the language's.
        stated = set(words(task.output)) - {"on", "in", "at", "a", "an", "the", "was"}
        assert task.kind == "lesson" or stated <= set(words(task.input)), task
        if task.kind in ("want", "what"):
            assert names(task.input, re.sub(r"^An? ", "", task.output)[:-1]), task


@pytest.mark.parametrize("split", ["train", "val"])
def test_counting_is_right(split: str) -> None:
    outcomes = set()
    for index in range(300):
        for kind, sign in (("add", 1), ("take", -1)):
            task = task_at(split, index, kind=kind)
            numbers = [NUMBERS.index(word) for word in words(task.instruction) if word in NUMBERS]
            if kind == "take" and task.instruction.startswith("Take"):
                numbers.reverse()
            first, second = numbers
            count, thing = task.output[:-1].lower().split(" ", 1)
            assert NUMBERS.index(count) == first + sign * second, task
            plural = re.search(r"How many (.+?) (?:did|does|do|is|are|were)\b", task.instruction, re.I)[1]
            assert plural == {"scarf": "scarves", "paint box": "paint boxes"}.get(thing, thing + "s") or (
                count != "one" and plural == thing
            ), task
            outcomes.add(count)
    assert outcomes == set(NUMBERS[1:6])


def test_opposites_and_lists_are_exact() -> None:
    opposites = tasks._opposites()
    assert len(opposites) >= 40 and all(opposites[opposites[word]] == word for word in opposites)
    tested = set()
    for index in range(800):
        task = task_at("train", index, kind="opposite")
        word = opposites[task.output[:-1].lower()]
        assert names(task.instruction, word)
        tested.add(word)
        task = task_at("train", index, kind="list")
        things = re.split(r", | and ", task.output[:-1].lower())
        (group,) = (group for group in GROUPS if re.search(rf"\b{group}\b", task.instruction))
        given = re.search(r"\w+(?:, \w+)* and \w+", re.sub(r"^[^:]*:", "", task.instruction))[0]
        assert things == [word for word in re.split(r", | and ", given) if word in GROUPS[group].split()]
    assert tested == set(opposites)


def test_the_english_is_clean(train: list[Task]) -> None:
    texts = [part for task in train for part in (task.instruction, task.output)]
    texts += [
        preference_at("train", index, 0, flaw)["rejected"][1]["content"]
        for flaw in FLAWS
        if flaw != "broken"
        for index in range(200)
    ]
    for text in texts:
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text
        assert not re.search(r"[{}\[\]<>|;_]|None|  | [.,!?:]|[.,!?][.,]", text), text
        assert re.match(r'"?[A-Z]', text) and text == text.strip(), text
    assert not [text for text in texts[: 2 * len(train)] if text[-1] not in '.!?:"' and ":" not in text]


@pytest.mark.parametrize("line", tasks.table_lines(UNKIND_DEEDS) + tasks.table_lines(UNKIND_WORDS))
def test_every_unkind_line_counts_as_unkind(line: str) -> None:
    slots = dict.fromkeys(re.findall(r"{(\w+)}", line), "Ann")
    assert unkind(line.format_map(slots))


def test_measures() -> None:
    assert names("Tom saw a teddy bear.", "teddy bear") and names("The key.", "key")
    assert not names("Tomorrow a monkey came.", "Tom") and not names("Tomorrow a monkey came.", "key")
    assert unkind("Ann grabbed it and shouted at Ben for no") and not unkind("That night, Ann shouted.")
    assert repetition("One day. Two days. One day. Two days.") == 0.5
    assert complete('"Yes," said Tom.') and complete('"Yes!"')
    assert not complete("Tom was") and not complete('"Yes.') and not complete("")
    for index in range(500):
        text = story_at("val", index)[1]
        assert repetition(text) == 0 and complete(text), text
