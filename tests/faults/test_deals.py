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
# Chosen so that each kind of fault, stage, optimizer, form of parallelism and damaged file is among them, and that
# they take little time.
SEEDS = (
    *(2, 4, 15, 18, 26, 39, 53, 64, 74, 76, 98, 109, 112, 114, 130, 192, 195, 207, 230, 243),
    *(
        265,
        310,
        343,
        350,
        356,
        406,
        427,
        512,
        631,
        672,
        698,
        842,
        952,
        1090,
        1107,
        1528,
        2091,
        2686,
        3013,
        5503,
    ),
)


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
    deals = [draw(seed) for seed in SEEDS]
    assert len(deals) == 40 and {deal.kind for deal in deals} == set(KINDS)

    configs = [deal.config for deal in deals]
    assert {config.stage for config in configs} == {*"PSD"}
    assert {config.ranks for config in configs} >= {1, 2}
    assert {(config.optimizer, config.parallel) for config in configs} >= {("adamw", "ddp"), ("muon", "ddp")}
    assert "fsdp" in {config.parallel for config in configs}
    assert {config.bad_steps for config in configs} >= {(4, 5)}  # a rollback, and steps skipped

    faults = [fault for deal in deals for fault in deal.faults]
    damaged = {fault.detail[1] for fault in faults if fault.kind == "damage"}
    assert damaged == {"checkpoint", "data", "latest", "best", "table", "part", "init"}
    assert {fault.detail[0] for fault in faults if fault.kind == "full disk"} == {"limit", "usage", "hook"}
