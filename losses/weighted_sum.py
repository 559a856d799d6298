"""A weighted sum of losses of any contract, each with a name, a weight and perhaps a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from losses.contracts import LossInputs, Statistics, WrapperLoss, apply, is_policy
from losses.math.masking import finite
from losses.math.schedules import Schedule


@dataclass(frozen=True)
class Term:
    """One loss of a sum; its weight is `weight`, times the schedule's value where there is one."""

    loss: Any
    weight: float = 1.0
    schedule: Schedule | None = None

    def weight_at(self, progress: float) -> float:
        return self.weight if self.schedule is None else self.weight * self.schedule(progress)


@dataclass(frozen=True)
class WeightedSum(WrapperLoss):
    """sum_t weight_t(progress) loss_t over named terms.

    Every term averages over the lists that count for it. Logged by name: `loss/NAME`, unweighted, and `weight/NAME`
    where it is scheduled; what a term itself logs becomes `NAME/...`.

    Cost: that of its terms.

    Raises:
        ValueError: no term, a term that is no loss, or one that samples rankings (a policy's), a weight that is not
            finite.
    """

    terms: Mapping[str, Term] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms is empty: give at least one, terms.NAME.loss with its weight")
        for name, term in self.terms.items():
            if is_policy(term.loss):
                raise ValueError(
                    f"terms.{name}.loss={type(term.loss).__name__} samples rankings and cannot be a term of a sum: "
                    "it is a loss by itself, with trainer=grpo"
                )
            if not hasattr(term.loss, "contract"):
                raise ValueError(f"terms.{name}.loss={term.loss!r} is not a loss: its class names no contract")
            finite(f"terms.{name}.weight", term.weight)

    @property
    def losses(self) -> tuple[Any, ...]:
        return tuple(term.loss for term in self.terms.values())

    def __call__(self, lists: LossInputs) -> tuple[Tensor, Statistics]:
        """The scalar sum, and its terms by name."""
        weighted: list[Tensor] = []
        statistics: Statistics = {}
        for name, term in self.terms.items():
            value, details = apply(term.loss, lists)
            weight = term.weight_at(lists.progress)
            weighted.append(weight * value)
            statistics[f"loss/{name}"] = value.detach()
            if term.schedule is not None:
                statistics[f"weight/{name}"] = torch.tensor(weight)
            statistics |= {f"{name}/{detail}": statistic for detail, statistic in details.items()}
        return torch.stack(weighted).sum(), statistics
