"""Which model is meant, what it is told, and what is left out when the context is full."""

import os
import shutil
from pathlib import Path

import pytest
import torch

import checkpoint
from config import ModelArgs
from generation.chat import ChatModel, choose_model, joined, load_chat_model, stage_of
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
    """A run with one step, untrained, that was saved so many seconds ago."""
    (runs / name).mkdir(parents=True)
    run_state = {"args": {"train": stage}}
    model = Llama(ARGS)
    step = state.save(
        runs / name, TrainState(1, 0, 0), model, byte_level(), model.state_dict(), {}, run_state
    )
    os.utime(runs / name / "latest", (1e9 - age, 1e9 - age))
    return step


def speaker(stage: str | None, tokenizer: Tokenizer, legacy: bool = False) -> ChatModel:
    torch.manual_seed(0)
    return ChatModel(Llama(ARGS, legacy).eval(), tokenizer, stage)


def test_a_stage_means_its_newest_run_then_what_was_downloaded(tmp_path: Path) -> None:
    args = ARGS.replace(save_checkpoint_dir=str(tmp_path))
    with pytest.raises(
        UserError, match="no sft in .*trainer.py --train S.*download_model_weight.py --model_type sft"
    ):
        choose_model("sft", args)
    (tmp_path / "got").mkdir()
    checkpoint.write_model(tmp_path / "got", Llama(ARGS), byte_level(), {"stage": "S"})
    assert choose_model("sft", args) == choose_model(None, args) == tmp_path / "got"
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
    assert load_chat_model(new).answers and not load_chat_model(base).answers


@pytest.mark.parametrize(
    "config, stage", [('{"smolllama": {"stage": "D"}}', "D"), ("{}", None), ('{"smolllama": 3}', None)]
)
def test_a_foreign_folder_has_no_stage(tmp_path: Path, config: str, stage: str | None) -> None:
    (tmp_path / "config.json").write_text(config)
    assert stage_of(tmp_path) == stage


def test_only_those_who_learned_to_answer_are_asked_in_the_template(tokenizer: Tokenizer) -> None:
    for stage, raw, said in (
        ("S", False, True),
        ("D", False, True),
        ("D", True, False),
        ("P", False, False),
        (None, False, False),
    ):
        text = tokenizer.decode(speaker(stage, tokenizer).ids([QUESTION], raw))
        assert text == ("### Instruction:\nWho?\n\n### Response:\n" if said else "Who?")
    assert speaker("P", tokenizer).ids([{"role": "user", "content": ""}]) == [tokenizer.eos_id]


def test_the_published_weights_are_asked_as_they_were_taught(tokenizer: Tokenizer) -> None:
    ids = speaker("S", tokenizer, legacy=True).ids([QUESTION])
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


def test_the_oldest_turns_give_way(tokenizer: Tokenizer) -> None:
    someone, lost = speaker("S", tokenizer), []
    for questions in range(1, 9):
        turns = conversation(questions)
        ids, dropped = someone.prompt(turns, 40)
        assert ids == someone.ids(turns[dropped:]) and len(ids) <= 256 - 40
        assert dropped == 0 or len(someone.ids(turns[dropped - 2 :])) > 256 - 40  # no more than must
        assert tokenizer.decode(ids).startswith("### Instruction:\nuser")
        lost.append(dropped)
    assert lost[0] == 0 and lost[-1] >= 8 and sorted(lost) == lost


def test_a_systems_turn_stays(tokenizer: Tokenizer) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *conversation(9)]
    ids, dropped = speaker("S", tokenizer).prompt(turns, 40)
    assert (
        tokenizer.decode(ids).startswith("### System:\nBe brief.\n\n### Instruction:\nuser") and dropped > 4
    )


def test_a_turn_that_does_not_fit_alone_is_refused(tokenizer: Tokenizer) -> None:
    long = [*conversation(3)[:-1], {"role": "user", "content": "x" * 300}]
    with pytest.raises(UserError, match=r"prompt has 33\d tokens; the context holds 256"):
        speaker("S", tokenizer).prompt(long, 40)
    ids, _ = speaker("S", tokenizer).prompt([{"role": "user", "content": "x" * 150}], 1000)
    assert 128 < len(ids) < 256  # longer than half of the context, but there is nothing to leave out


def test_a_base_model_continues_what_was_said() -> None:
    turns = [
        {"role": "user", "content": "Once"},
        {"role": "assistant", "content": " upon"},
        {"role": "user", "content": "a time"},
    ]
    assert joined(turns) == "Once upon a time"


def test_the_reply_is_text_and_its_tokens(tokenizer: Tokenizer) -> None:
    someone, made = speaker(None, tokenizer), []
    args = ARGS.replace(max_length=30, temperature=2.0, top_k=0, seed=4)
    text = "".join(someone.reply(someone.ids([QUESTION]), args, made))
    assert 10 < len(made) <= 30 and text == "".join(tokenizer.stream(made))
    shorter = "".join(someone.reply(someone.ids([QUESTION]), args.replace(stop=[text[5:8]]), []))
    assert text.startswith(shorter) and len(shorter) <= 5


def test_a_tokenizer_that_is_not_the_models_is_said(tmp_path: Path) -> None:
    checkpoint.write_model(tmp_path, Llama(ARGS.replace(vocab_size=256)), byte_level(), {"stage": "S"})
    with pytest.raises(UserError, match="has 257 tokens, the model knows only 256"):
        load_chat_model(tmp_path)
