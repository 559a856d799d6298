"""Signals: at once before other ranks wait, afterwards when all ranks know."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
import torch

from engines.distributed import preemption
from engines.distributed.collectives import all_agree
from engines.distributed.process_group import rank
from engines.distributed.testing import run_ranks
from inference.interruptible import CALLS, Interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_before_other_ranks_wait_a_signal_acts_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with preemption.handled(), pytest.raises(preemption.Preempted, match=f"by {number.name} before training began"):
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_afterwards_it_waits_for_an_agreement_and_is_forgotten_outside() -> None:
    with preemption.handled():
        preemption.defer()
        assert all_agree(True)
        assert not preemption.agreed()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.requested()
        assert not preemption.agreed()
        assert all_agree(True)
        assert preemption.agreed()
    assert not preemption.requested()
    assert not preemption.agreed()


def signal_one_rank() -> tuple[list[bool], int]:
    """What all_agree answers, and after how many forwards the signal to rank 1 ends an evaluation."""
    engine = SimpleNamespace(model=torch.nn.Identity(), device=torch.device("cpu"), forward=lambda features: features)
    with preemption.handled():
        preemption.defer()
        answers = [all_agree(True)]
        forward = Interruptible(engine).forward
        for done in range(10 * CALLS):
            if done == 3 and rank() == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            try:
                forward({})
            except preemption.Preempted:
                return [*answers, all_agree(rank() == 0), preemption.agreed()], done
    raise AssertionError("the evaluation went on")


def test_a_signal_to_one_rank_is_known_to_all_at_the_same_call() -> None:
    assert run_ranks(signal_one_rank, 2) == [([True, False, True], CALLS)] * 2
