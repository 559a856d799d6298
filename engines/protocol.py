"""What the trainer asks of an engine: forward, backward, step, and its state on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler


class Engine(Protocol):
    """One model and its optimizer on this rank's device.

    Gradients are *summed* over the backward calls of a step and over the ranks (never averaged).
    """

    name: str  # "torch", "zero0" ... "zero3"
    device: torch.device
    model: nn.Module  # the user's module, unwrapped

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Representations of one chunk (leading row axis), under autocast, returned in float32."""

    def backward(self, surrogate: Tensor, *, last: bool) -> None:
        """Accumulate this chunk's gradient; `last` marks the step's last chunk: there gradients are reduced."""

    def step(self) -> float:
        """Agree that the gradient is finite, clip, update, advance the schedule, zero the gradients.

        Returns the global gradient norm before clipping. Raises FloatingPointError on every rank, with the weights
        untouched, where the gradient of any rank is not finite.
        """

    def learning_rate(self) -> float: ...

    def full_weights(self) -> AbstractContextManager[None]:
        """Inside, rank 0's `model` holds whole weights (ZeRO-3 gathers them; elsewhere nothing happens)."""

    def save(self, folder: Path) -> None:
        """All ranks write weights, optimizer and schedule below `folder` (which exists)."""

    def load(self, folder: Path) -> None: ...


Schedule = Callable[[torch.optim.Optimizer], LRScheduler]
