"""Signals: before training they act at once, afterwards only when all ranks know of them."""

from __future__ import annotations

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
def test_before_training_a_signal_acts_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with (
        preemption.handle_signals(),
        pytest.raises(preemption.Preempted, match=f"by {number.name} before training began"),
    ):
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_during_training_it_waits_for_all_ranks_and_is_forgotten_afterwards() -> None:
    with preemption.handle_signals():
        preemption.defer_signals()
        assert all_agree(True)
        assert not preemption.agreed()
        signal.raise_signal(signal.SIGTERM)
        assert preemption.requested()
        assert not preemption.agreed()
        assert all_agree(True)
        assert preemption.agreed()
    assert not preemption.requested()
    assert not preemption.agreed()


def signal_one_rank() -> tuple[list[bool], int]:
    """The results of all_agree, and the number of forwards after which a signal to rank 1 ends an evaluation."""
    engine = SimpleNamespace(model=torch.nn.Identity(), device=torch.device("cpu"), forward=lambda features: features)
    with preemption.handle_signals():
        preemption.defer_signals()
        answers = [all_agree(True)]
        forward = Interruptible(engine).forward
        for done in range(10 * CALLS):
            if done == 3 and rank() == 1:
                signal.raise_signal(signal.SIGUSR1)
            try:
                forward({})
            except preemption.Preempted:
                return [*answers, all_agree(rank() == 0), preemption.agreed()], done
    raise AssertionError("the evaluation went on")


def test_a_signal_to_one_rank_is_known_to_all_at_the_same_call() -> None:
    assert run_ranks(signal_one_rank, 2) == [([True, False, True], CALLS)] * 2
