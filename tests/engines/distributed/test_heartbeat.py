"""Ranks that watch each other: who fails, dies or falls silent is named, and ends the others."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from engines.distributed import heartbeat

GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1")


class Ranks:
    """Watches of several ranks in this process, over one store."""

    def __init__(self, number: int, timeout_s: float = 100.0):
        self.ended: list[queue.Queue] = [queue.Queue() for _ in range(number)]
        self.store = dist.HashStore()
        self.watches = [
            heartbeat.Watch(self.store, rank, number, timeout_s, lambda *told, rank=rank: self.ended[rank].put(told))
            for rank in range(number)
        ]
        for watch in self.watches:
            watch.start()

    def die(self, rank: int) -> None:
        self.watches[rank].stopped.set()
        for thread in self.watches[rank].threads:  # a dead process beats no more
            thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"BEAT_S": 0.05, "LOOK_S": 0.4, "_step": 7}.items():
        monkeypatch.setattr(heartbeat, name, value)
    return


def test_a_failure_is_told_to_all_and_named() -> None:
    ranks = Ranks(3)
    line, report = ranks.watches[1].report_failure(ValueError("bad"), "bad")
    assert (line, report) == ("bad", True), "it prints its own failure in its own words"
    for other in (0, 2):
        line, report = ranks.ended[other].get(timeout=20)
        assert line.startswith("rank 1 (")
        assert line.endswith(") stopped at step 7: bad")
        assert not report, "the failed rank of this node does"


def test_another_node_prints_it_too() -> None:
    ranks = Ranks(2)
    ranks.watches[1].node = "other host"
    ranks.watches[0].report_failure(ValueError("bad"), "bad")
    assert ranks.ended[1].get(timeout=20)[1]


def test_a_broken_collective_names_the_rank_that_failed_before() -> None:
    ranks = Ranks(2)
    ranks.watches[1].report_failure(MemoryError("too much"), "too much")
    line, _ = ranks.watches[0].report_failure(GLOO, "gloo")
    assert "rank 1 (" in line
    assert line.endswith("stopped at step 7: too much")


def test_a_broken_collective_names_the_rank_whose_heart_stands_still() -> None:
    ranks = Ranks(4)
    time.sleep(0.2)
    ranks.watches[3].leave()
    ranks.die(2)
    line, report = ranks.watches[0].report_failure(GLOO, "gloo")
    assert line.startswith("rank 2 (")
    assert line.endswith("last at step 7, died or is cut off")
    assert report
    assert ranks.watches[1].report_failure(GLOO, "gloo") == (line, False)


def test_a_rank_that_lives_and_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(3)
    line, _ = ranks.watches[0].report_failure(dist.DistBackendError("NCCL timeout"), "nccl")
    assert line.startswith("a collective failed though all ranks live (NCCL timeout); furthest behind: rank 1 (")


def test_silence_ends_the_others_within_the_time_limit_but_not_those_that_left() -> None:
    ranks = Ranks(3, timeout_s=8.0)
    ranks.watches[1].leave()
    time.sleep(0.3)
    began = time.monotonic()
    ranks.die(2)
    line, _ = ranks.ended[0].get(timeout=20)
    assert time.monotonic() - began < 8.0
    assert line.startswith("nothing heard for 5 s of rank 2 (")
    assert "last at step 7" in line
    assert ranks.ended[1].empty()


def test_a_store_that_does_not_answer_ends_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(2, timeout_s=2.0)
    hang = threading.Event()

    def read(store: dist.Store) -> dict[int, str]:
        hang.wait(20)
        return {}

    monkeypatch.setattr(ranks.watches[1], "_read", read)
    line, report = ranks.ended[1].get(timeout=20)
    assert "on the node of rank 0, does not answer" in line
    assert line.endswith("at step 7")
    assert report
    hang.set()


def test_what_counts_as_a_failed_collective() -> None:
    assert heartbeat.collective_failed(GLOO)
    assert heartbeat.collective_failed(dist.DistNetworkError("reset"))
    assert not heartbeat.collective_failed(RuntimeError("shapes differ"))
    assert not heartbeat.collective_failed(torch.OutOfMemoryError("CUDA out of memory"))
