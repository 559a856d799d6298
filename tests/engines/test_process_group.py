"""Rank and size are known with and without torchrun."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from engines import process_group


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_needs_no_group() -> None:
    process_group.start()
    assert not dist.is_initialized()
    assert (process_group.rank(), process_group.world_size(), process_group.is_main()) == (0, 1, True)
    process_group.barrier()
    process_group.stop()


def test_rank_is_known_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (process_group.rank(), process_group.world_size(), process_group.is_main()) == (3, 4, False)


def test_a_size_without_a_rank_is_not_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (process_group.rank(), process_group.world_size()) == (0, 1)
    process_group.start()
    process_group.barrier()


def test_a_group_of_one_starts_without_ports() -> None:
    process_group.start_alone()
    try:
        assert dist.get_world_size() == 1
    finally:
        process_group.stop()
    assert not dist.is_initialized()


def test_more_ranks_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert process_group.device() == torch.device("cuda", 1)
    assert process_group.backend() == "cpu:gloo,cuda:nccl"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="LOCAL_RANK is 2 but this machine shows 2 GPUs"):
        process_group.device()
