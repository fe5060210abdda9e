"""Demonstration: its prompts are of the story world's own kinds, and the replies are the model's."""

import re
from pathlib import Path

import pytest

from config import ModelArgs
from generation.chat import ChatModel
from model import Llama
from stories import demo
from stories.task_tables import GROUPS, OPPOSITES
from tokenizer import byte_level


def test_prompts_are_of_the_story_world() -> None:
    assert len(demo.PROMPTS) == 5
    assert sum("story" in prompt for prompt in demo.PROMPTS) == 2
    text = " ".join(demo.PROMPTS)
    assert re.search(r"opposite of (\w+)\?", text)[1] in OPPOSITES.replace(",", " ").split()
    animals, listed = GROUPS["animals"].split(), re.search(r"animals: (.*)\?", text)[1]
    assert sum(word in animals for word in re.findall(r"\w+", listed)) == 2


def test_the_model_is_run(tiny: ModelArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    model = Llama(tiny.replace(vocab_size=320, block_size=600)).eval()
    monkeypatch.setattr(demo, "find_model", Path)
    monkeypatch.setattr(demo, "load_chat_model", lambda folder: ChatModel(model, tokenizer, "D"))
    monkeypatch.setattr(demo, "STORY_TOKENS", 20)
    text = demo.demonstrate("run", "cpu", None)
    assert all(f"> {prompt}" in text for prompt in demo.PROMPTS)
    assert text == demo.demonstrate("run", "cpu", None)
    assert " ".join(text.splitlines()[-2:]) in demo.SCOPE
