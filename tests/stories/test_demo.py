"""Demonstration: its prompts are of the story world's own kinds, and the replies are the model's."""

import re

import pytest

from runtime.errors import UserError
from stories import demo
from stories.task_tables import GROUPS, OPPOSITES


def test_prompts_are_of_the_story_world() -> None:
    assert len(demo.PROMPTS) == 5
    assert sum("story" in prompt for prompt in demo.PROMPTS) == 2
    text = " ".join(demo.PROMPTS)
    assert re.search(r"opposite of (\w+)\?", text)[1] in OPPOSITES.replace(",", " ").split()
    animals, listed = GROUPS["animals"].split(), re.search(r"animals: (.*)\?", text)[1]
    assert sum(word in animals for word in re.findall(r"\w+", listed)) == 2


def test_the_model_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no-such-run"):
        demo.demonstrate("no-such-run", "cpu", None)
