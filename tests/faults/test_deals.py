"""Deals: runs with one or two faults drawn by a seed; each ends as an unbroken run does, or with one named line.

The default suite plays 40 seeds that cover each kind of fault; 300 more, drawn from a seed that is printed:
python -m pytest tests/faults/test_deals.py -m faults [--deals_seed 7000]. One alone, with its description:
python -m pytest tests/faults/test_deals.py --deal 123
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from deal_runs import Place, play
from deals import KINDS, draw

RANDOM_DEALS = 300
SEEDS = range(40)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each deal; those of --deal alone where it is given."""
    config = metafunc.config
    chosen = config.getoption("--deal")
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", chosen or SEEDS)
    if "drawn" in metafunc.fixturenames:
        first = config.getoption("--deals_seed")
        metafunc.parametrize("drawn", [] if chosen else range(first, first + RANDOM_DEALS))


@pytest.fixture(scope="session")
def deal_place(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Place:
    """Toy data and unbroken runs, which all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "deals"
    folder.mkdir(exist_ok=True)
    return Place(folder)


def test_a_deal(deal_place: Place, tmp_path: Path, fault: Callable[[], None], seed: int) -> None:
    fault()
    play(draw(seed), deal_place, tmp_path)


@pytest.mark.faults
def test_a_random_deal(deal_place: Place, tmp_path: Path, fault: Callable[[], None], drawn: int) -> None:
    fault()
    play(draw(drawn), deal_place, tmp_path)


def test_the_default_deals_cover_every_kind() -> None:
    assert {draw(seed).kind for seed in SEEDS} == set(KINDS)
