"""A weighted sum of losses of any contract, each with a name, a weight and an optional schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from losses.contracts import LossInputs, Statistics, WrapperLoss, compute_loss, is_policy
from losses.math.checks import check_finite
from losses.math.schedules import Schedule


@dataclass(frozen=True)
class Term:
    """One loss of a sum. Its weight is `weight`, times the value of the schedule if it has one."""

    loss: Any
    weight: float = 1.0
    schedule: Schedule | None = None

    def weight_at(self, progress: float) -> float:
        return self.weight if self.schedule is None else self.weight * self.schedule(progress)


@dataclass(frozen=True)
class WeightedSum(WrapperLoss):
    """sum_t weight_t(progress) loss_t over named terms.

    Each term is the mean over the lists that are valid for it. Logged: `loss/NAME`, unweighted, and `weight/NAME` if
    the term has a schedule; the statistics of a term are logged as `NAME/...`.

    Cost: the sum of its terms' costs.

    Raises:
        ValueError: no terms, a term that is not a loss, a policy as a term, or a weight that is not finite.
    """

    sharded: ClassVar[bool] = True

    terms: Mapping[str, Term] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms is empty: give at least one, terms.NAME.loss with its weight")
        for name, term in self.terms.items():
            if is_policy(term.loss):
                raise ValueError(
                    f"terms.{name}.loss={type(term.loss).__name__} is a policy and cannot be a term of a sum: "
                    "use it alone, with trainer=grpo"
                )
            if not hasattr(term.loss, "contract"):
                raise ValueError(f"terms.{name}.loss={term.loss!r} is not a loss: its class has no `contract`")
            check_finite(f"terms.{name}.weight", term.weight)

    @property
    def losses(self) -> tuple[Any, ...]:
        return tuple(term.loss for term in self.terms.values())

    def __call__(self, loss_inputs: LossInputs) -> tuple[Tensor, Statistics]:
        """Return the scalar sum, and its terms by name."""
        weighted: list[Tensor] = []
        statistics: Statistics = {}
        for name, term in self.terms.items():
            value, details = compute_loss(term.loss, loss_inputs)
            weight = term.weight_at(loss_inputs.progress)
            weighted.append(weight * value)
            statistics[f"loss/{name}"] = value.detach()
            if term.schedule is not None:
                statistics[f"weight/{name}"] = torch.tensor(weight)
            statistics |= {f"{name}/{detail}": statistic for detail, statistic in details.items()}
        return torch.stack(weighted).sum(), statistics
