"""The page's models without a page: finding, loading, streaming, closing, probabilities, votes."""

import json
import os
import re
import threading
import time

import pytest
import replies
import torch
from replies import Duel, Models, Reply, keep_vote, paced, side_by_side
from stand_ins import ARGS, run_of, three_runs

from dataprep import conversations
from generation import chat
from runtime.errors import UserError

ASK = [{"role": "user", "content": "tell me"}]


@pytest.fixture
def models(tmp_path, env):
    """Three models that nobody has asked for yet."""
    three_runs(tmp_path)
    return Models(ARGS.replace(save_checkpoint_dir=str(tmp_path), max_length=12, seed=5), env)


def last(replies) -> Reply:
    """The finished reply."""
    *_, reply = replies
    return reply


def test_each_stage_finds_its_newest_run(models, tmp_path):
    assert models.find("sft").parent.name == "S-toy"
    newer = run_of("S", tmp_path, name="S-other")
    os.utime(newer.parent / "latest", (time.time() + 5,) * 2)
    assert models.find("sft") == newer and models.find("dpo").parent.name == "D-toy"


def test_a_missing_stage_names_the_command_that_makes_it(tmp_path, env):
    models = Models(ARGS.replace(save_checkpoint_dir=str(tmp_path)), env)
    run_of("P", tmp_path)
    assert models.find("pretrained")
    for stage, command in (("sft", "trainer.py --train S"), ("dpo", "trainer.py --train D")):
        with pytest.raises(UserError, match=command):
            models.load(stage)


def test_a_model_is_loaded_once_and_replaced_by_a_newer_step(models, tmp_path, monkeypatch):
    loads = []
    real = replies.load_chat_model
    monkeypatch.setattr(replies, "load_chat_model", lambda folder: loads.append(folder) or real(folder))
    threads = [threading.Thread(target=models.load, args=("sft",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1 and list(models.kept) == ["sft"]
    newer = run_of("S", tmp_path, step=2)
    assert models.load("sft") and loads[1:] == [newer] and list(models.kept) == ["sft"]
    newer.parent.rename(tmp_path / "S-toy.old1")  # trained anew under the same name, to the same step
    os.utime(tmp_path / "S-toy.old1" / "latest", (0, 0))
    assert run_of("S", tmp_path, step=2, seed=9) == newer
    old, new = models.kept["sft"][1].model.lm_head.weight, models.load("sft").model.lm_head.weight
    assert not torch.equal(old, new) and models.load("sft") and loads[1:] == [newer, newer]


def test_a_reply_grows_and_is_the_same_for_the_same_seed(models):
    replies = list(models.reply("sft", ASK, models.args))
    texts = [reply.text for reply in replies]
    assert len(set(texts)) >= 4 and all(b.startswith(a) for a, b in zip(texts, texts[1:], strict=False))
    assert [bool(reply.ended) for reply in replies] == [False] * (len(replies) - 1) + [True]
    end = replies[-1]
    assert len(end.ids) == 12 and end.ended == "reached --max_length" and 0 < end.first <= end.seconds
    assert re.fullmatch(r"12 tokens · \d+ tokens/s · first after \d+ ms · reached --max_length", end.summary)
    assert last(models.reply("sft", ASK, models.args)).ids == end.ids
    assert last(models.reply("sft", ASK, models.args.replace(seed=6))).ids != end.ids
    assert last(models.reply("dpo", ASK, models.args)).ids != end.ids


def test_a_stop_string_ends_a_reply_before_it(models):
    whole = last(models.reply("sft", ASK, models.args)).text
    end = last(models.reply("sft", ASK, models.args.replace(stop=(whole[5:7],))))
    assert whole.startswith(end.text) and len(end.text) <= 5 and end.ended == "met --stop or ended"


def test_a_reply_ends_where_the_context_ends_and_a_longer_prompt_is_refused(models):
    long = [{"role": "user", "content": "x" * 505}]
    end = last(models.reply("pretrained", long, models.args))
    assert len(end.prompt) + len(end.ids) <= ARGS.block_size and end.ended == "the context is full"
    with pytest.raises(UserError, match="has 512 tokens; the context holds 512"):
        next(models.reply("pretrained", [{"role": "user", "content": "x" * 512}], models.args))


def test_turns_that_do_not_fit_are_left_out_and_it_is_said(models):
    chat = [{"role": role, "content": "x" * 150} for role in ("user", "assistant")] * 3 + ASK
    end = last(models.reply("sft", chat, models.args))
    assert end.dropped == 4 and end.summary.endswith("the context is full: the oldest 4 turns left out")


def test_closing_a_reply_ends_the_decoding(models, monkeypatch):
    made, closed = [], []
    real = chat.generate

    def watched(*args, **options):
        try:
            for token in real(*args, **options):
                made.append(token)
                yield token
        finally:
            closed.append(True)

    monkeypatch.setattr(chat, "generate", watched)
    replies = paced(models.reply("sft", ASK, models.args.replace(max_length=200)), 0)
    next(replies), next(replies)
    assert 2 <= len(made) < 12 and not closed
    replies.close()
    assert closed == [True] and len(made) < 12


def test_probabilities_are_exactly_the_models(models):
    reply = last(models.reply("sft", ASK, models.args))
    seen = models.look("sft", reply, top=4)
    model, tokenizer = models.load("sft").model, models.load("sft").tokenizer
    for place, (token, found) in enumerate(zip(reply.ids, seen, strict=True)):
        with torch.no_grad():
            logits = model(torch.tensor([reply.prompt + reply.ids[:place]]))[0, -1]
        wanted = logits.softmax(-1)
        assert found.probability == pytest.approx(wanted[token].item(), abs=1e-6)
        assert [value for _, value in found.alternatives] == pytest.approx(
            wanted.topk(4).values.tolist(), abs=1e-6
        )
        assert found.text == tokenizer.decode([token])
    assert len({round(found.probability, 3) for found in seen}) > 3


def test_the_end_of_text_is_seen_too(models):
    encode = models.load("sft").tokenizer.encode
    seen = models.look("sft", Reply("ab", encode("hello"), encode("ab"), 0.1, 0.2, 0, "ended by itself"))
    assert [token.text for token in seen] == ["a", "b", "⟨end⟩"]


def test_streams_take_turns_and_end_on_their_own():
    pulls = []

    def stream(name, count):
        for number in range(count):
            pulls.append(name)
            yield f"{name}{number}"

    shown = list(side_by_side([stream("a", 3), stream("b", 1), stream("c", 2)]))
    assert shown == [["a0", "b0", "c0"], ["a1", "b0", "c1"], ["a2", "b0", "c1"]]
    assert "".join(pulls) == "abcaca"


def test_pace_keeps_the_first_and_the_last():
    assert list(paced(range(100), 60)) == [0, 99]
    assert list(paced(range(5), 0)) == [0, 1, 2, 3, 4] and list(paced([], 0)) == []


def test_a_vote_is_preference_rows(tmp_path):
    def duel(prompt, *texts):
        return Duel(
            prompt, ["pretrained", "sft", "dpo"], [text and Reply(text, [], [], 0, 0) for text in texts]
        )

    file = tmp_path / "votes.jsonl"
    assert keep_vote(file, duel("Hi ✓", "bad", " good\n", "worse"), 1) == 2
    assert keep_vote(file, duel("Hi", "same", "same ", "other"), 0) == 1
    assert keep_vote(file, duel("Hi", "one", None, "one"), 0) == 0
    assert keep_vote(file, duel("Hi", " ", "other", "another"), 0) == 0
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["rejected"][1]["content"] for row in rows] == ["bad", "worse", "other"]
    assert rows[0]["chosen"] == [
        {"role": "user", "content": "Hi ✓"},
        {"role": "assistant", "content": "good"},
    ]
    assert conversations.preference(rows[0], "row 1") == (
        rows[0]["chosen"],
        rows[0]["rejected"],
        1,
    )  # as data.py reads
