"""Toy data of each kind, and undisturbed runs to compare with."""

import pytest
from forks import fork
from injected_faults import settings_of
from toy import toy_dataset


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with toy data of each kind."""
    folder = tmp_path_factory.mktemp("faults")
    for name, kind in ("toy", "text"), ("toy-instruct", "instruct"), ("toy-preference", "preference"):
        toy_dataset(folder / "data", name, 200, kind)
    return folder


@pytest.fixture(scope="module")
def unbroken(place):
    """The folder of a run of a stage that nothing disturbed."""
    runs = {}

    def run(stage):
        if stage not in runs:
            done = fork(place, run_name=f"whole-{stage}", **settings_of(stage, run))
            assert done.wait() == [0], done.said
            runs[stage] = place / "runs" / f"whole-{stage}"
        return runs[stage]

    return run
