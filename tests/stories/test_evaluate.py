"""Story suite: its measures, and the answers that they are measures of."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import zip_longest
from types import SimpleNamespace

import pytest

from config import ModelArgs
from generation.generate import GREEDY, SamplingParams
from model import Llama
from runtime.errors import UserError
from stories import evaluate
from stories.tasks import QUESTIONS, STORIES, UNRELATED, Task, task_at, unkind
from tokenization.prompt_template import instruction_text
from tokenizer import Tokenizer, byte_level

ROOMY = SimpleNamespace(args=ModelArgs(block_size=100_000))  # of a model that is never run


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_level()


def oracle(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer, reply: Callable[[Task], str]) -> list[int]:
    """Replace generation by a model that answers reply(task); returns a list that batch sizes are added to."""
    tasks = [task_at("val", n, 0, kind) for kind in (*QUESTIONS, *STORIES) for n in range(60)]
    tasks += evaluate.held_out_second_turns(60, 0)
    known = {tuple(tokenizer.render(task.turns[:-1])[0]): task for task in tasks}
    sizes = []

    def generate_batch(
        model, prompts, max_new_tokens: int, stop_ids: list[int], params: SamplingParams
    ) -> Iterator[list[int | None]]:
        sizes.append(len(prompts))
        outputs = [[*tokenizer.encode(reply(known[tuple(ids)])), None][:max_new_tokens] for ids in prompts]
        for column in zip_longest(*outputs):
            yield list(column)

    monkeypatch.setattr(evaluate, "generate_batch", generate_batch)
    for limit in ("ANSWER_TOKENS", "STORY_TOKENS"):
        monkeypatch.setattr(evaluate, limit, 2000)  # bytes, here
    return sizes


def scores(tokenizer: Tokenizer) -> dict[str, float]:
    return evaluate.story_suite(ROOMY, tokenizer, questions=3 * len(QUESTIONS), stories=30)


def test_right_answers_and_stories_of_the_world_have_full_marks(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    sizes = oracle(monkeypatch, tokenizer, lambda task: task.output)
    measures = scores(tokenizer)
    assert {measures[name] for name in measures if name.startswith("exact")} == {1.0}
    assert (measures["on_subject"], measures["ended"], measures["complete"], measures["kind"]) == (1, 1, 1, 1)
    assert measures["repetition"] < 0.01 and 40 < measures["words"] < 140
    assert max(sizes) <= evaluate.BATCH and sum(sizes) > 40


def test_a_second_turn_is_answered_in_its_conversation(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    tasks = evaluate.held_out_second_turns(48, 0)
    assert tasks == evaluate.held_out_second_turns(48, 0)
    assert [task.kind in UNRELATED for task in tasks] == [False, True] * 24
    assert QUESTIONS.keys() - {task.kind for task in tasks} <= {"helper"}  # few stories have a helper
    for task in tasks:
        assert [turn["role"] for turn in task.turns] == ["user", "assistant"] * 2
        assert task.turns[1]["content"] == task.story_task.output and not unkind(task.story_task.output)

    # Only questions about something else are answered: half of the second turns.
    def reply(task: Task) -> str:
        if task.story_task and task.kind not in UNRELATED:
            return "I do not know."
        return task.output

    oracle(monkeypatch, tokenizer, reply)
    measures = scores(tokenizer)
    assert measures["exact"] == 1.0 and measures["exact_second_turn"] == 0.5
    assert (measures["exact_second_turn_story"], measures["exact_second_turn_other"]) == (0.0, 1.0)


def test_ranks_share_the_batches(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """Each of two ranks answers its own batches, and has all responses in the end."""
    tasks = evaluate.held_out(tuple(QUESTIONS), 50, 0)
    monkeypatch.setattr(evaluate, "BATCH", 7)
    sizes = oracle(monkeypatch, tokenizer, lambda task: task.output)
    monkeypatch.setattr(evaluate.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(evaluate.dist, "get_world_size", lambda: 2)

    gathered = []
    for rank in (0, 1):
        monkeypatch.setattr(evaluate.dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(
            evaluate, "gather_objects", lambda replies: gathered.append(dict(replies)) or gathered
        )
        replies = []
        with suppress(KeyError):  # rank 0 lacks the replies of rank 1, which has not run yet
            replies.extend(evaluate.answers(ROOMY, tokenizer, tasks, 2000))
    assert replies == [(task.output, True) for task in tasks]
    assert sum(sizes) == len(tasks) and len(gathered) == 2 and not gathered[0].keys() & gathered[1].keys()


def test_flaws_are_counted(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    oracle(monkeypatch, tokenizer, lambda task: "I like cats. " * 400)  # off the subject, and without an end
    measures = scores(tokenizer)
    assert (measures["exact"], measures["on_subject"], measures["ended"], measures["complete"]) == (
        0,
        0,
        0,
        0,
    )
    assert measures["repetition"] > 0.9 and measures["kind"] == 1
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
    replies = list(evaluate.answers(ROOMY, tokenizer, tasks, 24))
    assert replies == [(task.instruction[:20].strip(), True) for task in tasks]


def test_a_model_is_run(tiny: ModelArgs, tokenizer: Tokenizer) -> None:
    model = Llama(tiny.replace(vocab_size=320, block_size=1600)).eval()
    measures = evaluate.story_suite(model, tokenizer, questions=len(QUESTIONS), stories=3)
    assert measures["exact"] == 0 and 0 <= measures["ended"] <= 1


def test_a_response_that_fills_the_context_has_not_ended(tiny: ModelArgs, tokenizer: Tokenizer) -> None:
    tasks = evaluate.held_out(tuple(STORIES), 4, 0)
    contents = [instruction_text(task.instruction, task.input) for task in tasks]
    longest = max(len(tokenizer.render([{"role": "user", "content": content}])[0]) for content in contents)
    model = Llama(tiny.replace(vocab_size=320, block_size=longest + 5)).eval()
    assert not any(ended for _, ended in evaluate.answers(model, tokenizer, tasks, 220, GREEDY))
    with pytest.raises(UserError, match=f"has {longest} tokens, and the model's context holds {longest}"):
        model = Llama(tiny.replace(vocab_size=320, block_size=longest)).eval()
        list(evaluate.answers(model, tokenizer, tasks, 220))
