"""Evaluations that a preemption can interrupt."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from engines.distributed.collectives import all_agree
from engines.distributed.preemption import Preempted, agreed
from inference.runner import Runner

CALLS = 8  # calls of forward between two checks for a preemption: each check is a small collective, which takes time


class Interruptible:
    """A runner whose `forward` raises `Preempted` after a signal, on all ranks at the same call.

    All ranks make the same number of calls of `forward` in an evaluation, so no collective is needed to count them.
    """

    def __init__(self, runner: Runner):
        self.runner = runner
        self.model, self.device = runner.model, runner.device
        self.calls = 0

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.calls % CALLS == 0:
            all_agree(True)
        if agreed():
            raise Preempted("during an evaluation")
        self.calls += 1
        return self.runner.forward(features)
