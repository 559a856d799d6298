"""Long passes without gradients that a preemption may end."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from engines.distributed.collectives import all_agree
from engines.distributed.preemption import Preempted, agreed
from engines.protocol import Engine

CALLS = 8  # between two agreements: a tiny exchange, but a forward over many ranks is to cost no more than itself


class Interruptible:
    """An engine's `forward` for evaluation: raises `Preempted` on all ranks at the same call, once a signal has come.

    Every rank makes equally many calls of `forward` in an evaluation, so counting them needs no exchange.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self.model = engine.model
        self.calls = 0

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.calls % CALLS == 0:
            all_agree(True)
        if agreed():
            raise Preempted("during an evaluation")
        self.calls += 1
        return self.engine.forward(features)
