"""Files on this machine and on the hub, opened in one way."""

import functools
from typing import BinaryIO

import pyarrow.parquet as pq

from runtime.hub import hub_filesystem

HUB_PREFIX = "hf://"  # of the path of a file on the hub


def open_binary(path: str) -> BinaryIO:
    """Open a local file or one on the hub (hf://datasets/...); of the latter only the bytes read are downloaded."""
    if path.startswith(HUB_PREFIX):
        return hub_filesystem().open(path, "rb", cache_type="none")
    return open(path, "rb")


@functools.lru_cache(maxsize=2)  # the large files of the hub have footers of megabytes, and many ranges each
def parquet_footer(path: str) -> pq.FileMetaData:
    """Return the footer of a Parquet file."""
    with open_binary(path) as file:
        return pq.read_metadata(file)
