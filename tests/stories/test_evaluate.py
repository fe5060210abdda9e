"""The story suite: it counts what a model says, and what it leaves unsaid."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from config import ModelArgs
from generation.generate import GREEDY, SamplingParams
from model import Llama
from runtime.errors import UserError
from stories import evaluate
from stories.tasks import QUESTIONS, STORIES, task_at
from tokenizer import Tokenizer, byte_level, instruction_text

ROOMY = SimpleNamespace(args=ModelArgs(block_size=100_000))  # of a model that is not asked


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_level()


def oracle(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer, say) -> list[int]:
    """Puts in the place of decoding a model that says say(task); returns the sizes of the batches it was asked for."""
    known = {}
    for kind in (*QUESTIONS, *STORIES):
        for n in range(60):
            task = task_at("val", n, 0, kind)
            ids, _ = tokenizer.render(
                [{"role": "user", "content": instruction_text(task.instruction, task.input)}]
            )
            known[tuple(ids)] = task
    sizes = []

    def generate_batch(
        model, prompts, max_new_tokens: int, stop_id: int, params: SamplingParams
    ) -> Iterator[list[int | None]]:
        sizes.append(len(prompts))
        said = [[*tokenizer.encode(say(known[tuple(ids)])), None][:max_new_tokens] for ids in prompts]
        for place in range(max(map(len, said))):
            yield [ids[place] if place < len(ids) else None for ids in said]

    monkeypatch.setattr(evaluate, "generate_batch", generate_batch)
    for limit in ("ANSWER_TOKENS", "STORY_TOKENS"):
        monkeypatch.setattr(evaluate, limit, 2000)  # which are bytes here
    return sizes


def scores(tokenizer: Tokenizer) -> dict[str, float]:
    return evaluate.story_suite(ROOMY, tokenizer, questions=3 * len(QUESTIONS), stories=30)


def test_right_answers_and_our_own_stories_have_full_marks(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    sizes = oracle(monkeypatch, tokenizer, lambda task: task.output)
    found = scores(tokenizer)
    assert {found[name] for name in found if name.startswith("exact")} == {1.0}
    assert (found["on_subject"], found["ended"], found["complete"], found["kind"]) == (1, 1, 1, 1)
    assert found["repetition"] < 0.01 and 40 < found["words"] < 140
    assert max(sizes) <= evaluate.BATCH and sum(sizes) > 40


def test_what_is_wrong_is_counted(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    oracle(monkeypatch, tokenizer, lambda task: "I like cats. " * 400)  # off the subject, and without an end
    found = scores(tokenizer)
    assert (found["exact"], found["on_subject"], found["ended"], found["complete"]) == (0, 0, 0, 0)
    assert found["repetition"] > 0.9 and found["kind"] == 1
    oracle(
        monkeypatch,
        tokenizer,
        lambda task: f"{task.output} Tom was mean that day, and he was even proud of it.",
    )
    assert scores(tokenizer)["kind"] == 0


def test_answers_come_in_the_order_of_the_tasks(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    oracle(monkeypatch, tokenizer, lambda task: task.instruction[:20])
    tasks = evaluate.held_out(tuple(QUESTIONS), 40, 0)
    assert len({task.instruction for task in tasks}) > 30
    found = list(evaluate.answers(ROOMY, tokenizer, tasks, 24))
    assert found == [(task.instruction[:20].strip(), True) for task in tasks]


def test_a_model_is_asked(tiny: ModelArgs, tokenizer: Tokenizer) -> None:
    model = Llama(tiny.replace(vocab_size=320, block_size=1600)).eval()
    found = evaluate.story_suite(model, tokenizer, questions=len(QUESTIONS), stories=3)
    assert found["exact"] == 0 and 0 <= found["ended"] <= 1


def test_what_the_context_cuts_off_has_not_ended(tiny: ModelArgs, tokenizer: Tokenizer) -> None:
    tasks = evaluate.held_out(tuple(STORIES), 4, 0)
    asked = [instruction_text(task.instruction, task.input) for task in tasks]
    longest = max(len(tokenizer.render([{"role": "user", "content": content}])[0]) for content in asked)
    model = Llama(tiny.replace(vocab_size=320, block_size=longest + 5)).eval()
    assert not any(ended for _, ended in evaluate.answers(model, tokenizer, tasks, 220, GREEDY))
    with pytest.raises(UserError, match=f"has {longest} tokens, and the model's context holds {longest}"):
        model = Llama(tiny.replace(vocab_size=320, block_size=longest)).eval()
        list(evaluate.answers(model, tokenizer, tasks, 220))
