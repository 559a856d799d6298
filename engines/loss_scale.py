"""The loss scale of fp16: gradients are computed of a multiple of the loss, so that small ones do not become zero.

Micikevicius et al. 2018, "Mixed Precision Training", arXiv:1710.03740. All engines share this class instead of the
scalers of torch and DeepSpeed: so a checkpoint of one is continued by another, and a step whose gradients overflow is
repeated, not dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from engines.protocol import Overflow, gradient_not_finite

SMALLEST = 1.0


@dataclass
class LossScale:
    """A factor of the loss that is halved when gradients overflow and doubled after `GROWTH_INTERVAL` updates without.

    Factors are powers of two, so multiplying by them rounds nothing.
    """

    GROWTH_INTERVAL: ClassVar[int] = 2000  # updates, as in torch.amp.GradScaler

    value: float = 2.0**16
    updates: int = 0  # since the last change
    before: float | None = None  # the value before a row of overflows, in which this process is

    def check(self, norm: float) -> None:
        """Note the gradient norm of a step, which is the same on every rank.

        Raises `Overflow` if it is not finite: the step is to be repeated with the smaller scale. Raises `NotFinite` if
        it is not finite with the smallest scale either, and returns to the scale before: that gradient was not fp16's
        fault.
        """
        if math.isfinite(norm):
            self.before, self.updates = None, self.updates + 1
            if self.updates == self.GROWTH_INTERVAL:
                self.value, self.updates = 2 * self.value, 0
            return
        before = self.before or self.value
        if self.value <= SMALLEST:
            self.value, self.before = before, None
            raise gradient_not_finite(norm, f", with a loss scale of {SMALLEST:g} too")
        self.value, self.updates, self.before = self.value / 2, 0, before
        raise Overflow(f"gradients overflow in fp16: the step is repeated with a loss scale of {self.value:g}")

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint, in JSON types."""
        return {"value": self.value, "updates": self.updates}

    def load(self, state: dict[str, Any] | None) -> None:
        """Restore `state`. None, of a checkpoint in another precision, changes nothing."""
        if state is not None:
            self.value, self.updates, self.before = state["value"], state["updates"], None


def make_loss_scale(autocast: torch.dtype | None) -> LossScale | None:
    """A new loss scale if forward passes run in fp16."""
    return LossScale() if autocast is torch.float16 else None


def unscale(gradients: Sequence[Tensor], divisor: float) -> None:
    """Divide the gradients, in place."""
    if divisor != 1.0 and gradients:
        torch._foreach_mul_(list(gradients), 1 / divisor)


def check_norm(norm: float, scale: LossScale | None, *, finite: bool = True) -> None:
    """Raise `Overflow` or `NotFinite`, on every rank, if the gradient norm is not finite, or if what the gradient was
    made of is not `finite`: then no loss scale would help."""
    if not finite:
        raise gradient_not_finite(norm)
    if scale is not None:
        scale.check(norm)
    elif not math.isfinite(norm):
        raise gradient_not_finite(norm)
