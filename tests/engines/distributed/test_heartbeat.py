"""Heartbeats: a rank that fails, dies or falls silent is named, and the others end."""

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
    """The heartbeats of several ranks in this process, over one store."""

    def __init__(self, number: int, timeout_s: float = 100.0):
        self.ended: list[queue.Queue] = [queue.Queue() for _ in range(number)]
        self.store = dist.HashStore()
        self.monitors = [
            heartbeat.HeartbeatMonitor(
                self.store, rank, number, timeout_s, lambda *arguments, rank=rank: self.ended[rank].put(arguments)
            )
            for rank in range(number)
        ]
        for monitor in self.monitors:
            monitor.start()

    def die(self, rank: int) -> None:
        self.monitors[rank].stopped.set()
        for thread in self.monitors[rank].threads:  # a dead process has no heartbeat
            thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"INTERVAL_S": 0.05, "SEARCH_S": 0.4, "_step": 7}.items():
        monkeypatch.setattr(heartbeat, name, value)
    return


def test_a_failure_is_reported_to_all_ranks_by_name() -> None:
    ranks = Ranks(3)
    line, report = ranks.monitors[1].report_failure(ValueError("bad"), "bad")
    assert (line, report) == ("bad", True), "it prints its own failure in its own words"
    for other in (0, 2):
        line, report = ranks.ended[other].get(timeout=20)
        assert line.startswith("rank 1 (")
        assert line.endswith(") stopped at step 7: bad")
        assert not report, "the failed rank of this node does"


def test_another_node_prints_it_too() -> None:
    ranks = Ranks(2)
    ranks.monitors[1].node = "other host"
    ranks.monitors[0].report_failure(ValueError("bad"), "bad")
    assert ranks.ended[1].get(timeout=20)[1]


def test_a_broken_collective_names_the_rank_that_failed_before() -> None:
    ranks = Ranks(2)
    ranks.monitors[1].report_failure(MemoryError("too much"), "too much")
    line, _ = ranks.monitors[0].report_failure(GLOO, "gloo")
    assert "rank 1 (" in line
    assert line.endswith("stopped at step 7: too much")


def test_a_broken_collective_names_the_rank_whose_heartbeat_has_stopped() -> None:
    ranks = Ranks(4)
    time.sleep(0.2)
    ranks.monitors[3].stop()
    ranks.die(2)
    line, report = ranks.monitors[0].report_failure(GLOO, "gloo")
    assert line.startswith("rank 2 (")
    assert line.endswith("last at step 7, died or is cut off")
    assert report
    assert ranks.monitors[1].report_failure(GLOO, "gloo") == (line, False)


def test_a_rank_that_is_alive_but_behind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(3)
    line, _ = ranks.monitors[0].report_failure(dist.DistBackendError("NCCL timeout"), "nccl")
    assert line.startswith("a collective failed although all ranks are alive (NCCL timeout); furthest behind: rank 1 (")


def test_silence_ends_the_others_within_the_time_limit_but_not_a_rank_that_has_ended() -> None:
    ranks = Ranks(3, timeout_s=8.0)
    ranks.monitors[1].stop()
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

    monkeypatch.setattr(ranks.monitors[1], "_read", read)
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
