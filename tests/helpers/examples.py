"""Rows, texts and small programs that several tests use."""

import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataloader import loader
from dataloader.loader import Loader
from training import run, stages


def talk(*contents: str, system: str = "") -> list[dict[str, str]]:
    """Turns of user and assistant in turn, after a system turn if there is one."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return [{"role": "system", "content": system}] * bool(system) + turns


MULTI = talk("Hi", "Hello!", "And now?", "Bye.", system="Be brief.")
INSTRUCTIONS = {
    "Alpaca": (
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
        talk("Add\n\n### Input:\n1 and 2", "3"),
    ),
    "Alpaca without input": ({"instruction": "Say hi", "input": "", "output": "hi"}, talk("Say hi", "hi")),
    "Alpaca without the column": ({"instruction": "Say hi", "output": "hi"}, talk("Say hi", "hi")),
    "Alpaca with a null input": (
        {"instruction": "Say hi", "input": None, "output": "hi"},
        talk("Say hi", "hi"),
    ),
    "messages": ({"messages": talk("Say hi", "hi")}, talk("Say hi", "hi")),
    "messages of several turns": ({"messages": MULTI, "id": "not looked at"}, MULTI),
    "messages with more in a turn": ({"messages": [{**turn, "name": "x"} for turn in MULTI]}, MULTI),
    "conversations of from and value": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello!"},
            ]
        },
        talk("Hi", "Hello!", system="Be brief."),
    ),
    "a bare list of other roles": (
        [{"role": "human", "content": "Hi"}, {"role": "model", "content": "Hello!"}],
        talk("Hi", "Hello!"),
    ),
    "messages as JSON text": ({"messages": json.dumps(MULTI)}, MULTI),
    "a content of parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Say "}, {"type": "text", "value": "hi"}],
                },
                {"role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
            ]
        },
        talk("Say hi", "hi"),
    ),
    "null columns beside Alpaca's": (
        {"messages": None, "instruction": "Say hi", "output": "hi", "system": None, "history": []},
        talk("Say hi", "hi"),
    ),
    "system and history": (
        {
            "system": "Be brief.",
            "history": [["Hi", "Hello!"]],
            "instruction": "And",
            "input": "now?",
            "output": "Bye.",
        },
        talk("Hi", "Hello!", "And\n\n### Input:\nnow?", "Bye.", system="Be brief."),
    ),
    "system beside messages": (
        {"system": "Be brief.", "messages": talk("a", "b")},
        talk("a", "b", system="Be brief."),
    ),
    "system in both": ({"system": "Be brief.\n", "messages": MULTI}, MULTI),
    "Dolly": (
        {"instruction": "Add", "context": "1 and 2", "response": "3", "category": "sums"},
        talk("Add\n\n### Input:\n1 and 2", "3"),
    ),
    "prompt and completion": ({"prompt": "Say hi", "completion": "hi"}, talk("Say hi", "hi")),
    "prompt and completion of turns": (
        {"prompt": talk("Say hi", system="Be brief."), "completion": talk("", "hi")[1:]},
        talk("Say hi", "hi", system="Be brief."),
    ),
    "prompt and response": ({"prompt": "Say hi", "response": "hi"}, talk("Say hi", "hi")),
    "question and answer": (
        {"question": "1 + 2?", "answer": "1 + 2 = 3\n#### 3"},
        talk("1 + 2?", "1 + 2 = 3\n#### 3"),
    ),
    "OpenOrca": (
        {"system_prompt": "Be brief.", "question": "1 + 2?", "response": "3"},
        talk("1 + 2?", "3", system="Be brief."),
    ),
    "query and response": ({"query": "1 + 2?", "response": "3"}, talk("1 + 2?", "3")),
    "input and output": ({"input": "Say hi", "output": "hi"}, talk("Say hi", "hi")),
    "messages beside their prompt": (
        {"prompt": "Say hi\r\n", "messages": talk("Say hi", "hi")},
        talk("Say hi", "hi"),
    ),
    "a good mark": ({"prompt": "Say hi", "completion": "hi", "label": True}, talk("Say hi", "hi")),
    "indented code": (
        {"prompt": "def one():", "completion": "\n    return 1\n\n"},
        talk("def one():", "    return 1"),
    ),
    "a turn of the assistant first": (
        {"messages": [*talk("a", "b")[1:], *talk("c", "d")]},
        [*talk("a", "b")[1:], *talk("c", "d")],
    ),
}
PREFERENCES = {  # row -> chosen, rejected, turns in common
    "message lists": (
        {"chosen": talk("Hi", "good"), "rejected": talk("Hi", "bad")},
        talk("Hi", "good"),
        talk("Hi", "bad"),
        1,
    ),
    "strings": (
        {"prompt": "Hi", "chosen": "good", "rejected": "bad"},
        talk("Hi", "good"),
        talk("Hi", "bad"),
        1,
    ),
    "a null prompt": (
        {"prompt": None, "chosen": talk("Hi", "good"), "rejected": talk("Hi", "bad")},
        talk("Hi", "good"),
        talk("Hi", "bad"),
        1,
    ),
    "a prompt of turns": (
        {"prompt": MULTI[:4], "chosen": "good", "rejected": "bad"},
        [*MULTI[:4], *talk("x", "good")[1:]],
        [*MULTI[:4], *talk("x", "bad")[1:]],
        4,
    ),
    "answers of turns": (
        {"prompt": "Hi", "chosen": talk("x", "good")[1:], "rejected": talk("x", "bad")[1:]},
        talk("Hi", "good"),
        talk("Hi", "bad"),
        1,
    ),
    "the prompt stands in the answers too": (
        {"prompt": "Hi", "chosen": talk("Hi", "good"), "rejected": "bad"},
        talk("Hi", "good"),
        talk("Hi", "bad"),
        1,
    ),
    "several turns": (
        {"chosen": [*MULTI[:4], *talk("x", "good")[1:]], "rejected": MULTI},
        [*MULTI[:4], *talk("x", "good")[1:]],
        MULTI,
        4,
    ),
    "white space at the ends": (
        {"prompt": "\n Hi\n", "chosen": talk(" Hi ", "good\n"), "rejected": " \n\n  bad"},
        talk(" Hi", "good"),
        talk(" Hi", "  bad"),
        1,
    ),
    "the prompt is a later turn": (
        {
            "prompt": "And?",
            "chosen": talk("Hi", "Ho", "And?", "good"),
            "rejected": talk("Hi", "Ho", "And?", "bad"),
        },
        talk("Hi", "Ho", "And?", "good"),
        talk("Hi", "Ho", "And?", "bad"),
        3,
    ),
    "the prompt follows a system turn, with other line ends": (
        {
            "prompt": "a\r\nb",
            "chosen": talk("a\nb", "good", system="Be brief."),
            "rejected": talk("a\nb", "bad", system="Be brief."),
        },
        talk("a\nb", "good", system="Be brief."),
        talk("a\nb", "bad", system="Be brief."),
        2,
    ),
    "single messages after conversations": (
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        talk("Hi", "good"),
        talk("Hi", "bad"),
        1,
    ),
    "Human and Assistant": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: And?\n\nAssistant: good",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: And?\n\nAssistant: bad\n\nbut true",
        },
        talk("Hi", "Ho", "And?", "good"),
        talk("Hi", "Ho", "And?", "bad\n\nbut true"),
        3,
    ),
    "Human and Assistant in the prompt": (
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "good", "rejected": "bad"},
        talk("Hi", "good"),
        talk("Hi", "bad"),
        1,
    ),
    "system and history": (
        {
            "system": "Be brief.",
            "history": [["Hi", "Ho"]],
            "instruction": "Add",
            "input": "1 and 2",
            "chosen": "3",
            "rejected": "4",
        },
        talk("Hi", "Ho", "Add\n\n### Input:\n1 and 2", "3", system="Be brief."),
        talk("Hi", "Ho", "Add\n\n### Input:\n1 and 2", "4", system="Be brief."),
        4,
    ),
    "question": (
        {"system": "Be brief.", "question": "1 + 2?", "chosen": "3", "rejected": "4"},
        talk("1 + 2?", "3", system="Be brief."),
        talk("1 + 2?", "4", system="Be brief."),
        2,
    ),
    "answers that differ in their indentation": (
        {"prompt": "Hi", "chosen": "  x", "rejected": "x"},
        talk("Hi", "  x"),
        talk("Hi", "x"),
        1,
    ),
    "turns after the parting": (
        {"chosen": talk("Hi", "good", "And?", "more"), "rejected": talk("Hi", "bad")},
        talk("Hi", "good", "And?", "more"),
        talk("Hi", "bad"),
        1,
    ),
}


def parquet(rows: list[object], column: str = "text", group: int = 10) -> bytes:
    """A Parquet file with a column beside the one that is read."""
    file = io.BytesIO()
    table = pa.table({"id": [f"number {n} " * 9 for n in range(len(rows))], column: rows})
    pq.write_table(
        table, file, row_group_size=group, compression="none", use_dictionary=False, write_page_checksum=True
    )
    return file.getvalue()


def documents(folder: Path, shards: list[dict]) -> list[list[int]]:
    """The documents of a split, through the files, whatever shards they are in."""
    found, begun = [], []
    for shard in shards:
        tokens, ends = sorted(shard["sha256"], reverse=True)
        ids, ends = (
            np.fromfile(folder / tokens, np.uint16).tolist(),
            np.fromfile(folder / ends, np.uint64).tolist(),
        )
        assert len(ends) == shard["documents"] and len(ids) == shard["tokens"]
        for a, b in zip([0, *ends], ends, strict=False):
            found.append(begun + ids[a:b])
            begun = []
        begun += ids[ends[-1] if ends else 0 :]
    return found + ([begun] if begun else [])


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


TEXTS = [f"This is text {n}, and it says: " + f"{n} is a number. " * (n % 17) + "So." for n in range(400)]


class Inline:
    """ProcessPoolExecutor's interface without processes, so that most tests need none."""

    def __init__(self, workers: int, context: object, initializer: Callable, arguments: tuple):
        initializer(*arguments)

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_) -> None:
        pass

    def submit(self, action: Callable, *arguments) -> Future:
        """Do it now."""
        future = Future()
        try:
            future.set_result(action(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def plant(bad, taken=None):
    """Makes the loss of a micro-batch with one of these rows not a number; notes the rows of each in a file."""

    def before(rank):
        real, own = stages.STAGES["P"].objective(None), []

        class Noting(Loader):
            def next(self, device=None):
                first = self.rows_consumed + self.rank * self.batch_size
                own[:] = [self.row_index(n) for n in range(first, first + self.batch_size)]
                if taken:
                    with open(taken, "a") as file:
                        file.write(json.dumps(own) + "\n")
                return super().next(device)

        def objective(model, batch):
            loss, count, sums = real(model, batch)
            return loss * (math.nan if model.training and set(own) & set(bad) else 1.0), count, sums

        loader.Loader = run.Loader = Noting
        stages.STAGES["P"] = dataclasses.replace(stages.STAGES["P"], objective=lambda args: objective)

    return before
