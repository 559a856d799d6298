"""Rewards of sets of documents, in which the order does not matter.

A reward is any callable (selected [..., G, n] bool, labels [..., n], mask [..., n]) -> [..., G]. Documents with a label
above 0 are relevant. The reward is 0 for a list without relevant documents, and for the empty set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from losses.math.checks import check_positive


def _counts(selected: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count relevant documents in the set [..., G], documents in the set [..., G], and relevant documents of the list
    [..., 1]; float32."""
    relevant = ((labels > 0) & mask).unsqueeze(-2)
    return (selected & relevant).sum(dim=-1).float(), selected.sum(dim=-1).float(), relevant.sum(dim=-1).float()


@dataclass(frozen=True)
class SetPrecision:
    """Precision: the relevant documents of the set, divided by its documents."""

    name: ClassVar[str] = "set_precision"
    reads_relevance: ClassVar[bool] = True

    def __call__(self, selected: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        found, size, _ = _counts(selected, labels, mask)
        return found / size.clamp(min=1)


@dataclass(frozen=True)
class SetRecall:
    """Recall: the relevant documents of the set, divided by the relevant documents of the list."""

    name: ClassVar[str] = "set_recall"
    reads_relevance: ClassVar[bool] = True

    def __call__(self, selected: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        found, _, relevant = _counts(selected, labels, mask)
        return found / relevant.clamp(min=1)


@dataclass(frozen=True)
class SetF:
    """F-measure: (1 + beta^2) P R / (beta^2 P + R) of precision P and recall R (van Rijsbergen 1979).

    beta > 1 gives recall more weight.
    """

    name: ClassVar[str] = "set_f"
    reads_relevance: ClassVar[bool] = True

    beta: float = 1.0

    def __post_init__(self) -> None:
        check_positive("SetF.beta", self.beta)

    def __call__(self, selected: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        found, size, relevant = _counts(selected, labels, mask)
        weight = self.beta**2
        return (1 + weight) * found / (weight * relevant + size).clamp(min=1e-9)
