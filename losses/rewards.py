"""Rewards of sampled rankings: nDCG, MRR, MAP and recall, in total and position by position.

A reward is any callable (rankings [..., G, k], labels [..., n], mask [..., n]) -> [..., G]. The rewards here also have
a method `per_position` -> [..., G, k]: an additive decomposition in which the part of position j depends on y_<=j only.
Reward-to-go needs it. NDCG and Recall are a gain of the document times a discount of the position (`DiscountedMetric`).
PL-Rank-2 needs that.

All compute the ideal ranking and the number of relevant documents within the candidate list. On it they equal
`ir_measures` (tested), and a list without relevant documents has the reward 0. Positions beyond the rankings' k are not
read. Labels at padding are ignored; documents with a label above 0 are relevant. A reward that reads no more of the
labels than which documents are relevant says so by `reads_relevance`: its policy then needs lists with other documents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from losses.math.checks import check_at_least, check_one_of
from losses.math.exponentials import exponential_gains
from losses.math.plackett_luce import gather_ranked

Reward = Callable[[Tensor, Tensor, Tensor], Tensor]


def reward_name(reward: Reward) -> str:
    """Return a name for logs: the reward's `name`, else the name of the function (also in a `partial`) or class."""
    function = getattr(reward, "func", reward)
    return str(getattr(reward, "name", None) or getattr(function, "__name__", None) or type(reward).__name__)


def reads_relevance(reward: Reward) -> bool:
    """Return whether a reward (also in a `partial`) reads only which labels are above 0: its `reads_relevance`."""
    return bool(getattr(getattr(reward, "func", reward), "reads_relevance", False))


def _ranks(rankings: Tensor) -> Tensor:
    """Return 1, 2, ... along the last axis."""
    return torch.arange(1, rankings.shape[-1] + 1, device=rankings.device)


def _up_to(k: int | None, rankings: Tensor) -> Tensor:
    """Return [positions] float32: 1 up to position k (None: everywhere), 0 beyond."""
    ranks = _ranks(rankings)
    return (torch.ones_like(ranks) if k is None else ranks <= k).float()


def _relevant(labels: Tensor, mask: Tensor) -> Tensor:
    return ((labels > 0) & mask).float()


@dataclass(frozen=True)
class _RankingMetric(ABC):
    """A metric with a cutoff k (None: the whole list) and a name; the sum over positions."""

    metric: ClassVar[str]
    reads_relevance: ClassVar[bool] = False

    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None:
            check_at_least(f"{type(self).__name__}.k", self.k, 1)

    @property
    def name(self) -> str:
        """The name in `ir_measures`, for example nDCG@10."""
        return self.metric if self.k is None else f"{self.metric}@{self.k}"

    @abstractmethod
    def per_position(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """rankings [..., G, k], labels [..., n], mask [..., n] -> [..., G, k], each position's part of the metric."""

    def __call__(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """rankings [..., G, k], labels [..., n], mask [..., n] -> [..., G], the metric of every ranking."""
        return self.per_position(rankings, labels, mask).sum(dim=-1)


class DiscountedMetric(_RankingMetric):
    """The sum_j discount_j gain(y_j): a discount of the position times a gain of the document."""

    @abstractmethod
    def discounts(self, rankings: Tensor) -> Tensor:
        """rankings [..., positions] -> [positions], 0 beyond the cutoff."""

    @abstractmethod
    def gains(self, labels: Tensor, mask: Tensor) -> Tensor:
        """labels, mask [..., n] -> [..., n], normalised per list, 0 at padding."""

    def per_position(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        return gather_ranked(self.gains(labels, mask), rankings) * self.discounts(rankings)


@dataclass(frozen=True)
class NDCG(DiscountedMetric):
    """nDCG@k: sum_{j<=k} gain(y_j) / log2(1 + j), divided by the same sum for the ideal ranking.

    Järvelin and Kekäläinen 2002. gain: "linear" (the label, as in trec_eval and in this project's evaluation) or
    "exponential" (2^label - 1, as in LambdaRank). Labels may be of any size: only the ratios of a list's gains matter.
    """

    metric: ClassVar[str] = "nDCG"

    k: int | None = 10
    gain: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("NDCG.gain", self.gain, ("linear", "exponential"))

    def discounts(self, rankings: Tensor) -> Tensor:
        return _up_to(self.k, rankings) / torch.log2(_ranks(rankings) + 1.0)

    def gains(self, labels: Tensor, mask: Tensor) -> Tensor:
        labels = labels.float().clamp(min=0).masked_fill(~mask, 0.0)
        gains = labels if self.gain == "linear" else exponential_gains(labels)
        best_first = gains.sort(dim=-1, descending=True).values
        ideal = (best_first * self.discounts(best_first)).sum(dim=-1, keepdim=True)
        return gains / ideal.masked_fill(ideal == 0, 1.0)


@dataclass(frozen=True)
class Recall(DiscountedMetric):
    """Recall@k: the relevant documents in the top k, divided by the relevant documents of the list."""

    metric: ClassVar[str] = "R"
    reads_relevance: ClassVar[bool] = True

    k: int | None = 10

    def discounts(self, rankings: Tensor) -> Tensor:
        return _up_to(self.k, rankings)

    def gains(self, labels: Tensor, mask: Tensor) -> Tensor:
        relevant = _relevant(labels, mask)
        return relevant / relevant.sum(dim=-1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class MRR(_RankingMetric):
    """The reciprocal rank: 1 / rank of the first relevant document, 0 if it is beyond k."""

    metric: ClassVar[str] = "RR"
    reads_relevance: ClassVar[bool] = True

    def per_position(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        ranked = gather_ranked(_relevant(labels, mask), rankings)
        first = ranked * (ranked.cumsum(dim=-1) == 1)
        return first * _up_to(self.k, rankings) / _ranks(rankings)


@dataclass(frozen=True)
class MAP(_RankingMetric):
    """Average precision: the sum of the precision at each relevant document in the top k, divided by the number of
    relevant documents of the list."""

    metric: ClassVar[str] = "AP"
    reads_relevance: ClassVar[bool] = True

    def per_position(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        relevant = _relevant(labels, mask)
        num_relevant = relevant.sum(dim=-1).clamp(min=1)[..., None, None]
        ranked = gather_ranked(relevant, rankings)
        precision = ranked.cumsum(dim=-1) / _ranks(rankings)
        return ranked * precision * _up_to(self.k, rankings) / num_relevant


def check_shape(name: str, value: object, expected: torch.Size, description: str) -> None:
    """Raise ValueError if a reward's `value` is no tensor of the expected shape, which messages call `description`."""
    remedy = f"expected a tensor {description}, here {list(expected)}"
    if not isinstance(value, Tensor):
        raise ValueError(f"the reward {name} returned a {type(value).__name__}, {remedy}")
    if value.shape != expected:
        raise ValueError(f"the reward {name} returned the shape {list(value.shape)}, {remedy}")


class Rewards(NamedTuple):
    """The rewards of sampled actions.

    total: [..., G], the weighted sum of all rewards; values: [..., G], each reward by name, unweighted; per_position:
    [..., G, k], the weighted sum at each position, or None.
    """

    total: Tensor
    values: dict[str, Tensor]
    per_position: Tensor | None


@dataclass(frozen=True)
class RewardSum:
    """The weighted sum of several rewards, sum_i weight_i reward_i."""

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    @classmethod
    def from_options(cls, reward: Reward | Sequence[Reward], weights: Sequence[float] | None) -> RewardSum:
        """Build it from one reward or several; weights None: 1 each.

        Raises ValueError if the numbers of rewards and weights differ.
        """
        rewards = (reward,) if callable(reward) else tuple(reward)
        weights = (1.0,) * len(rewards) if weights is None else tuple(weights)
        if not rewards or len(weights) != len(rewards):
            raise ValueError(f"reward_weights has {len(weights)} values for {len(rewards)} rewards; give one for each")
        return cls(rewards, weights)

    @property
    def data_requirements(self) -> tuple[str, ...]:
        """What the rewards need of the data, names of losses.contracts.REQUIREMENTS."""
        return ("relevance",) if any(map(reads_relevance, self.rewards)) else ("comparison",)

    @property
    def depth(self) -> int | None:
        """The number of positions that the rewards read, the largest `k`; None if one reads the whole list or has no
        `k`."""
        depths = [getattr(reward, "k", None) for reward in self.rewards]
        return None if None in depths else max(depth for depth in depths if depth is not None)

    def evaluate(self, rankings: Tensor, labels: Tensor, mask: Tensor, *, per_position: bool) -> Rewards:
        """rankings [..., G, k], labels and mask [..., n] -> their rewards.

        With `per_position`, also at each position: every reward then needs the method of that name.

        Raises ValueError if a reward does not return a tensor [..., G], or its `per_position` a tensor [..., G, k].
        """
        values: dict[str, Tensor] = {}
        total = rankings.new_zeros(rankings.shape[:-1], dtype=torch.float32)
        positions = rankings.new_zeros(rankings.shape, dtype=torch.float32)
        for reward, weight in zip(self.rewards, self.weights, strict=True):
            if per_position:
                at_positions = reward.per_position(rankings, labels, mask)  # type: ignore[attr-defined]
                check_shape(f"{reward_name(reward)}.per_position", at_positions, rankings.shape, "[..., G, k]")
                positions = positions + weight * at_positions
                value = at_positions.sum(dim=-1)
            else:
                value = reward(rankings, labels, mask)
                check_shape(reward_name(reward), value, total.shape, "[..., G]")
                value = value.to(total.dtype)
            values[reward_name(reward)] = value
            total = total + weight * value
        return Rewards(total, values, positions if per_position else None)
