"""Rows of files and of the hub: every way to cut a source gives the same documents, and bad input is named."""

import json
import socket
from pathlib import Path

import corpus_hub
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_hub import DATASET, FAULTS, ROWS, read, text_documents, texts
from examples import parquet
from hub import Hub

from config import EOS
from dataprep.sources import hub_ranges, local_ranges
from runtime import hub as runtime_hub
from runtime.errors import UserError
from tokenizer import load_tokenizer

server = corpus_hub.server

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
    expected = tokenizer.encode(text)
    for target in (101, 300, 777):
        ranges = local_ranges([str(path)], target)
        assert len(ranges) > 3 and all(each.is_single_document for each in ranges)
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
    assert not file_range.is_single_document and texts([file_range]) == ["x" * 5000]


@pytest.mark.parametrize("target", [1, 7, 20, 1000])
def test_separators_divide_documents_wherever_the_file_is_cut(tmp_path: Path, target: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"{EOS}\none\n{EOS}\n{EOS}two\n\n2  {EOS} drei\u00df\n{EOS}\n \n")
    ranges = local_ranges([str(path)], target)
    assert (len(ranges) > 1) == (target < 1000)
    assert texts(ranges) == ["one", "two\n\n2", "drei\u00df"]
    assert not any(each.is_single_document for each in ranges)


def test_each_text_file_is_a_document_as_it_is(tmp_path: Path) -> None:
    for name, text in (("a.txt", " one\n\ntwo\r\n"), ("B.TXT", "three")):
        (tmp_path / name).write_bytes(text.encode())
    ranges = local_ranges([str(tmp_path / "a.txt"), str(tmp_path / "B.TXT")], 100)
    assert texts(ranges) == [" one\n\ntwo\r\n", "three"] and not any(
        each.is_single_document for each in ranges
    )


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


BAD = {
    "not json": (b'{"text": "a"\n', "is not JSON"),
    "too deep": (b"[" * 100_000 + b"\n", "is not JSON"),
    "not utf-8": (b'{"text": "\xff"}\n', "is not JSON"),
    "array": (b'["text"]\n', "is a list, not an object with a column 'text'"),
    "null row": (b"null\n", "is a NoneType, not an object"),
    "missing": (b'{"body": "a", "id": 1}\n', "has no column 'text'; it has 'body', 'id'"),
    "empty row": (b"{}\n", "has no column 'text'; it has none"),
    "null": (b'{"text": null}\n', "column 'text' holds None, not text"),
    "number": (b'{"text": 3}\n', "column 'text' holds 3, not text"),
    "surrogate": (b'{"text": "\\ud800"}\n', "half a surrogate pair"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("target", [10, 10_000])
def test_a_bad_line_is_named(tmp_path: Path, bad: str, target: int) -> None:
    line, complaint = BAD[bad]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n' * 10 + line + b'{"text": "b"}\n' * 5)
    with pytest.raises(UserError) as error:
        texts(local_ranges([str(path)], target))
    assert str(error.value).startswith(f"{path} row 21") and complaint in str(error.value)


def test_a_bad_row_of_an_array_or_of_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"text": []}]')
    (tmp_path / "a.parquet").write_bytes(parquet(["a"] * 25 + [None] + ["a"] * 10))
    for name, row in (("a.json", 2), ("a.parquet", 26)):
        ranges = local_ranges([str(tmp_path / name)], 1)
        with pytest.raises(UserError, match=rf"{name} row {row}: column 'text' holds"):
            texts(ranges)


def test_parquet_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    wrong = pa.Array.from_buffers(pa.string(), 301, pa.array([b"a"] * 300 + [b"\xff"]).buffers())
    pq.write_table(pa.table({"text": wrong}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet rows 257 to 301: text that is not UTF-8"):
        texts(local_ranges([str(tmp_path / "a.parquet")], 1 << 20))


def test_unusable_files_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None, words: str) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            texts(local_ranges([str(path)], 1 << 20))

    refused("none.txt", None, "no such file: .*none.txt")
    refused("empty.txt", b"", "empty.txt is empty")
    refused("a.csv", b"a", "must end in .json, .jsonl, .parquet, .txt")
    refused("latin.txt", b"caf\xe9 au lait", r"latin.txt is not UTF-8 text \(byte 3\)")
    refused("a.json", b'{"text": "a"}', "must hold an array of rows, not a dict")
    refused("b.json", b'{"text": "a"}\n{"text": "b"}', r"b.json is not JSON.*must end in .jsonl")
    refused("a.parquet", b"not Parquet at all", "a.parquet is not a complete Parquet file")
    refused("cut.parquet", parquet(["a"] * 100)[:-20], "cut.parquet is not a complete Parquet file")
    refused("column.parquet", parquet(["a"], "body"), "has no column text; it has id, body")


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_the_hub_is_read_in_order_and_by_split(server: Hub) -> None:
    assert read() == ROWS
    assert read("val") == ROWS[80:]
    assert server.naps == []


def test_only_the_text_of_the_row_groups_asked_for_is_moved(server: Hub) -> None:
    ranges, _ = hub_ranges(DATASET, 1, None)
    texts(ranges[:1])
    server.requests.clear()
    assert texts(ranges[1:2]) == ROWS[10:20]
    moved, wanted = (
        sum(size for path, size in server.requests if "resolve" in path),
        sum(map(len, ROWS[10:20])),
    )
    assert wanted < moved < 1.3 * wanted  # with the page's header; the footer is known by now
    assert moved < len(server.repos[DATASET.repo]["data/train-0.parquet"]) / 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_transient_fault_changes_nothing(server: Hub, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match, options = FAULTS[fault]
    server.fault(match, **options)
    assert read() == ROWS
    assert server.faults == [] and server.naps != []


def test_the_wait_that_the_hub_demands_is_kept(server: Hub) -> None:
    server.fault("/api/datasets/owner/corpus", status=429, retry_after=17)
    assert read() == ROWS
    assert server.naps == [17]


@pytest.mark.parametrize(
    "match, options, words",
    [
        ("/api/", {"status": 503, "times": 99}, r"the hub at .* fails for .*answered 503.*later"),
        ("/api/", {"status": 404, "code": "RepoNotFound"}, "is not on the hub at .*hf auth login"),
        ("/api/", {"status": 403}, "the hub at .* fails for .*answered 403.*hf auth login"),
        ("/resolve/", {"status": 401, "code": "GatedRepo"}, "is gated: accept its terms at .*owner/corpus"),
    ],
)
def test_a_lasting_refusal_is_one_line(server: Hub, match: str, options: dict, words: str) -> None:
    server.fault(match, **options)
    with pytest.raises(UserError, match=words) as error:
        read()
    assert "\n" not in str(error.value)
    assert (server.naps == [1, 2, 4]) == ("503" in words)  # a lasting fault is not retried


def test_missing_and_damaged_files_are_named(server: Hub) -> None:
    files = server.repos[DATASET.repo]
    files["data/train-1.parquet"] = files["data/train-1.parquet"][:5000]
    with pytest.raises(UserError, match="train-1.parquet on the hub is not a complete Parquet file"):
        read()
    del files["data/val-0.parquet"], files["data/train-1.parquet"]
    huggingface_hub.HfFileSystem.clear_instance_cache()
    runtime_hub.hub_filesystem.cache_clear()
    with pytest.raises(UserError, match=r"holds no data/val-\*.parquet any more"):
        read()


def test_a_flipped_byte_is_seen(server: Hub) -> None:
    damaged = bytearray(server.repos[DATASET.repo]["data/val-0.parquet"])
    damaged[damaged.index(b"document 85 words")] ^= 1
    server.repos[DATASET.repo]["data/val-0.parquet"] = bytes(damaged)
    with pytest.raises(OSError, match="CRC"):
        read()


def test_a_hub_that_is_not_reached_is_named(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}"
        )
        with pytest.raises(UserError, match="the hub at .* fails for .*ConnectError.*later"):
            read()
