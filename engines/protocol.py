"""What the trainer asks of an engine: forward, backward, step, and its state on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from engines.checkpoint.shards import Shard
from engines.optimizers import OptimizerOptions, Schedule


class Engine(Protocol):
    """One model and its optimizer on this rank's device.

    Gradients are *summed* over the backward calls of a step and over the ranks (never averaged).
    """

    name: str  # "torch", "zero0" ... "zero3"
    device: torch.device
    bf16: bool  # whether forward runs under bf16 autocast
    model: nn.Module  # the user's module, unwrapped: model(**features) -> dict of tensors with a leading row axis

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Representations of one chunk (leading row axis), under autocast, returned in float32.

        Several results may keep their graph at once; backward takes them in any order. ZeRO-3 needs the same number of
        calls on every rank, in training and in evaluation.
        """

    def backward(self, surrogate: Tensor, *, last: bool) -> None:
        """Accumulate this chunk's gradient; `last` marks the step's last chunk: there gradients are reduced."""

    def step(self) -> float:
        """Agree that the gradient is finite, clip, update, advance the schedule, zero the gradients.

        Returns the global gradient norm before clipping. Raises `NotFinite` on every rank, with the weights
        and the schedule untouched, where the gradient of any rank is not finite.
        """

    def learning_rate(self) -> float:
        """That of the next update."""

    def full_weights(self) -> AbstractContextManager[None]:
        """Inside, `model` holds whole weights (ZeRO-3 gathers them; elsewhere nothing happens). All ranks enter it."""

    def shard(self) -> Shard:
        """This rank's part of trainable weights, buffers, optimizer and schedule, as views: `write` it before the next
        step, or copy it."""

    def load(self, folder: Path) -> None:
        """All ranks continue from the shards in `folder`, whichever engine wrote them on however many ranks. Raises
        ValueError where they are another model's."""


class EngineConfig(Protocol):
    """The options of an engine."""

    def build(self, model: nn.Module, options: OptimizerOptions, schedule: Schedule, max_grad_norm: float) -> Engine:
        """Move `model` to this rank's device and make its engine; `max_grad_norm` inf: gradients are not clipped."""


class NotFinite(FloatingPointError):
    """The loss or a gradient is not finite: raised on every rank alike, with weights, optimizer and schedule as they
    were. `rows`: those of the global step whose representations or gradients are not, where this is known."""

    def __init__(self, reason: str, rows: Sequence[int] = ()):
        super().__init__(reason)
        self.rows = rows


def not_finite(norm: float) -> NotFinite:
    """The error of every engine for a gradient that must not reach the weights."""
    return NotFinite(f"the gradient of the weights is not finite (norm {norm})")
