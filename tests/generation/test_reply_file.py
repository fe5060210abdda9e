"""Files of prompts: a reply for each row, equal alone and in batches, continued after a kill."""

import json
from pathlib import Path

import pytest
import torch

from config import ModelArgs
from generation.chat import ChatModel, Prompt
from generation.reply_file import BATCH, write_replies
from model import Llama
from runtime.errors import UserError
from tokenizer import byte_level

SIZES = ModelArgs(
    vocab_size=320,
    embeddings_dims=32,
    no_of_heads=4,
    no_of_decoder_layers=2,
    block_size=96,
    dropout=0,
    attn_dropout=0,
)
ARGS = SIZES.replace(max_length=12, temperature=2.0, seed=5)


@pytest.fixture(scope="module")
def chat_model() -> ChatModel:
    """Model of random, spread weights that answers."""
    torch.manual_seed(0)
    model = Llama(SIZES)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return ChatModel(model.eval(), byte_level(), "S")


def rows_file(folder: Path, count: int = BATCH + 5) -> Path:
    """Write prompts of different lengths; every third is a list of messages, every fourth has an id."""
    rows = []
    for number in range(count):
        text = "fox " * (1 + number % 4)
        row: dict = {"prompt": text}
        if number % 3 == 0:
            row = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": text}]}
        if number % 4 == 0:
            row["id"] = number
        rows.append(row)
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_row_has_the_reply_that_it_gets_alone(chat_model: ChatModel, tmp_path: Path) -> None:
    source, target = rows_file(tmp_path), tmp_path / "replies.jsonl"
    assert write_replies(chat_model, source, target, ARGS) == BATCH + 5
    asked, answered = read(source), read(target)
    ends = set()
    for number, (row, reply) in enumerate(zip(asked, answered, strict=True)):
        assert row.items() <= reply.items() and reply.keys() - row.keys() == {"reply", "end", "tokens"}
        messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        pieces = list(
            chat_model.stream_reply(
                Prompt(chat_model.encode(messages)), ARGS.replace(seed=ARGS.seed + number)
            )
        )
        assert reply["reply"] == "".join(piece.text for piece in pieces)
        ends.add(reply["end"])
    assert "length" in ends
    assert len({reply["reply"] for reply in answered}) > BATCH


def test_it_continues_where_a_kill_left_it(chat_model: ChatModel, tmp_path: Path) -> None:
    source, target = rows_file(tmp_path), tmp_path / "replies.jsonl"
    write_replies(chat_model, source, target, ARGS)
    complete = target.read_bytes()
    for size in (0, len(complete) // 3, len(complete) - 1, len(complete)):
        target.write_bytes(complete[:size])
        write_replies(chat_model, source, target, ARGS)
        assert target.read_bytes() == complete


def test_a_reply_ends_at_a_stop_string_or_with_the_context(chat_model: ChatModel, tmp_path: Path) -> None:
    source = rows_file(tmp_path, 2)
    write_replies(chat_model, source, tmp_path / "long.jsonl", ARGS.replace(max_length=500))
    long = read(tmp_path / "long.jsonl")
    assert {row["end"] for row in long} <= {"context", "end"}
    stop = long[0]["reply"][3:5]
    write_replies(chat_model, source, tmp_path / "stopped.jsonl", ARGS.replace(max_length=500, stop=(stop,)))
    (first, _) = read(tmp_path / "stopped.jsonl")
    assert first["end"] == "stop" and first["reply"] == long[0]["reply"].split(stop)[0]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "row 2 is not JSON"),
        ("[1]", "row 2 is .1., not an object"),
        ('{"text": "a"}', "row 2 has neither"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "row 2 has neither"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "row 2 has neither"),
        (
            '{"prompt": "a", "messages": [{"role": "user", "content": "a"}]}',
            "row 2 has both a prompt and messages",
        ),
        ('{"prompt": "a", "tools": [{"name": "f"}]}', "row 2 has 'tools', which is not read here"),
        ('{"prompt": "a", "system": "b"}', "row 2 has 'system'"),
        ('{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "row 2 has neither"),
        ('{"prompt": "\\ud800"}', "row 2: .* holds bytes that are no UTF-8"),
        (json.dumps({"prompt": "x" * 200}), "row 2: the prompt has .* tokens; the context holds 96"),
    ],
)
def test_a_bad_row_is_one_line_before_anything_is_written(
    line: str, message: str, chat_model: ChatModel, tmp_path: Path
) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(UserError, match=message):
        write_replies(chat_model, source, tmp_path / "replies.jsonl", ARGS)
    assert not (tmp_path / "replies.jsonl").exists()


def test_a_file_of_something_else_is_not_continued(chat_model: ChatModel, tmp_path: Path) -> None:
    source, target = rows_file(tmp_path), tmp_path / "replies.jsonl"
    for content in (
        '{"prompt": "other", "reply": "a"}\n',
        "notes\n",
        '{"prompt": "fox ", "reply": "a"}\n' * 99,
    ):
        target.write_text(content)
        with pytest.raises(UserError, match="does not answer row .*another file for --to"):
            write_replies(chat_model, source, target, ARGS)
        assert target.read_text() == content
    with pytest.raises(UserError, match="is no file"):
        write_replies(chat_model, tmp_path / "none", target, ARGS)


def test_other_line_ends_are_part_of_a_row(chat_model: ChatModel, tmp_path: Path) -> None:
    source, target = tmp_path / "prompts.jsonl", tmp_path / "replies.jsonl"
    source.write_text('{"prompt": "one\u2028two"}\n{"prompt": "three\\u0085"}\n', encoding="utf-8")
    for _ in range(2):
        assert write_replies(chat_model, source, target, ARGS) == 2
    source.write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(UserError, match="is no UTF-8: convert it with iconv"):
        write_replies(chat_model, source, target, ARGS)
