"""The story world's tasks: reproducible rows, honest splits, exact answers, pairs that differ in quality alone."""

import random
import re
from collections import Counter
from statistics import mean

import pytest

from stories import tasks
from stories.task_tables import GROUPS, NUMBERS, PHRASINGS, UNKIND_DEEDS, UNKIND_WORDS
from stories.tasks import (
    FLAWS,
    KINDS,
    MAX_WORDS,
    QUESTIONS,
    STORIES,
    TALKED_WORDS,
    UNKIND_SHARE,
    Task,
    complete,
    conversation_at,
    instruction_at,
    names,
    preference_at,
    repetition,
    task_at,
    unkind,
)
from stories.world import split_of, story_at
from tokenizer import instruction_text


@pytest.fixture(scope="module")
def train() -> list[Task]:
    return [task_at("train", index) for index in range(5_000)]


@pytest.fixture(scope="module")
def val() -> list[Task]:
    return [task_at("val", index) for index in range(1_000)]


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[tuple[str, str, str]]]:
    """(prompt, chosen, rejected) by flaw."""

    def pair(index: int, flaw: str) -> tuple[str, str, str]:
        row = preference_at("train", index, 0, flaw)
        (prompt, chosen), (same, rejected) = row["chosen"], row["rejected"]
        assert (
            prompt == same and prompt["role"] == "user" and chosen["role"] == rejected["role"] == "assistant"
        )
        return prompt["content"], chosen["content"], rejected["content"]

    return {flaw: [pair(index, flaw) for index in range(200)] for flaw in FLAWS}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def test_a_row_depends_only_on_seed_split_and_index(train: list[Task]) -> None:
    assert [task_at("train", index) for index in (7, 3)] == [train[7], train[3]]
    assert task_at("train", 3, seed=1) != train[3] != task_at("val", 3)
    assert instruction_at("train", 3) == instruction_at("train", 3) != instruction_at("train", 3, seed=1)
    assert preference_at("val", 5, 2) == preference_at("val", 5, 2) != preference_at("val", 6, 2)


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
        trained, held_out = (set(tasks._lines(PHRASINGS[split][kind])) for split in ("train", "val"))
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


def test_stories_are_about_what_was_asked_for(train: list[Task], val: list[Task]) -> None:
    asked = [task for task in train + val if task.kind in STORIES]
    assert len(asked) > 200
    for task in asked:
        prompt = task.instruction + task.input
        for text in (prompt, task.output):
            assert names(text, task.character) and names(text, task.object), task
        assert (task.kind == "continue") == bool(task.input) and complete(task.output)
        assert len((task.input + " " + task.output).split()) <= MAX_WORDS


def test_some_stories_to_imitate_end_unkindly_and_nothing_else_does(
    train: list[Task], val: list[Task]
) -> None:
    rows = [instruction_at("train", index) for index in range(4_000)]
    stories = [row for row in rows if len(row["output"].split()) > 40]
    spoilt = [row for row in stories if unkind(row["output"])]
    assert len(spoilt) == pytest.approx(UNKIND_SHARE * len(stories), rel=0.25)
    assert all(complete(row["output"]) for row in spoilt)
    assert all(len((row["input"] + " " + row["output"]).split()) <= MAX_WORDS for row in spoilt)
    assert not any(unkind(row["input"]) for row in rows)
    assert not any(unkind(task.input + task.output) for task in train + val)
    assert not any(unkind(story_at("train", index)[1]) for index in range(2_000))


def test_a_conversation_asks_about_one_story() -> None:
    rows = [conversation_at("train", index) for index in range(400)]
    assert (
        rows
        == [conversation_at("train", index) for index in range(400)]
        != [conversation_at("train", index, 1) for index in range(400)]
    )
    talks = [row["messages"] for row in rows if "messages" in row]
    assert 80 < len(talks) < 220 and all(
        row.keys() == {"instruction", "input", "output"} for row in rows if "messages" not in row
    )
    for turns in talks:
        story = turns[0]["content"].partition("### Input:\n")[2]
        questions = 5 if len(story.split()) <= TALKED_WORDS else 4
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * questions
        assert len({turn["content"] for turn in turns[::2]}) == questions
        assert "### Input:" in turns[0]["content"] and not any(
            "### Input:" in turn["content"] for turn in turns[1:]
        )
        assert len(" ".join(turn["content"] for turn in turns).split()) < 210


def test_answers_are_stated_in_the_story(train: list[Task], val: list[Task]) -> None:
    asked = [task for task in train + val if task.kind in QUESTIONS and task.input]
    assert {task.kind for task in asked} == set(tasks.ANSWERS)
    for task in asked:
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
            said = [NUMBERS.index(word) for word in words(task.instruction) if word in NUMBERS]
            if kind == "take" and task.instruction.startswith("Take"):
                said.reverse()
            first, second = said
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
    asked = set()
    for index in range(800):
        task = task_at("train", index, kind="opposite")
        word = opposites[task.output[:-1].lower()]
        assert names(task.instruction, word)
        asked.add(word)
        task = task_at("train", index, kind="list")
        things = re.split(r", | and ", task.output[:-1].lower())
        (group,) = (group for group in GROUPS if re.search(rf"\b{group}\b", task.instruction))
        given = re.search(r"\w+(?:, \w+)* and \w+", re.sub(r"^[^:]*:", "", task.instruction))[0]
        assert things == [word for word in re.split(r", | and ", given) if word in GROUPS[group].split()]
    assert asked == set(opposites)


def test_the_english_is_clean(train: list[Task], pairs: dict[str, list[tuple[str, str, str]]]) -> None:
    texts = [part for task in train for part in (task.instruction, task.output)]
    texts += [rejected for flaw, each in pairs.items() for _, _, rejected in each if flaw != "broken"]
    for text in texts:
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text
        assert not re.search(r"[{}\[\]<>|;_]|None|  | [.,!?:]|[.,!?][.,]", text), text
        assert re.match(r'"?[A-Z]', text) and text == text.strip(), text
    assert not [text for text in texts[: 2 * len(train)] if text[-1] not in '.!?:"' and ":" not in text]


def test_rejected_answers_have_their_flaw(pairs: dict[str, list[tuple[str, str, str]]]) -> None:
    for flaw, rows in pairs.items():
        assert all(chosen != rejected and complete(chosen) for _, chosen, rejected in rows), flaw
        assert all(len((prompt + " " + rejected).split()) < MAX_WORDS + 30 for prompt, _, rejected in rows), (
            flaw
        )
    assert all(repetition(rejected) > 0.1 > repetition(chosen) for _, chosen, rejected in pairs["repetitive"])
    forms = Counter()
    for _, chosen, rejected in pairs["broken"]:
        missing = len(chosen) - len(rejected)
        end, mark = chosen.startswith(rejected), missing == 1
        start = next((n for n in range(len(rejected)) if chosen[n] != rejected[n]), len(rejected))
        assert end or chosen[start + missing :] == rejected[start:]  # nothing but one piece is missing
        assert complete(rejected) == (not end and not mark) or '"' in chosen[start : start + missing]
        forms[end, mark] += 1
    assert min(forms[True, False], forms[False, True], forms[False, False]) > len(pairs["broken"]) / 5
    for flaw, rows in pairs.items():
        assert not any(unkind(chosen) for _, chosen, _ in rows)
        assert all(unkind(rejected) == (flaw == "unkind") for _, _, rejected in rows), flaw
    assert all(len(rejected.split()) < 15 for _, _, rejected in pairs["wrong"])


def test_a_story_off_the_subject_names_another() -> None:
    missing = Counter()
    for index in range(200):
        rng = random.Random(index)
        task, tale = tasks._story_task("about" if index % 2 else "continue", "train", rng)
        rejected = tasks._off_subject(task, tale, "train", rng)
        assert names(task.output, task.character) and names(task.output, task.object)
        flaws = (names(rejected, task.character), names(rejected, task.object))
        assert not all(flaws), (task, rejected)
        missing[flaws] += 1
    assert min(missing[True, False], missing[False, True]) > 20  # either alone happens often


def test_flaws_are_drawn_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Counter()
    for name, flaw in zip(("_off_subject", "_unkind", "_repetitive", "_broken"), FLAWS, strict=False):
        monkeypatch.setattr(tasks, name, lambda *_, flaw=flaw: flaw)
    for index in range(1_000):
        rejected = preference_at("train", index)["rejected"][1]["content"]
        drawn[rejected if rejected in FLAWS else "wrong"] += 1
    assert drawn.keys() == set(FLAWS)
    assert all(abs(drawn[flaw] - 1_000 * often / sum(FLAWS.values())) < 50 for flaw, often in FLAWS.items())


def test_a_preference_is_not_about_length(pairs: dict[str, list[tuple[str, str, str]]]) -> None:
    sizes = [
        (len(chosen.split()), len(rejected.split()))
        for rows in pairs.values()
        for _, chosen, rejected in rows
    ]
    assert mean(rejected for _, rejected in sizes) == pytest.approx(
        mean(chosen for chosen, _ in sizes), rel=0.05
    )
    assert mean(chosen < rejected for chosen, rejected in sizes) < 0.55
    assert mean(chosen > rejected for chosen, rejected in sizes) < 0.55


@pytest.mark.parametrize("line", tasks._lines(UNKIND_DEEDS) + tasks._lines(UNKIND_WORDS))
def test_every_unkind_line_is_known_as_such(line: str) -> None:
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


def test_the_command_prints_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stories.tasks", "--split", "val", "--count", "2"])
    tasks.main()
    printed = capsys.readouterr().out
    row = instruction_at("val", 1)
    assert instruction_text(row["instruction"], row["input"]) in printed and row["output"] in printed
    monkeypatch.setattr("sys.argv", ["stories.tasks", "--count", "2", "--preferences"])
    tasks.main()
    assert preference_at("train", 1)["rejected"][1]["content"] in capsys.readouterr().out
