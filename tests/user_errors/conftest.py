"""The folder in which users make their mistakes."""

from pathlib import Path

import pytest
from mistaken_files import write_folder


@pytest.fixture(scope="session")
def mistaken_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write data, models and files once; the tests leave them as they are."""
    return write_folder(tmp_path_factory.mktemp("mistakes"))
