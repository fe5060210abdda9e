"""Models of the page without a page: newest run, loading, streaming, closing, probabilities."""

import os
import re
import threading
import time
from collections.abc import Iterable

import pytest
import replies
import torch
from replies import (
    CONTEXT_FULL,
    CUT_BY_LENGTH,
    MAX_PROMPT_CHARS,
    Reply,
    StageModels,
    check_prompt,
    folder_label,
    fresh_seed,
)
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
    assert len(reply.output_ids) == 12 and reply.end_reason == CUT_BY_LENGTH
    assert 0 < reply.first_token_seconds <= reply.seconds
    assert re.fullmatch(
        r"12 tokens · \d+ tokens/s · first after \d+ ms · cut: the length is reached", reply.summary
    )

    other_seed = models.args.replace(seed=6)
    assert last(models.stream_reply("sft", QUESTION, models.args)).output_ids == reply.output_ids
    assert last(models.stream_reply("sft", QUESTION, other_seed)).output_ids != reply.output_ids
    assert last(models.stream_reply("dpo", QUESTION, models.args)).output_ids != reply.output_ids


def test_a_stop_text_ends_a_reply_before_it(models):
    complete = last(models.stream_reply("sft", QUESTION, models.args)).text
    stopped = last(models.stream_reply("sft", QUESTION, models.args.replace(stop=(complete[5:7],))))
    assert complete.startswith(stopped.text) and len(stopped.text) <= 5
    assert stopped.end_reason == "finished, or ended at a --stop text"


def test_a_reply_ends_where_the_context_ends(models):
    messages = [{"role": "user", "content": "x" * 505}]
    reply = last(models.stream_reply("pretrained", messages, models.args))
    assert len(reply.prompt_ids) + len(reply.output_ids) <= ARGS.block_size
    assert reply.end_reason == CONTEXT_FULL


def test_a_prompt_longer_than_the_context_is_refused(models):
    messages = [{"role": "user", "content": "x" * 512}]
    with pytest.raises(UserError, match="512 tokens.* 512"):
        next(models.stream_reply("pretrained", messages, models.args))


def test_the_oldest_turns_are_dropped_if_the_conversation_does_not_fit(models):
    turns = [{"role": role, "content": "x" * 150} for role in ("user", "assistant")] * 3
    reply = last(models.stream_reply("sft", turns + QUESTION, models.args))
    assert reply.dropped_turns == 4
    assert reply.used == len(reply.prompt_ids) + 12 and reply.context == ARGS.block_size


def test_turns_that_are_dropped_while_a_reply_is_written_count_too(models):
    turns = [{"role": role, "content": "x" * 100} for role in ("user", "assistant")]
    long = models.args.replace(max_length=300, temperature=0.0)
    first, *_, reply = models.stream_reply("sft", turns + QUESTION, long)
    assert first.dropped_turns == 0 and reply.dropped_turns == 2 and len(reply.output_ids) == 300
    assert reply.used < ARGS.block_size


def test_a_reply_that_was_cut_continues_as_if_it_had_not_been(models):
    greedy = models.args.replace(temperature=0.0)
    complete = last(models.stream_reply("sft", QUESTION, greedy.replace(max_length=24)))
    first = last(models.stream_reply("sft", QUESTION, greedy))
    rest = last(models.stream_reply("sft", QUESTION, greedy, begun=first.output_ids))
    assert first.output_ids + rest.output_ids == complete.output_ids
    assert first.text + rest.text == complete.text
    assert rest.used == complete.used

    for token in (97, -1, 10**12):
        with pytest.raises(UserError, match="tokens that its model does not have"):
            next(models.stream_reply("sft", QUESTION, greedy, begun=[token]))

    begun = first.output_ids * 60  # longer than the context
    with pytest.raises(UserError, match="context of 512 tokens is full"):
        next(models.stream_reply("sft", QUESTION, greedy, begun=begun))


def test_a_text_that_is_longer_than_the_context_is_read_at_its_end(models):
    short = last(models.stream_text("pretrained", "once upon", models.args))
    assert short.prompt_ids == models.load("pretrained").encode([{"role": "user", "content": "once upon"}])
    assert short.dropped_tokens == 0

    long = last(models.stream_text("pretrained", "a" * 300 + "b" * 500, models.args))
    assert long.dropped_tokens == 300 and len(long.output_ids) == 12
    assert len(long.prompt_ids) == ARGS.block_size - 12 == 500


def test_token_ids_continue(models):
    reply = last(models.stream_reply("sft", QUESTION, models.args))
    again = last(models.stream_after("sft", reply.prompt_ids, models.args))
    assert again.output_ids == reply.output_ids


def test_models_have_labels_and_replies_seeds(models, tmp_path):
    step = models.newest_folder("sft")
    assert models.label("sft") == folder_label(step) == f"S-toy/{step.name}"
    assert folder_label(tmp_path / "export") == "export"
    assert models.newest_stage() == "dpo"
    assert len({fresh_seed() for _ in range(20)}) > 10


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


def test_empty_and_long_prompts_are_refused():
    check_prompt("x" * MAX_PROMPT_CHARS)
    with pytest.raises(UserError, match="empty"):
        check_prompt(" \n")
    with pytest.raises(UserError, match="has 8,001 characters, the limit is 8,000"):
        check_prompt("x" * 8_001)
    check_prompt("x" * 8_001, 9_000)


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
    assert models.newest_stage() == "dpo"
    with pytest.raises(UserError, match="no model in"):
        StageModels(ARGS, env, [str(tmp_path / "none")])
