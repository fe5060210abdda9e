"""Rendezvous of ranks, also in a store in which dead ranks have left their tokens."""

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from runtime.errors import RunError
from runtime.rendezvous import new_rendezvous_store

RENDEZVOUS_SECONDS = 20


def rendezvous(store: dist.Store, world_size: int, late: int = 0) -> None:
    """Run a rendezvous of threads, the first `late` ranks last, and check that all use one new part of the store."""
    parts: dict[int, dist.Store] = {}

    def join(rank: int) -> None:
        parts[rank] = new_rendezvous_store(store, rank, world_size, timedelta(seconds=RENDEZVOUS_SECONDS))

    ranks = [threading.Thread(target=join, args=(rank,), daemon=True) for rank in range(world_size)]
    for thread in ranks[late:] + ranks[:late]:
        thread.start()
    for thread in ranks:
        thread.join(RENDEZVOUS_SECONDS)

    assert len(parts) == world_size
    assert not parts[0].check(["key"])  # no earlier launch wrote here
    parts[0].set("key", "value")
    assert all(part.get("key") == b"value" for part in parts.values())


def test_each_launch_of_any_number_of_ranks_has_a_part_of_its_own() -> None:
    store = dist.HashStore()
    for world_size, late in (3, 0), (3, 1), (2, 2), (1, 0), (4, 3):
        rendezvous(store, world_size, late)
    assert store.num_keys() >= 5


def test_a_rank_that_died_after_posting_its_token_is_not_waited_for() -> None:
    store = dist.HashStore()
    store.set("join/1", "token of a dead rank")
    rendezvous(store, 2)


def test_a_rank_that_never_comes_is_not_waited_for_without_end() -> None:
    short = timedelta(seconds=0.2)
    with pytest.raises(RunError, match="of 3 ranks 1, 2 did not come"):
        new_rendezvous_store(dist.HashStore(), 0, 3, short)
    with pytest.raises(RunError, match="rank 0 did not answer rank 1"):
        new_rendezvous_store(dist.HashStore(), 1, 2, short)
