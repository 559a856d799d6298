"""Ranks find each other in a store that holds entries of earlier attempts."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from engines.distributed import preemption
from engines.distributed.rendezvous import fresh_store


def attempt(store: dist.Store, world_size: int, late: int | None = None) -> list[bytes]:
    """The value that rank 0 of this attempt wrote, as every rank reads it. Rank `late` joins last."""

    def join(rank: int) -> bytes:
        time.sleep(0.3 if rank == late else 0)
        fresh = fresh_store(store.clone(), rank, world_size, timeout_s=10)
        if rank == 0:
            assert not fresh.check(["address"]), "an earlier attempt's"
            fresh.set("address", f"of {time.monotonic_ns()}")
        return fresh.get("address")

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(join, range(world_size)))


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("late", [0, -1])
def test_every_attempt_has_a_store_of_its_own(world_size: int, late: int) -> None:
    store = dist.HashStore()
    found = [attempt(store, world_size, late % world_size) for _ in range(3)]
    assert [len(set(addresses)) for addresses in found] == [1, 1, 1]
    assert len({addresses[0] for addresses in found}) == 3


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_waits_for_others_ends_by_a_signal(rank: int) -> None:
    with preemption.handle_signals():
        preemption.defer_signals()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(preemption.Preempted, match="by SIGTERM while the ranks connected"):
            fresh_store(dist.HashStore(), rank, 2, timeout_s=5)


def test_missing_ranks_are_named() -> None:
    store = dist.HashStore()
    attempt(store, 3)
    with pytest.raises(ValueError, match=r"within timeout_s: missing 2 of 3 ranks: 1, 2\."):
        fresh_store(store, 0, 3, timeout_s=0.3)
    with pytest.raises(ValueError, match=r"missing rank 0"):
        fresh_store(store, 1, 3, timeout_s=0.3)
