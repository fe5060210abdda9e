"""Files on this machine and on the hub."""

from pathlib import Path

from examples import parquet

from dataprep.files import open_binary, parquet_footer


def test_a_local_file_is_opened_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet(["a", "b"]))
    with open_binary(str(tmp_path / "a.parquet")) as file:
        assert file.read(4) == b"PAR1"
    assert parquet_footer(str(tmp_path / "a.parquet")).num_rows == 2
