"""--rename, --ignore and --skip_bad_rows: their values, and datasets that are prepared with them."""

import json
from collections.abc import Callable
from pathlib import Path

import prepared
import pytest
from examples import talk
from prepared import split_texts

from config import Parser
from dataprep.row_flags import add_row_flags, row_options
from dataprep.shards import read_meta
from dataprep.turns import RowOptions

inline, command = prepared.inline, prepared.command


def parsed(*flags: str) -> RowOptions:
    """Return the options of a command line."""
    parser = Parser("A script.")
    add_row_flags(parser)
    return row_options(parser, parser.parse_args(flags))


def test_flags_may_be_repeated_and_have_several_values() -> None:
    assert parsed() == RowOptions()
    options = parsed(
        *"--rename a=text b=role --rename c=d=output --ignore x --ignore z y --skip_bad_rows".split()
    )
    assert options == RowOptions(
        (("a", "text"), ("b", "role"), ("c=d", "output")), ("x", "y", "z"), skip_bad_rows=True
    )


@pytest.mark.parametrize(
    "rename, message", [("body", "OLD=NEW"), ("=text", "OLD=NEW"), ("body=txt", "'txt' is not read")]
)
def test_a_wrong_rename_is_refused(rename: str, message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit:
        parsed("--rename", rename)
    assert exit.value.code == 2 and message in capsys.readouterr().err


def write(path: Path, rows: list) -> Path:
    """Write rows as JSON lines; a string is written as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_renamed_columns_are_read_from_every_format_and_make_another_dataset(
    inline: None, command: Callable, tmp_path: Path
) -> None:
    rows = [{"body": f"text {n}", "title": "x"} for n in range(50)]
    file = write(tmp_path / "rows.jsonl", rows)
    table = tmp_path / "rows.csv"
    table.write_text("title,body\n" + "".join(f"x,{row['body']}\n" for row in rows))
    for path in (file, table):
        flags = ("--files", path, "--name", path.suffix[1:], "--tokenizer", "bytes", "--num_proc", 1)
        code, _, err = command(*flags)
        assert code == 2 and "has no column" in err and "--rename" in err and err.count("\n") == 1

        code, _, err = command(*flags, "--rename", "body=text")
        assert (code, err) == (0, "")
        texts = split_texts(tmp_path / "data" / path.suffix[1:])
        assert sorted(texts["train"] + texts["val"]) == sorted(row["body"] for row in rows)
        assert "already prepared" in command(*flags, "--rename", "body=text")[1]
        assert "already prepared" not in command(*flags, "--rename", "title=text")[1]


def test_bad_rows_stop_the_run_or_are_left_out_and_counted(
    inline: None, command: Callable, tmp_path: Path
) -> None:
    good = [{"messages": talk(f"question {n}", f"answer {n}")} for n in range(60)]
    bad = [
        {"messages": talk("Hi", "")},
        {"messages": talk("Hi")},
        "{",
        {"messages": talk("Hi", "x"), "tools": "y"},
    ]
    marked = {"messages": talk("Hi", "wrong"), "label": False}
    file = write(tmp_path / "rows.jsonl", [*good[:30], *bad, *good[30:], marked])
    flags = ("--files", file, "--kind", "instruct", "--name", "c", "--tokenizer", "bytes", "--num_proc", 1)
    code, _, err = command(*flags)
    assert code == 2 and err.startswith(f"error: {file} row 31: the response in 'messages' is empty; ")
    assert "--skip_bad_rows" in err and err.count("\n") == 1

    code, out, err = command(*flags, "--skip_bad_rows")
    counts = {"a key that is not read": 1, "malformed": 2, "marked bad": 1, "nothing to learn": 1}
    assert (code, err) == (0, "") and read_meta(tmp_path / "data" / "c")["left_out"] == counts
    assert "left out 2 rows: malformed" in out and "left out 1 rows: marked bad" in out
    documents = sum(dataset.documents for dataset in prepared.datasets(tmp_path / "data" / "c"))
    assert documents == len(good)


@pytest.mark.parametrize("flags", ["--stories --ignore tools", "--show x --skip_bad_rows"])
def test_flags_of_rows_go_with_rows_of_the_user(command: Callable, flags: str) -> None:
    code, _, err = command(*flags.split())
    assert code == 2 and "says how rows of files or of the hub are read: drop it" in err
