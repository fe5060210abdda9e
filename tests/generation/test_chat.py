"""Choice of a model, prompts of a conversation, dropped turns, replies and stop strings."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import checkpoint
from config import ModelArgs
from generation import chat
from generation.chat import (
    ChatModel,
    Prompt,
    ReplyPiece,
    choose_model,
    join_turns,
    load_chat_model,
    sampling_params,
    stage_of,
)
from generation.generate import generate
from model import Llama
from runtime.errors import UserError
from tokenizer import Tokenizer, byte_level
from training import state
from training.state import TrainState

ARGS = ModelArgs(
    embeddings_dims=16,
    no_of_decoder_layers=1,
    no_of_heads=2,
    no_kv_heads=2,
    hidden_dims=16,
    vocab_size=320,
    block_size=256,
    dropout=0.0,
    attn_dropout=0.0,
    device="cpu",
)
QUESTION = {"role": "user", "content": "Who?"}


def make_run(runs: Path, name: str, stage: str, age: int) -> Path:
    """Make a run with one step, untrained, that was saved `age` seconds ago."""
    (runs / name).mkdir(parents=True)
    run_state = {"args": {**ARGS.explicit, "train": stage}}
    model = Llama(ARGS)
    step = state.save(
        runs / name, TrainState(1, 0, 0), model, byte_level(), model.state_dict(), {}, run_state
    )
    os.utime(runs / name / "latest", (1e9 - age, 1e9 - age))
    return step


def chat_model(stage: str | None, tokenizer: Tokenizer, legacy: bool = False) -> ChatModel:
    torch.manual_seed(0)
    return ChatModel(Llama(ARGS, legacy).eval(), tokenizer, stage)


def test_a_stage_means_its_newest_run_then_its_download(tmp_path: Path) -> None:
    args = ARGS.replace(save_checkpoint_dir=str(tmp_path))
    with pytest.raises(
        UserError, match="no sft in .*trainer.py --train S.*download_model_weight.py --model_type sft"
    ):
        choose_model("sft", args)
    (tmp_path / "download").mkdir()
    checkpoint.write_model(tmp_path / "download", Llama(ARGS), byte_level(), {"stage": "S"})
    assert choose_model("sft", args) == choose_model(None, args) == tmp_path / "download"
    old, new, base = (
        make_run(tmp_path, name, stage, age)
        for name, stage, age in (("a", "S", 30), ("b", "S", 20), ("c", "P", 10))
    )
    assert choose_model("sft", args) == new != old and choose_model("pretrained", args) == base
    assert choose_model(None, args) == base
    assert choose_model(str(tmp_path / "a"), args) == old
    with pytest.raises(UserError, match="no dpo"):
        choose_model("dpo", args)
    shutil.rmtree(make_run(tmp_path, "z", "S", 0))  # the newest, and broken
    assert choose_model("sft", args) == new and choose_model(None, args) == base
    assert load_chat_model(new).is_instruct and not load_chat_model(base).is_instruct


@pytest.mark.parametrize(
    "config, stage", [('{"smolllama": {"stage": "D"}}', "D"), ("{}", None), ('{"smolllama": 3}', None)]
)
def test_a_foreign_folder_has_no_stage(tmp_path: Path, config: str, stage: str | None) -> None:
    (tmp_path / "config.json").write_text(config)
    assert stage_of(tmp_path) == stage


def test_only_fine_tuned_models_get_the_template(tokenizer: Tokenizer) -> None:
    for stage, raw, with_template in (
        ("S", False, True),
        ("D", False, True),
        ("D", True, False),
        ("P", False, False),
        (None, False, False),
    ):
        text = tokenizer.decode(chat_model(stage, tokenizer).encode([QUESTION], raw))
        assert text == ("### Instruction:\nWho?\n\n### Response:\n" if with_template else "Who?")
    assert chat_model("P", tokenizer).encode([{"role": "user", "content": ""}]) == [tokenizer.eos_id]


def test_the_published_weights_get_their_own_prompt(tokenizer: Tokenizer) -> None:
    ids = chat_model("S", tokenizer, legacy=True).encode([QUESTION])
    assert tokenizer.decode(ids) == (
        "### Instruction: Answer the following query. \n\n ### Input: Who?.\n\n ### Response: "
    )


def conversation(questions: int) -> list[dict[str, str]]:
    turns = [
        {"role": role, "content": f"{role} {n} says"}
        for n in range(questions)
        for role in ("user", "assistant")
    ]
    return turns[:-1]


def test_the_oldest_turns_are_dropped(tokenizer: Tokenizer) -> None:
    model = chat_model("S", tokenizer)
    counts = []
    for questions in range(1, 9):
        turns = conversation(questions)
        ids, dropped, kept, _ = model.build_prompt(turns, 20)
        assert kept == turns[dropped:]
        assert ids == model.encode(turns[dropped:]) and len(ids) <= 256 - 20
        assert dropped == 0 or len(model.encode(turns[dropped - 2 :])) > 256 - 20  # no more than needed
        assert tokenizer.decode(ids).startswith("### Instruction:\nuser")
        counts.append(dropped)
    assert counts[0] == 0 and counts[-1] >= 8 and sorted(counts) == counts


def test_a_systems_turn_stays(tokenizer: Tokenizer) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *conversation(9)]
    ids, dropped, _, _ = chat_model("S", tokenizer).build_prompt(turns, 40)
    assert (
        tokenizer.decode(ids).startswith("### System:\nBe brief.\n\n### Instruction:\nuser") and dropped > 4
    )


def test_a_turn_that_does_not_fit_alone_is_refused(tokenizer: Tokenizer) -> None:
    long = [*conversation(3)[:-1], {"role": "user", "content": "x" * 300}]
    with pytest.raises(UserError, match=r"prompt has 33\d tokens; the context holds 256"):
        chat_model("S", tokenizer).build_prompt(long, 40)
    prompt = chat_model("S", tokenizer).build_prompt([{"role": "user", "content": "x" * 215}], 1000)
    assert 256 * 7 / 8 < len(prompt.ids) < 256  # little room for a reply, but there is no turn to drop


def test_a_long_reply_makes_room_for_itself(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt keeps what it can; where the context is full, the oldest turns go and the reply continues."""
    model = chat_model("S", tokenizer)
    calls = []

    def letters(_: object, ids: list[int], count: int, *rest: object) -> Iterator[int]:
        calls.append(len(ids))
        yield from [ord("a")] * min(count, 256 - len(ids))

    monkeypatch.setattr(chat, "generate", letters)
    turns = conversation(6)
    prompt = model.build_prompt(turns, 150)
    *_, last = model.stream_reply(prompt, ARGS.replace(max_length=150))
    assert len(last.out_ids) == 150 and len(calls) > 1
    assert last.room >= 150

    *_, last = model.stream_reply(
        prompt, ARGS.replace(max_length=500)
    )  # the last question alone still leaves too little
    alone = len(model.encode(turns[-1:]))
    assert len(last.out_ids) == last.room == 256 - alone


def test_a_base_model_continues_the_text() -> None:
    turns = [
        {"role": "user", "content": "Once"},
        {"role": "assistant", "content": " upon"},
        {"role": "user", "content": "a time"},
    ]
    assert join_turns(turns) == "Once upon a time"


def test_the_reply_is_text_and_its_tokens(tokenizer: Tokenizer) -> None:
    model = chat_model(None, tokenizer)
    prompt_ids = model.encode([QUESTION])
    args = ARGS.replace(max_length=30, temperature=2.0, top_k=0, seed=4)

    pieces = list(model.stream_reply(Prompt(prompt_ids), args))
    text = "".join(piece.text for piece in pieces)
    out_ids = pieces[-1].out_ids
    assert 10 < len(out_ids) <= 30
    assert out_ids == list(generate(model.model, prompt_ids, 30, [tokenizer.eos_id], sampling_params(args)))
    next_text = tokenizer.stream_decoder()
    assert text == "".join(next_text(token) or "" for token in out_ids)

    stopped = list(model.stream_reply(Prompt(prompt_ids), args.replace(stop=[text[5:8]])))
    shorter = "".join(piece.text for piece in stopped)
    assert text.startswith(shorter) and len(shorter) <= 5
    assert len(stopped[-1].out_ids) < len(out_ids)


def reply_to(pieces: list[str], stops: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[ReplyPiece]:
    """Return the reply of a model whose token n has the text pieces[n]."""
    monkeypatch.setattr(chat, "generate", lambda *args: iter(range(len(pieces))))
    tokenizer = SimpleNamespace(stop_ids=[0], stream_decoder=lambda context: pieces.__getitem__)
    model = SimpleNamespace(args=ARGS)
    return list(ChatModel(model, tokenizer, "P").stream_reply(Prompt([1]), ARGS.replace(stop=tuple(stops))))


@pytest.mark.parametrize(
    "pieces, stops, text",
    [
        (["one ", "two"], (), "one two"),
        (["one t", "w", "o three"], ("two",), "one "),
        (["one t", "he", "n two"], ("two",), "one then "),
        (["aab", "aac"], ("aac",), "aab"),
        (["aa", "aa", "b"], ("aab",), "aa"),
        (["x\n", "\n", "y"], ("###", "\n\n"), "x"),
        (["one tw"], ("two",), "one tw"),
        (["two one"], ("two",), ""),
        (["b a"], ("a", "b"), ""),
    ],
)
def test_text_ends_before_a_stop_string(
    pieces: list[str], stops: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "".join(piece.text for piece in reply_to(pieces, stops, monkeypatch)) == text


def test_a_stop_string_holds_back_no_more_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    out_ids = []
    texts = []
    for piece in reply_to(["a", "b", "#", "c", "##", "d"], ["##"], monkeypatch):
        texts.append(piece.text)
        out_ids = piece.out_ids
    assert texts == ["a", "b", "", "#c", ""]
    assert out_ids == [0, 1, 2, 3, 4]  # nothing is generated after the stop string


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    checkpoint.write_model(tmp_path, Llama(ARGS.replace(vocab_size=256)), byte_level(), {"stage": "S"})
    with pytest.raises(UserError, match="has 257 tokens, the model only 256"):
        load_chat_model(tmp_path)
