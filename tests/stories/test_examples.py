"""Training rows of the story world: reproducible, flaws in proportion, pairs that differ in quality alone."""

import random
import re
from collections import Counter
from statistics import mean

import pytest

from stories import examples
from stories.examples import (
    CONVERSATION_WORDS,
    FLAWS,
    QUIZ_UNRELATED,
    UNKIND_SHARE,
    conversation_at,
    instruction_at,
    preference_at,
    text_at,
)
from stories.tasks import MAX_WORDS, about_the_tale, complete, names, repetition, story_task, task_at, unkind
from stories.world import story_at
from tokenization.prompt_template import instruction_text


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


def test_a_row_depends_only_on_seed_split_and_index() -> None:
    assert instruction_at("train", 3) == instruction_at("train", 3) != instruction_at("train", 3, seed=1)
    assert preference_at("val", 5, 2) == preference_at("val", 5, 2) != preference_at("val", 6, 2)


def test_a_text_is_a_story_and_all_questions_about_it() -> None:
    texts = [text_at("train", index) for index in range(400)]
    assert texts == [text_at("train", index) for index in range(400)]
    for index, text in enumerate(texts):
        tale, story = story_at("train", index)
        assert text.startswith(story)
        blocks = text.removeprefix(story).strip().split("\n\n")
        assert len(blocks) == len(about_the_tale(tale)) + QUIZ_UNRELATED
        assert all(block.endswith(".") and block.count("\n") == 1 for block in blocks)
    assert not any(unkind(text) for text in texts)


def test_some_stories_to_imitate_end_unkindly_and_nothing_else_does() -> None:
    tasks = [task_at("train", index) for index in range(5_000)] + [
        task_at("val", index) for index in range(1_000)
    ]
    rows = [instruction_at("train", index) for index in range(4_000)]
    stories = [row for row in rows if len(row["output"].split()) > 40]
    unkind_rows = [row for row in stories if unkind(row["output"])]
    assert len(unkind_rows) == pytest.approx(UNKIND_SHARE * len(stories), rel=0.25)
    assert all(complete(row["output"]) for row in unkind_rows)
    assert all(len((row["input"] + " " + row["output"]).split()) <= MAX_WORDS for row in unkind_rows)
    assert not any(unkind(row["input"]) for row in rows)
    assert not any(unkind(task.input + task.output) for task in tasks)
    assert not any(unkind(story_at("train", index)[1]) for index in range(2_000))


def turns_of(row: dict) -> list[dict[str, str]]:
    """The messages of a row, also of one in Alpaca's form."""
    if "messages" in row:
        return row["messages"]
    question = instruction_text(row["instruction"], row["input"])
    return [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]


def is_story(text: str) -> bool:
    return len(text.split()) > 40


def test_a_row_is_a_task_or_a_conversation() -> None:
    rows = [conversation_at("train", index) for index in range(400)]
    assert (
        rows
        == [conversation_at("train", index) for index in range(400)]
        != [conversation_at("train", index, 1) for index in range(400)]
    )
    assert all(row.keys() in ({"messages"}, {"instruction", "input", "output"}) for row in rows)
    for row in rows:
        turns = turns_of(row)
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert len({turn["content"] for turn in turns[::2]}) == len(turns) // 2  # no question twice
        assert len(" ".join(turn["content"] for turn in turns).split()) < 210
        assert not any("### Input:" in turn["content"] for turn in turns[1:])


def test_a_conversation_asks_about_one_story() -> None:
    rows = [turns_of(conversation_at("train", index)) for index in range(800)]
    conversations = [
        turns for turns in rows if is_story(turns[0]["content"]) and not is_story(turns[1]["content"])
    ]
    assert 120 < len([turns for turns in conversations if len(turns) > 2]) < 260
    for turns in conversations:
        story = turns[0]["content"].partition("### Input:\n")[2]
        questions = 5 if len(story.split()) <= CONVERSATION_WORDS else 4
        assert len(turns) == 2 * questions or len(turns) < 6, (
            turns
        )  # the latter: a single question, and others


def test_turns_follow_a_story_and_some_are_about_something_else() -> None:
    rows = [turns_of(conversation_at("train", index)) for index in range(3_000)]
    after_story = [turns for turns in rows if is_story(turns[1]["content"])]
    followed = [turns for turns in after_story if len(turns) > 2]
    assert len(followed) > 0.7 * len(after_story) > 150

    # A follow-up about the story is one of the questions that its tale answers: its answer is in no other story.
    unrelated = re.compile(r"opposite|mean|two|list|words|items|how many|which", re.IGNORECASE)
    hits = [bool(unrelated.search(turns[2]["content"])) for turns in followed]
    assert 0.4 < mean(hits) < 0.95


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
        task, tale = story_task("about" if index % 2 else "continue", "train", rng)
        rejected = examples._off_subject(task, tale, "train", rng)
        assert names(task.output, task.character) and names(task.output, task.object)
        flaws = (names(rejected, task.character), names(rejected, task.object))
        assert not all(flaws), (task, rejected)
        missing[flaws] += 1
    assert min(missing[True, False], missing[False, True]) > 20  # either alone happens often


def test_flaws_are_drawn_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Counter()
    for name, flaw in zip(("_off_subject", "_unkind", "_repetitive", "_broken"), FLAWS, strict=False):
        monkeypatch.setattr(examples, name, lambda *_, flaw=flaw: flaw)
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


def test_the_command_prints_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stories.examples", "--split", "val", "--count", "2"])
    examples.main()
    printed = capsys.readouterr().out
    row = instruction_at("val", 1)
    assert instruction_text(row["instruction"], row["input"]) in printed and row["output"] in printed
    monkeypatch.setattr("sys.argv", ["stories.examples", "--count", "2", "--preferences"])
    examples.main()
    assert preference_at("train", 1)["rejected"][1]["content"] in capsys.readouterr().out
