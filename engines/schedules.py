"""Learning-rate schedules: linear warm-up, then linear decay to 0, cosine decay to 0, or a constant rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each update as a fraction of the peak learning rate.

    `name` is one of SCHEDULES. The warm-up takes `warmup_ratio * max_steps` updates; update u (from 0) has
    (u + 1) / (warm-up + 1) of the peak. So the first update does not have a learning rate of 0.
    """

    name: str
    max_steps: int
    warmup_ratio: float

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"trainer.schedule must be one of {', '.join(SCHEDULES)}, got {self.name!r}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"trainer.warmup_ratio must lie in [0, 1], got {self.warmup_ratio}")

    def build(self, optimizer: Optimizer) -> LRScheduler:
        """Build the scheduler of `optimizer`."""
        return LambdaLR(optimizer, self.factor)

    def factor(self, update: int) -> float:
        """The fraction of the peak learning rate at update `update` (from 0)."""
        warmup = round(self.warmup_ratio * self.max_steps)
        if update < warmup:
            return (update + 1) / (warmup + 1)
        progress = min((update - warmup) / max(self.max_steps - warmup, 1), 1.0)
        decay = {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "constant": 1.0}
        return decay[self.name]
