"""The interface of an engine: forward, backward, step, save and load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from engines.checkpoint.shards import Shard
from engines.expected_traffic import Traffic
from engines.memory.state_bytes import Parameters, StateBytes
from engines.optimizers import OptimizerOptions, Schedule


class Engine(Protocol):
    """One model and its optimizer on this rank's device.

    Gradients are *summed* over the backward calls of a step and over the ranks (never averaged).
    """

    name: str  # "torch", "zero0" ... "zero3"
    device: torch.device
    autocast: torch.dtype | None  # the type of forward passes under autocast; None: float32
    compiled: bool  # whether forward passes run through torch.compile
    model: nn.Module  # the user's module, unwrapped: model(**features) -> dict of tensors with a leading row axis

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the representations of one chunk (leading row axis), under autocast; the result is float32.

        The graphs of several chunks may be alive at once, and backward takes them in any order. ZeRO-3 needs the same
        number of calls on every rank, in training and in evaluation.
        """

    def unchanged_weights(self) -> AbstractContextManager[None]:
        """A context in which the weights do not change, and gradients are recorded in all forwards or in none: what is
        made of the weights alone, such as their copies in bf16, is made once."""

    def backward(self, surrogate: Tensor, *, last: bool) -> None:
        """Accumulate the gradient of one chunk. `last` marks the last chunk of the step, after which the gradients are
        summed over the ranks."""

    def step(self, finite: Tensor | None = None) -> float:
        """Clip the gradients, update the weights, advance the schedule, zero the gradients.

        `finite`: a flag on the device, the same on every rank: whether what the gradients were made of is finite (if it
        is not, they are NaN). None: it is. Returns the global gradient norm before clipping, the one number of a step
        that the host waits for. Raises `NotFinite` on every rank if that or the gradient of any rank is not finite;
        weights and schedule are then unchanged. In fp16 it raises `Overflow` on every rank instead, as long as a
        smaller loss scale may help.
        """

    @property
    def loss_scale(self) -> float | None:
        """The loss scale of fp16; None in other precisions."""

    def learning_rate(self) -> float:
        """The learning rate of the next update."""

    def full_weights(self) -> AbstractContextManager[None]:
        """A context in which `model` holds the full weights. ZeRO-3 gathers them; the other engines always hold them.
        All ranks must enter it."""

    def shard(self) -> Shard:
        """This rank's part of the trainable weights, buffers, optimizer state and schedule. It holds views: `write` or
        copy it before the next step."""

    def load(self, folder: Path) -> None:
        """Load the shards in `folder` on all ranks. Another engine and another number of ranks may have written them.
        Raises ValueError if they belong to another model."""


class EngineConfig(ABC):
    """The options of an engine: a frozen dataclass. It declares everything that other packages use of the engine."""

    precision: str  # auto, fp32, bf16 or fp16: the option that every engine has

    @property
    @abstractmethod
    def name(self) -> str:
        """The engine's name in summaries, checkpoints and memory plans: "torch", "zero2"."""

    @property
    def partitions_state(self) -> bool:
        """Whether each rank holds only a part of the optimizer state."""
        return False

    def takes_optimizer(self, name: str) -> bool:
        """Whether the engine can run `trainer.optimizer=name` and save its state."""
        return True

    @abstractmethod
    def build(self, model: nn.Module, options: OptimizerOptions, schedule: Schedule, max_grad_norm: float) -> Engine:
        """Move `model` to this rank's device and build its engine. `max_grad_norm=inf` switches clipping off."""

    @abstractmethod
    def state_bytes(self, parameters: Parameters, *, ranks: int, optimizer: str) -> StateBytes:
        """The memory of each of `ranks` ranks without activations, for launch/plan.py."""

    @abstractmethod
    def traffic(
        self, parameters: Parameters, *, ranks: int, forwards: float, backwards: float, device: str
    ) -> list[Traffic]:
        """What each of `ranks` ranks receives of gradients and weights in a step with so many forwards and backwards of
        chunks on a rank. `device`: "cpu" (gloo) or "cuda" (NCCL)."""


class NotFinite(FloatingPointError):
    """The loss or a gradient is not finite. Raised on every rank; weights, optimizer and schedule are unchanged.

    `rows` are the rows of the global step whose representations or gradients are not finite, if they are known.
    `largest_output` is that of the model if all its outputs are finite and the loss made of them is not, else None.
    """

    def __init__(self, reason: str, rows: Sequence[int] = (), largest_output: float | None = None):
        super().__init__(reason)
        self.rows = rows
        self.largest_output = largest_output


class Overflow(ArithmeticError):
    """The gradients of a step overflowed in fp16. Raised on every rank; only the loss scale has changed, and the same
    step is to be run again."""


def gradient_not_finite(norm: float, remark: str = "") -> NotFinite:
    """The error that every engine raises if the gradient norm is not finite."""
    return NotFinite(f"the gradient of the weights is not finite (norm {norm}{remark})")
