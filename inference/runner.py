"""What evaluators and inference run: a model, the device that it is on, and how its forward is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from losses.math.similarity import Similarity, similarity_named


class Runner(Protocol):
    """Runs a model on chunks of features: every engine, `MixedPrecision`, `Interruptible` and `ModuleRunner`."""

    @property
    def model(self) -> nn.Module:
        """The module itself, to switch its dropout off and to ask what it is."""

    @property
    def device(self) -> torch.device:
        """The device that `forward` takes its features on."""

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Representations of one chunk, by name, with a leading row axis."""


@dataclass(frozen=True)
class ModuleRunner:
    """Runs a module as it is, on one device."""

    model: nn.Module
    device: torch.device

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.model(**features)


def similarity_of(model: nn.Module) -> Similarity:
    """The similarity that `model` names; the dot product for a reranker, which compares nothing and names none."""
    return similarity_named(str(getattr(model, "similarity", "dot")))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode (no dropout); every submodule's own mode is restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
