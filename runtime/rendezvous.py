"""Rendezvous of the ranks of one launch, in a store that may hold addresses of dead ranks.

torchrun may hand over a store that an earlier launch has written to, and its restart counter differs between
machines. So rank 0 creates a random name, and every other rank asks for that name with a random token:

    rank R                                          rank 0
    join/R     = token              ------------>   reads token
    waits for ack/token             <------------   ack/token = name
    ready/name/R = ""               ------------>   waits until every rank is ready

All ranks then use the part of the store whose keys begin with the name. A token left by a dead rank gets an answer
that nobody reads.
"""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

from runtime.errors import RunError

POLL_SECONDS = 0.02


def new_rendezvous_store(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Return a part of the launcher's store that no earlier launch has written to, the same on all ranks.

    Raises RunError when a rank does not come in time.
    """
    if rank == 0:
        name = join_as_rank_0(store, world_size, timeout)
    else:
        name = join(store, rank, timeout)
    return dist.PrefixStore(name, store)


def join_as_rank_0(store: dist.Store, world_size: int, timeout: timedelta) -> str:
    """Create the name of this launch, answer the tokens of all other ranks with it, and return it."""
    end = time.monotonic() + timeout.total_seconds()
    name = uuid.uuid4().hex
    others = range(1, world_size)
    ready = [f"ready/{name}/{rank}" for rank in others]

    # A rank may replace the token of a dead one at any time, so all tokens are answered until all ranks are ready.
    while not store.check(ready):
        for rank in others:
            if store.check([f"join/{rank}"]):
                token = store.get(f"join/{rank}").decode()
                store.set(f"ack/{token}", name)
        if time.monotonic() > end:
            missing = [str(rank) for rank in others if not store.check([f"ready/{name}/{rank}"])]
            raise RunError(
                f"of {world_size} ranks {', '.join(missing)} did not come within {timeout}: start again"
            )
        time.sleep(POLL_SECONDS)
    return name


def join(store: dist.Store, rank: int, timeout: timedelta) -> str:
    """Post a token, wait for rank 0's answer to it, and return the answer: the name of this launch."""
    token = uuid.uuid4().hex
    store.set(f"join/{rank}", token)

    try:
        store.wait([f"ack/{token}"], timeout)
    except dist.DistStoreError:
        raise RunError(f"rank 0 did not answer rank {rank} within {timeout}: start again") from None
    name = store.get(f"ack/{token}").decode()
    store.set(f"ready/{name}/{rank}", "")
    return name
