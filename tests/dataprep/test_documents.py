"""Rows as documents: the ids of the chat template, their loss mask, and what decides on the split."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import INSTRUCTIONS, MULTI, PREFERENCES, talk

from config import EOS
from dataprep import documents
from dataprep.documents import Document, row_documents
from dataprep.left_out import LeftOutRows
from dataprep.ranges import local_ranges
from dataprep.turns import AS_IT_IS, BadRow, RowOptions
from runtime.errors import UserError
from tokenization.prompt_template import instruction_text
from tokenizer import Tokenizer

ALPACA = [
    {"instruction": f"Add {n} and 1", "input": "" if n % 3 else f"n is {n}", "output": f"{n + 1} é"}
    for n in range(50)
]
PAIRS = [{"chosen": talk(f"Say {n}", f"{n}, gladly"), "rejected": talk(f"Say {n}", "no")} for n in range(50)]
ROWS = {"instruct": ALPACA, "preference": PAIRS}


def write(folder: Path, form: str, rows: list) -> str:
    """Write rows as a file; of Parquet, each row group has ten."""
    path = folder / f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10)
    else:
        path.write_text(
            json.dumps(rows) if form == "json" else "".join(json.dumps(row) + "\n" for row in rows)
        )
    return str(path)


def read(path: str, kind: str, tokenizer: Tokenizer, target: int = 500) -> list[Document]:
    """Return the documents of a file that is cut into ranges."""
    return [
        document
        for file_range in local_ranges([path], target)
        for document in documents.iter_documents(file_range, kind, tokenizer)
    ]


def learned(ids: np.ndarray, loss_mask: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Return the runs of learned tokens, decoded with their special tokens."""
    cuts = np.flatnonzero(np.diff(loss_mask)) + 1
    return [
        tokenizer.hf.decode(ids[run].tolist(), skip_special_tokens=False)
        for run in np.split(np.arange(len(ids)), cuts)
        if loss_mask[run[0]]
    ]


def one(row: dict, kind: str, tokenizer: Tokenizer) -> Document:
    """Return the document of one row."""
    return next(row_documents([(row, "row 1")], kind, tokenizer))


@pytest.mark.parametrize("form", INSTRUCTIONS)
def test_an_instruction_has_the_ids_of_the_template_and_its_responses_learned(
    form: str, tokenizer: Tokenizer
) -> None:
    row, messages = INSTRUCTIONS[form]
    ((ids, loss_mask, size),) = one(row, "instruct", tokenizer).token_parts
    rendered, mask = tokenizer.render(messages)
    answers = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    assert ids.tolist() == rendered and loss_mask.tolist() == mask
    assert learned(ids, loss_mask, tokenizer) == [answer + EOS for answer in answers]
    assert size == sum(map(len, answers))


@pytest.mark.parametrize("form", PREFERENCES)
def test_of_a_pair_only_what_follows_the_common_turns_is_learned(form: str, tokenizer: Tokenizer) -> None:
    row, *pair, common = PREFERENCES[form]
    document = one(row, "preference", tokenizer)
    assert len(document.token_parts) == 2 and document.num_tokens == sum(
        len(tokenizer.render(talk)[0]) for talk in pair
    )
    for (ids, loss_mask, size), messages in zip(document.token_parts, pair, strict=True):
        answers = [turn["content"] for turn in messages[common:] if turn["role"] == "assistant"]
        assert ids.tolist() == tokenizer.render(messages)[0]
        assert learned(ids, loss_mask, tokenizer) == [answer + EOS for answer in answers]
        assert size == sum(map(len, answers))


def test_earlier_answers_are_learned_from_instructions_and_not_from_pairs(tokenizer: Tokenizer) -> None:
    ((ids, loss_mask, _),) = one({"messages": MULTI}, "instruct", tokenizer).token_parts
    assert learned(ids, loss_mask, tokenizer) == [f"Hello!{EOS}", f"Bye.{EOS}"]
    (ids, loss_mask, _), _ = one(
        {"prompt": MULTI[:4], "chosen": "Bye.", "rejected": "x"}, "preference", tokenizer
    ).token_parts
    assert learned(ids, loss_mask, tokenizer) == [f"Bye.{EOS}"]


@pytest.mark.parametrize("kind", ROWS)
def test_every_form_of_file_gives_the_same_documents(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    by_format = {
        form: read(write(tmp_path, form, ROWS[kind]), kind, tokenizer)
        for form in ("jsonl", "json", "parquet")
    }
    assert [len(documents) for documents in by_format.values()] == [50, 50, 50]
    for its_documents in by_format.values():
        for document, expected in zip(its_documents, by_format["jsonl"], strict=True):
            assert document.split_key == expected.split_key
            for part, its in zip(document.token_parts, expected.token_parts, strict=True):
                assert (
                    np.array_equal(part[0], its[0]) and np.array_equal(part[1], its[1]) and part[2] == its[2]
                )
    turns = (
        talk(instruction_text("Add 3 and 1", "n is 3"), "4 é") if kind == "instruct" else PAIRS[3]["chosen"]
    )
    assert by_format["parquet"][3].token_parts[0][0].tolist() == tokenizer.render(turns)[0]


def test_equal_prompts_have_equal_keys(tokenizer: Tokenizer) -> None:
    def key(kind: str, **row: object) -> str:
        return one(row, kind, tokenizer).split_key

    assert key("instruct", instruction="Hi", output="a") == key("instruct", messages=talk("Hi", "b"))
    assert key("instruct", instruction="Hi", output="a") != key(
        "instruct", instruction="Hi", input="x", output="a"
    )
    assert key("preference", prompt="Hi", chosen="a", rejected="b") == key(
        "preference", chosen=talk("Hi", "c"), rejected=talk("Hi", "d")
    )
    assert key("preference", prompt="Hi", chosen="a", rejected="b") == key(
        "instruct", instruction="Hi", output="a"
    )


def test_a_special_token_in_a_row_stays_text(tokenizer: Tokenizer) -> None:
    rows = (
        ({"instruction": f"What is {EOS}?", "output": f"{EOS} ends."}, "instruct"),
        ({"prompt": EOS, "chosen": EOS, "rejected": "x"}, "preference"),
    )
    for row, kind in rows:
        ids, loss_mask, _ = one(row, kind, tokenizer).token_parts[0]
        assert np.flatnonzero(ids == tokenizer.eos_id).tolist() == [len(ids) - 1] and loss_mask[-1]


BAD = {
    "missing column": (
        "instruct",
        {"instruction": "Hi"},
        "has no column 'output'",
    ),
    "empty response": ("instruct", {"instruction": "Hi", "output": " "}, "the response in 'output' is empty"),
    "unknown role": (
        "instruct",
        {"messages": [{"role": "bot", "content": "x"}]},
        "has the unknown role 'bot'",
    ),
    "no answer": ("instruct", {"messages": talk("Hi")}, "the last turn of 'messages' is the user's"),
    "no content": ("instruct", {"messages": [{"role": "user"}]}, "not a role and a content"),
    "missing side": ("preference", {"chosen": talk("Hi", "x")}, "has no column 'rejected'"),
    "equal answers": ("preference", {"prompt": "Hi", "chosen": "x", "rejected": "x"}, "are the same"),
    "empty answer": (
        "preference",
        {"prompt": "Hi", "chosen": "", "rejected": "x"},
        "response in 'chosen' is empty",
    ),
    "two prompts": (
        "preference",
        {"chosen": talk("a", "x"), "rejected": talk("b", "y")},
        "no turn in common",
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_a_bad_row_of_a_file_is_named_with_its_number(
    bad: str, form: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    kind, row, complaint = BAD[bad]
    path = write(tmp_path, form, [*ROWS[kind][:33], row, *ROWS[kind][33:]])
    with pytest.raises(UserError) as error:
        read(path, kind, tokenizer)
    assert str(error.value).startswith(f"{path} row 34") and complaint in str(error.value)


def test_a_bad_row_of_parquet_is_named_with_its_number(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [*PAIRS[:33], {"chosen": talk("Hi", "x"), "rejected": talk("Hi")}, *PAIRS[33:]]
    with pytest.raises(UserError, match="rows.parquet row 34: the last turn of 'rejected' is the user's"):
        read(write(tmp_path, "parquet", rows), "preference", tokenizer)


def test_rows_of_the_hub_that_teach_nothing_are_left_out_and_broken_ones_are_not(
    tokenizer: Tokenizer,
) -> None:
    good, empty, equal = ALPACA[0], BAD["empty response"][1], BAD["equal answers"][1]
    left_out = LeftOutRows()
    for rows, kind in (([good, empty, good], "instruct"), ([equal], "preference")):
        named = [(row, number) for number, row in enumerate(rows)]
        kept = list(row_documents(named, kind, tokenizer, AS_IT_IS, left_out, is_on_hub=True))
        assert len(kept) == rows.count(good)
    left_out.raise_first()
    assert left_out.counts == {"nothing to learn": 2}

    for bad in ("missing column", "unknown role", "no answer", "missing side", "two prompts"):
        kind, row, complaint = BAD[bad]
        with pytest.raises(UserError, match=complaint):
            list(row_documents([(row, 1)], kind, tokenizer, is_on_hub=True))


def test_bad_rows_are_left_out_and_counted_by_reason_where_asked(tokenizer: Tokenizer) -> None:
    bad_rows = [row for kind, row, _ in BAD.values() if kind == "instruct"]
    tools = {**ALPACA[0], "tools": ["x"]}
    rows = [(row, n) for n, row in enumerate([*bad_rows, ALPACA[0], BadRow("not JSON"), tools, ALPACA[1]])]
    left_out = LeftOutRows()
    kept = list(row_documents(rows, "instruct", tokenizer, RowOptions(skip_bad_rows=True), left_out))
    expected = [one(row, "instruct", tokenizer) for row in ALPACA[:2]]
    assert [document.split_key for document in kept] == [document.split_key for document in expected]
    assert left_out.counts == {"malformed": 5, "nothing to learn": 1, "a key that is not read": 1}


def test_the_first_bad_row_is_named_and_all_are_counted(tokenizer: Tokenizer) -> None:
    rows = [(ALPACA[0], "row 1"), ({"instruction": "Hi"}, "row 2"), (ALPACA[1], "row 3"), ("x", "row 4")]
    documents = row_documents(rows, "instruct", tokenizer)
    assert next(documents)
    with pytest.raises(UserError, match="row 2 has no column 'output'.*; 2 bad rows in .* --skip_bad_rows"):
        next(documents)


def test_texts_are_truncated_and_conversations_are_not(tokenizer: Tokenizer) -> None:
    text = one({"text": "some words"}, "text", tokenizer)
    assert documents.truncate_text(text, 11, tokenizer) is text and text.is_complete and text.num_tokens == 11
    some = documents.truncate_text(text, 4, tokenizer)
    assert (
        some.token_parts[0][0].tolist() == list(b"some")
        and some.token_parts[0][2] == 4
        and not some.is_complete
    )
    for kind, rows in ROWS.items():
        document = one(rows[0], kind, tokenizer)
        assert documents.truncate_text(document, document.num_tokens, tokenizer) is document
        assert documents.truncate_text(document, document.num_tokens - 1, tokenizer) is None


def test_an_end_of_text_at_the_end_stands_once_and_elsewhere_stays_text(tokenizer: Tokenizer) -> None:
    answer = f"Blue {EOS} it is"
    for row, kind in (
        ({"instruction": EOS, "output": f"{answer}{EOS}\n{EOS}"}, "instruct"),
        ({"messages": talk(EOS, answer + EOS)}, "instruct"),
        ({"prompt": EOS, "chosen": answer + EOS, "rejected": "x"}, "preference"),
        ({"text": answer + EOS}, "text"),
    ):
        ids, loss_mask, size = one(row, kind, tokenizer).token_parts[0]
        learned_ids = ids if loss_mask is None else ids[loss_mask]
        assert learned_ids.tolist() == [*answer.encode(), tokenizer.eos_id] and size == len(answer)
        assert list(ids).count(tokenizer.eos_id) == 1


def test_a_turn_of_context_is_read_and_not_learned(tokenizer: Tokenizer) -> None:
    turns = talk("Hi", "wrong", "And?", "right")
    for mark in ({"weight": 0}, {"train": False}, {"loss_weight": 0.0}, {"training": False}):
        marked = [{**turn, **(mark if turn["content"] == "wrong" else {})} for turn in turns]
        ((ids, loss_mask, size),) = one({"messages": marked}, "instruct", tokenizer).token_parts
        assert ids.tolist() == tokenizer.render(turns)[0]
        assert learned(ids, loss_mask, tokenizer) == [f"right{EOS}"] and size == 5


def test_rows_that_are_marked_bad_are_left_out(tokenizer: Tokenizer) -> None:
    rows = [(row | {"label": number % 2 == 0}, number) for number, row in enumerate(ALPACA[:4])]
    left_out = LeftOutRows()
    assert len(list(row_documents(rows, "instruct", tokenizer, left_out=left_out))) == 2
    assert left_out.counts == {"marked bad": 2}
