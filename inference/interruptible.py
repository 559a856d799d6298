"""Long passes without gradients, which a preemption may end."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from engines.distributed.collectives import all_agree
from engines.distributed.preemption import Preempted, agreed
from inference.runner import Runner

CALLS = 8  # of forward between two agreements: each is a tiny collective, and must cost little beside the forwards


class Interruptible:
    """Runs what `runner` runs until a signal has come; then `forward` raises `Preempted`, on all ranks at the same
    call.

    Every rank makes equally many calls of `forward` in an evaluation, so counting them needs no collective.
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
