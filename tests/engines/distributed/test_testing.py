"""`run_ranks`: a failure in one rank is reported at once."""

from __future__ import annotations

import os
import time

import pytest
import torch.distributed as dist

from engines.distributed.testing import run_ranks


def rank_and_size(offset: int) -> tuple[int, int]:
    return dist.get_rank() + offset, dist.get_world_size()


def fail_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise LookupError("what rank 1 says")
    dist.barrier()


def vanish() -> None:
    os._exit(3)


def sleep() -> None:
    time.sleep(60)


def test_results_by_rank() -> None:
    assert run_ranks(rank_and_size, 3, 10) == [(10, 3), (11, 3), (12, 3)]


def test_an_exception_reaches_the_parent_with_its_traceback_though_others_wait() -> None:
    with pytest.raises(RuntimeError, match=r"rank 1 of 2 failed:(.|\n)*in fail_on_rank_1(.|\n)*what rank 1 says"):
        run_ranks(fail_on_rank_1)


def test_a_rank_that_dies_is_named() -> None:
    with pytest.raises(RuntimeError, match="rank 0 of 1 died with exit code 3"):
        run_ranks(vanish, 1)


def test_ranks_that_hang_are_ended() -> None:
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] did not finish within 1.0 s"):
        run_ranks(sleep, timeout_s=1.0)
