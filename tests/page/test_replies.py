"""Models of the page without a page: newest run, loading, streaming, closing, probabilities."""

import os
import re
import threading
import time
from collections.abc import Iterable

import pytest
import replies
import torch
from handlers import PageHandlers
from page_browser import SAMPLING
from replies import ENDED_WITH_EOS, MAX_PROMPT_CHARS, Reply, StageModels, check_prompt
from stand_ins import ARGS, run_of, three_runs
from streams import throttle

from generation import chat
from runtime.errors import UserError

QUESTION = [{"role": "user", "content": "tell me"}]


@pytest.fixture
def models(tmp_path, env):
    """A model for each stage, none of them loaded."""
    three_runs(tmp_path)
    return StageModels(ARGS.replace(save_checkpoint_dir=str(tmp_path), max_length=12, seed=5), env)


def last(replies: Iterable[Reply]) -> Reply:
    """Return the complete reply."""
    *_, reply = replies
    return reply


def test_each_stage_finds_its_newest_run(models, tmp_path):
    assert models.newest_folder("sft").parent.name == "S-toy"
    newer = run_of("S", tmp_path, name="S-other")
    soon = time.time() + 5
    os.utime(newer.parent / "latest", (soon, soon))
    assert models.newest_folder("sft") == newer
    assert models.newest_folder("dpo").parent.name == "D-toy"


def test_a_missing_stage_names_the_command_that_makes_it(tmp_path, env):
    models = StageModels(ARGS.replace(save_checkpoint_dir=str(tmp_path)), env)
    run_of("P", tmp_path)
    assert models.newest_folder("pretrained")
    for stage, command in (("sft", "trainer.py --train S"), ("dpo", "trainer.py --train D")):
        with pytest.raises(UserError, match=command):
            models.load(stage)


def test_a_model_is_loaded_once_and_replaced_by_a_newer_step(models, tmp_path, monkeypatch):
    loads = []
    load_chat_model = replies.load_chat_model

    def count_loads(folder):
        loads.append(folder)
        return load_chat_model(folder)

    monkeypatch.setattr(replies, "load_chat_model", count_loads)
    threads = [threading.Thread(target=models.load, args=("sft",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1 and list(models.loaded) == ["sft"]

    newer = run_of("S", tmp_path, step=2)
    old_weight = models.load("sft").model.lm_head.weight
    assert loads[1:] == [newer] and list(models.loaded) == ["sft"]

    # The run is repeated under the same name, up to the same step.
    newer.parent.rename(tmp_path / "S-toy.old1")
    os.utime(tmp_path / "S-toy.old1" / "latest", (0, 0))
    assert run_of("S", tmp_path, step=2, seed=9) == newer
    new_weight = models.load("sft").model.lm_head.weight
    assert not torch.equal(old_weight, new_weight)
    assert models.load("sft") and loads[1:] == [newer, newer]


def test_a_reply_grows_and_is_the_same_for_the_same_seed(models):
    stream = list(models.stream_reply("sft", QUESTION, models.args))
    texts = [reply.text for reply in stream]
    assert len(set(texts)) >= 4
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert [reply.end_reason for reply in stream[:-1]] == [None] * (len(stream) - 1)

    reply = stream[-1]
    assert len(reply.output_ids) == 12 and reply.end_reason == "reached --max_length"
    assert 0 < reply.first_token_seconds <= reply.seconds
    assert re.fullmatch(
        r"12 tokens · \d+ tokens/s · first after \d+ ms · reached --max_length", reply.summary
    )

    other_seed = models.args.replace(seed=6)
    assert last(models.stream_reply("sft", QUESTION, models.args)).output_ids == reply.output_ids
    assert last(models.stream_reply("sft", QUESTION, other_seed)).output_ids != reply.output_ids
    assert last(models.stream_reply("dpo", QUESTION, models.args)).output_ids != reply.output_ids


def test_a_stop_text_ends_a_reply_before_it(models):
    complete = last(models.stream_reply("sft", QUESTION, models.args)).text
    stopped = last(models.stream_reply("sft", QUESTION, models.args.replace(stop=(complete[5:7],))))
    assert complete.startswith(stopped.text) and len(stopped.text) <= 5
    assert stopped.end_reason == "ended with EOS or a --stop text"


def test_a_reply_ends_where_the_context_ends(models):
    messages = [{"role": "user", "content": "x" * 505}]
    reply = last(models.stream_reply("pretrained", messages, models.args))
    assert len(reply.prompt_ids) + len(reply.output_ids) <= ARGS.block_size
    assert reply.end_reason == "the context is full"


def test_a_prompt_longer_than_the_context_is_refused(models):
    messages = [{"role": "user", "content": "x" * 512}]
    with pytest.raises(UserError, match="512 tokens.* 512"):
        next(models.stream_reply("pretrained", messages, models.args))


def test_the_oldest_turns_are_dropped_if_the_conversation_does_not_fit(models):
    turns = [{"role": role, "content": "x" * 150} for role in ("user", "assistant")] * 3
    reply = last(models.stream_reply("sft", turns + QUESTION, models.args))
    assert reply.dropped_turns == 4
    assert reply.summary.endswith("the context is full: skipped the oldest 4 turns")


def test_closing_a_reply_ends_the_decoding(models, monkeypatch):
    tokens = []
    closed = []
    generate = chat.generate

    def recorded_generate(*args, **options):
        try:
            for token in generate(*args, **options):
                tokens.append(token)
                yield token
        finally:
            closed.append(True)

    monkeypatch.setattr(chat, "generate", recorded_generate)
    stream = throttle(models.stream_reply("sft", QUESTION, models.args.replace(max_length=200)), 0)
    next(stream)
    next(stream)
    assert 2 <= len(tokens) < 12 and not closed
    stream.close()
    assert closed == [True] and len(tokens) < 12


def test_token_probabilities_equal_the_models(models):
    reply = last(models.stream_reply("sft", QUESTION, models.args))
    token_probs = models.token_probs("sft", reply, top=4)
    chat_model = models.load("sft")

    for position, (token, result) in enumerate(zip(reply.output_ids, token_probs, strict=True)):
        prefix = torch.tensor([reply.prompt_ids + reply.output_ids[:position]])
        with torch.no_grad():
            expected = chat_model.model(prefix)[0, -1].softmax(-1)
        top_probs = [probability for _, probability in result.alternatives]
        assert result.probability == pytest.approx(expected[token].item(), abs=1e-6)
        assert top_probs == pytest.approx(expected.topk(4).values.tolist(), abs=1e-6)
        assert result.text == chat_model.tokenizer.decode([token])

    assert len({round(result.probability, 3) for result in token_probs}) > 3


def test_eos_has_a_probability_too(models):
    encode = models.load("sft").tokenizer.encode
    reply = Reply("ab", encode("hello"), encode("ab"), 0.1, 0.2, 0, ENDED_WITH_EOS)
    assert [token.text for token in models.token_probs("sft", reply)] == ["a", "b", "⟨end⟩"]


def test_empty_and_long_prompts_are_refused():
    check_prompt("x" * MAX_PROMPT_CHARS)
    with pytest.raises(UserError, match="empty"):
        check_prompt(" \n")
    with pytest.raises(UserError, match="has 8,001 characters, the limit is 8,000"):
        check_prompt("x" * 8_001)


def test_models_may_be_named(tmp_path, env):
    runs = three_runs(tmp_path)
    step = next((runs / "S-toy").glob("step_*"))
    models = StageModels(ARGS.replace(save_checkpoint_dir=str(runs)), env, ["dpo", str(step)])
    assert [choice.title for choice in models.choices.values()] == [
        f"D-toy/{models.newest_folder('dpo').name}",
        f"S-toy/{step.name}",
    ]
    assert all(choice.instruct and not choice.own_template for choice in models.choices.values())
    assert models.newest_folders() == {"dpo": models.newest_folder("dpo"), str(step): step}
    with pytest.raises(UserError, match="no model in"):
        StageModels(ARGS, env, [str(tmp_path / "none")])


def test_named_models_are_the_choices_of_the_page(tmp_path, env):
    runs = three_runs(tmp_path)
    names = [str(runs / name) for name in ("P-toy", "S-toy")]
    page = PageHandlers(
        StageModels(ARGS.replace(save_checkpoint_dir=str(runs)), env, names), tmp_path / "votes"
    )
    assert page.newest_stage() == names[0] and page.letters == "AB"
    assert not page.show_system(names[0])["visible"] and page.show_system(names[1])["visible"]
    *_, last = page.stream_comparison("hi", 2, *SAMPLING, 1)
    assert sorted(last[1].order) == names

    alone = PageHandlers(StageModels(ARGS, env, names[:1]), tmp_path / "votes")
    *_, status = next(alone.stream_comparison("hi", 2, *SAMPLING, 1))
    assert "start the page with --model and two folders or more" in status
