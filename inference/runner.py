"""The interface by which evaluators and inference run a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from data.collate import Collator, PackedCollator
from losses.math.similarity import Similarity, similarity_named
from models.int8_ranges import Int8Ranges


class Runner(Protocol):
    """Runs a model on chunks of features: every engine, `MixedPrecision`, `Interruptible` and `ModuleRunner`."""

    @property
    def model(self) -> nn.Module:
        """The module itself, to set its mode and read its attributes."""

    @property
    def device(self) -> torch.device:
        """The device on which `forward` expects its features."""

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the representations of one chunk by name, with a leading row axis."""


@dataclass(frozen=True)
class ModuleRunner:
    """A runner that calls a module directly, on one device."""

    model: nn.Module
    device: torch.device

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.model(**features)


def row_collator(model: nn.Module, padding: Mapping[str, int], token_budget: int) -> Collator:
    """The collator of sequences that `model` runs. Its chunks hold `token_budget` tokens: those of the sequences if the
    model packs its rows, else with their padding. `padding`: that of the model's tokenizer."""
    kind = PackedCollator if getattr(model, "packs_rows", False) else Collator
    return kind(padding, token_budget)


def similarity_of(model: nn.Module) -> Similarity:
    """The similarity that `model` names; the dot product for a reranker, which names none."""
    return similarity_named(str(getattr(model, "similarity", "dot")))


def int8_ranges_of(model: nn.Module) -> Int8Ranges | None:
    """The ranges in which a model's embeddings are stored as int8, if it was trained for them."""
    ranges: Int8Ranges | None = getattr(model, "int8_ranges", None)
    return ranges


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode (no dropout). The mode of every submodule is restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
