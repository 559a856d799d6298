"""Schedules: a factor of a loss's weight that changes with the progress of the training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from losses.math.checks import check_at_least, check_finite, check_one_of

SHAPES = ("linear", "cosine", "quadratic")


@dataclass(frozen=True)
class Schedule:
    """The value is `initial` until the fraction `start` of the training and `final` from the fraction `end` on, with a
    ramp of the given `shape` between them.

    With start = end it is a step. For another schedule, write a subclass that overrides `__call__`.

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
        check_one_of("shape", self.shape, SHAPES)
        check_finite("initial", self.initial)
        check_finite("final", self.final)
        check_at_least("start", self.start, 0.0)
        check_at_least("end", self.end, self.start)
        if self.end > 1:
            raise ValueError(f"end must be at most 1, a fraction of the training, got {self.end}")

    def __call__(self, progress: float) -> float:
        """progress: the fraction of the training that is done, 0 to 1."""
        if progress >= self.end:
            return self.final
        if progress <= self.start:
            return self.initial
        fraction = (progress - self.start) / (self.end - self.start)
        if self.shape == "cosine":
            fraction = (1 - math.cos(math.pi * fraction)) / 2
        elif self.shape == "quadratic":
            fraction = fraction**2
        return self.initial + fraction * (self.final - self.initial)
