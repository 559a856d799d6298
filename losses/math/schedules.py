"""Schedules over the training: the factor of a weight as a function of the share that is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from losses.math.masking import at_least, finite, one_of

SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """`initial` until the share `start` of the training, `final` from the share `end` on, a ramp between.

    start = end is a switch. Another schedule is a subclass with a `__call__` of its own.

    >>> fade_out = Schedule(initial=1.0, final=0.0, start=0.5)
    >>> [fade_out(progress) for progress in (0.25, 0.75, 1.0)]
    [1.0, 0.5, 0.0]
    """

    shape: str = "linear"
    initial: float = 0.0
    final: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        one_of("shape", self.shape, SHAPES)
        finite("initial", self.initial)
        finite("final", self.final)
        at_least("start", self.start, 0.0)
        at_least("end", self.end, self.start)
        if self.end > 1:
            raise ValueError(f"end must be at most 1, a share of the training, got {self.end}")

    def __call__(self, progress: float) -> float:
        """progress: the share of the training that is done, 0 to 1."""
        if progress >= self.end:
            return self.final
        if progress <= self.start:
            return self.initial
        share = (progress - self.start) / (self.end - self.start)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.initial + share * (self.final - self.initial)
