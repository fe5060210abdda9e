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
    "messages of several turns": ({"messages": MULTI, "instruction": "not looked at"}, MULTI),
    "messages with more in a turn": ({"messages": [{**turn, "name": "x"} for turn in MULTI]}, MULTI),
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
        {"prompt": " Hi\n", "chosen": talk("Hi", "good\n"), "rejected": " bad"},
        talk("Hi", "good"),
        talk("Hi", "bad"),
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
