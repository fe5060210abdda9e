"""Files by their names: endings, compression, encodings, and the layouts of Parquet and Arrow."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from examples import parquet

from dataprep.files import (
    arrow_batches,
    check_encoding,
    convert_command,
    is_readable,
    open_arrow,
    open_binary,
    open_text,
    parquet_footer,
    split_ending,
)
from runtime.errors import UserError


def test_endings_are_read_from_the_name() -> None:
    assert split_ending("a/b.c/D.JSONL.GZ") == (".jsonl", ".gz")
    assert split_ending("a.txt") == (".txt", "") and split_ending("a.zst") == ("", ".zst") == split_ending(
        ".zst"
    )
    assert (
        is_readable("a.csv.zst")
        and is_readable("B.MD")
        and not is_readable("a.pdf")
        and not is_readable("a.gz")
    )


def test_a_file_is_opened_as_its_ending_says(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfone\r\ntwo\rthree\n"
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content[:5]) + gzip.compress(content[5:]))
    (tmp_path / "a.txt.zst").write_bytes(pa.compress(content, "zstd", asbytes=True))
    for path in map(str, tmp_path.iterdir()):
        with open_binary(path) as file:
            assert file.read() == content
        with open_text(path) as file:
            assert file.read() == "one\ntwo\nthree\n"


def test_the_layouts_of_tables_are_opened(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet(["a", "b"]))
    assert parquet_footer(str(tmp_path / "a.parquet")).num_rows == 2
    table = pa.table({"text": ["a", "b", "c"]})
    for write in (pa.ipc.new_file, pa.ipc.new_stream):
        with write(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        with open_arrow(str(tmp_path / "a.arrow")) as reader:
            assert [batch.num_rows for batch in arrow_batches(reader)] == [2, 1]


def test_an_encoding_is_named_with_a_command_that_a_shell_understands(tmp_path: Path) -> None:
    (tmp_path / "it is.txt").write_bytes("words".encode("utf-16"))
    with pytest.raises(
        UserError, match="is UTF-16 text, not UTF-8: convert it first: iconv -f UTF-16 -t UTF-8 '/"
    ):
        check_encoding(str(tmp_path / "it is.txt"))
    (tmp_path / "a.txt").write_bytes("wörds \0".encode())
    check_encoding(str(tmp_path / "a.txt"))
    assert (
        convert_command("a.csv.gz", "UTF-16") == "gzip -dc a.csv.gz | iconv -f UTF-16 -t UTF-8 > a.utf8.csv"
    )
