"""Cuts of files: every way to cut a file gives the same documents."""

import json
from pathlib import Path

import pytest
from corpus_hub import text_documents, texts
from examples import parquet

from config import EOS
from dataprep.ranges import local_ranges
from tokenizer import load_tokenizer

# Each is one document in which a careless cut changes the tokens of GPT-2.
PROSE = {
    "lines": "First, you know\nCaius Marcius is chief enemy.\n\nWe know't,   we know't.\n \n\t Let us kill;\n\n\n"
    * 40,
    "crlf": "One line.\r\nAnother  line\r\n\r\n\r\n  indented\r\n" * 60,
    "not ascii": "Die Größe  spielt \u3000\n\u00a0 keine Rolle \u2028 – naïve café。\n你好，世界。\n\n🙂  🙂\n"
    * 40,
    "whitespace": ("word" + " " * 300 + "\n" * 200 + "\t" * 100) * 10,
    "no line ends": "a single line that goes on and on  and  on, " * 100,
    "no spaces": "你好世界。\n再见。\n" * 200,
}


@pytest.mark.parametrize("name", ["gpt2", "bytes"])
@pytest.mark.parametrize("prose", PROSE)
def test_the_parts_of_a_long_document_have_its_tokens(tmp_path: Path, name: str, prose: str) -> None:
    path, text, tokenizer = tmp_path / "a.txt", PROSE[prose], load_tokenizer(name)
    path.write_bytes(text.encode())
    text = text.replace("\r\n", "\n")
    expected = tokenizer.encode(text)
    for target in (101, 300, 777):
        ranges = local_ranges([str(path)], target)
        assert len(ranges) > 3 and all(each.document for each in ranges)
        parts = [part for each in ranges for part in text_documents(each)]
        assert "".join(part for part, _ in parts) == text
        assert [is_complete for _, is_complete in parts] == [False] * (len(parts) - 1) + [True]
        assert [token for part, _ in parts for token in tokenizer.encode(part)] == expected


def test_a_careless_cut_would_be_seen() -> None:
    encode = load_tokenizer("gpt2").encode
    text = PROSE["lines"]
    after = text.index(" ") + 1  # a space later than it should be
    assert encode(text[:after]) + encode(text[after:]) != encode(text)


def test_text_without_whitespace_is_never_cut(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 5000)
    (file_range,) = local_ranges([str(tmp_path / "a.txt")], 100)
    assert file_range.document is None and texts([file_range]) == ["x" * 5000]


@pytest.mark.parametrize("target", [1, 7, 20, 1000])
def test_separators_divide_documents_wherever_the_file_is_cut(tmp_path: Path, target: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"{EOS}\none\n{EOS}\n{EOS}two\n\n2  {EOS} drei\u00df\n{EOS}\n \n")
    ranges = local_ranges([str(path)], target)
    assert (len(ranges) > 1) == (target < 1000)
    assert texts(ranges) == ["one", "two\n\n2", "drei\u00df"]
    assert not any(each.document for each in ranges)


def test_each_text_file_is_a_document_as_it_is(tmp_path: Path) -> None:
    for name, text in (("a.txt", " one\n\ntwo\r\n"), ("B.TXT", "three")):
        (tmp_path / name).write_bytes(text.encode())
    ranges = local_ranges([str(tmp_path / "a.txt"), str(tmp_path / "B.TXT")], 100)
    assert texts(ranges) == [" one\n\ntwo\n", "three"] and not any(each.document for each in ranges)


@pytest.mark.parametrize("target", [1, 30, 10_000])
def test_json_lines_are_read_wherever_the_file_is_cut(tmp_path: Path, target: int) -> None:
    rows = [f"row {n} {EOS} \u00e9\u2028" + "x" * n for n in range(40)]
    lines = [json.dumps({"id": n, "text": text}, ensure_ascii=n % 2) for n, text in enumerate(rows)]
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n\n" + "\r\n \n".join(lines), encoding="utf-8"
    )  # blank lines, and no line end at the end
    ranges = local_ranges([str(path)], target)
    assert (len(ranges) > 1) == (target < 10_000)
    assert texts(ranges) == rows


def test_a_json_array_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "one"}, {"text": "two"}], indent=2))
    assert texts(local_ranges([str(tmp_path / "a.json")], 1)) == ["one", "two"]


@pytest.mark.parametrize("target", [1, 3000, 1 << 20])
def test_row_groups_are_read_one_by_one_or_together(tmp_path: Path, target: int) -> None:
    rows = [f"row {n}" for n in range(95)]
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    ranges = local_ranges([str(tmp_path / "a.parquet")], target)
    assert (
        len(ranges) == 10 if target == 1 else len(ranges) == 1 if target == 1 << 20 else 1 < len(ranges) < 10
    )
    assert texts(ranges) == rows
