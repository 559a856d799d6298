"""Rewards of sampled rankings: the metrics of record, position by position.

A reward is any callable (rankings [..., G, k], labels [..., n], mask [..., n]) -> [..., G]. The ones here also have
`per_position` -> [..., G, k], an additive decomposition in which position j's part depends on y_<=j alone: what
reward-to-go needs; NDCG and Recall are even gains of documents times discounts of positions (`DiscountedMetric`):
what PL-Rank-2 needs.

All count relevance within the candidate list (ideal ranking, number of relevant documents), equal `ir_measures` on it
(tested), and give 0 to a list without relevant documents. Positions beyond the rankings' k are not read. Labels at
padding are ignored; documents with a label above 0 are relevant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from losses.math.masking import at_least, one_of
from losses.math.plackett_luce import place

Reward = Callable[[Tensor, Tensor, Tensor], Tensor]


def reward_name(reward: Reward) -> str:
    """A name for logs: the reward's `name`, else the function's (also of a `partial`) or the class's."""
    function = getattr(reward, "func", reward)
    return str(getattr(reward, "name", None) or getattr(function, "__name__", None) or type(reward).__name__)


def _ranks(rankings: Tensor) -> Tensor:
    """1, 2, ... along the last axis."""
    return torch.arange(1, rankings.shape[-1] + 1, device=rankings.device)


def _up_to(k: int | None, rankings: Tensor) -> Tensor:
    """[positions] float32: 1 up to position k (None: everywhere), 0 beyond."""
    ranks = _ranks(rankings)
    return (torch.ones_like(ranks) if k is None else ranks <= k).float()


def _relevant(labels: Tensor, mask: Tensor) -> Tensor:
    return ((labels > 0) & mask).float()


@dataclass(frozen=True)
class _RankingMetric(ABC):
    """What all share: the cutoff k (None: the whole list), the name, and the sum over positions."""

    metric: ClassVar[str]

    k: int | None = None

    def __post_init__(self) -> None:
        if self.k is not None:
            at_least(f"{type(self).__name__}.k", self.k, 1)

    @property
    def name(self) -> str:
        """As `ir_measures` writes it, for example nDCG@10."""
        return self.metric if self.k is None else f"{self.metric}@{self.k}"

    @abstractmethod
    def per_position(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """[..., G, k], [..., n], [..., n] -> [..., G, k], each position's part of the metric."""

    def __call__(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """[..., G, k], [..., n], [..., n] -> [..., G], the metric of every ranking."""
        return self.per_position(rankings, labels, mask).sum(dim=-1)


class DiscountedMetric(_RankingMetric):
    """sum_j discount_j gain(y_j): a weight of the position times a gain of the document."""

    @abstractmethod
    def discounts(self, rankings: Tensor) -> Tensor:
        """[positions] for rankings [..., positions], 0 beyond the cutoff."""

    @abstractmethod
    def gains(self, labels: Tensor, mask: Tensor) -> Tensor:
        """[..., n], normalised per list, 0 at padding."""

    def per_position(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        return place(self.gains(labels, mask), rankings) * self.discounts(rankings)


@dataclass(frozen=True)
class NDCG(DiscountedMetric):
    """sum_{j<=k} gain(y_j) / log2(1 + j), over the same of the ideal ranking (Järvelin and Kekäläinen 2002).

    gain: "linear" (the label, as trec_eval and the evaluation) or "exponential" (2^label - 1, as LambdaRank).
    """

    metric: ClassVar[str] = "nDCG"

    k: int | None = 10
    gain: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("NDCG.gain", self.gain, ("linear", "exponential"))

    def discounts(self, rankings: Tensor) -> Tensor:
        return _up_to(self.k, rankings) / torch.log2(_ranks(rankings) + 1.0)

    def gains(self, labels: Tensor, mask: Tensor) -> Tensor:
        labels = labels.float().clamp(min=0).masked_fill(~mask, 0.0)
        gains = labels if self.gain == "linear" else torch.exp2(labels) - 1
        best_first = gains.sort(dim=-1, descending=True).values
        ideal = (best_first * self.discounts(best_first)).sum(dim=-1, keepdim=True)
        return gains / ideal.masked_fill(ideal == 0, 1.0)


@dataclass(frozen=True)
class Recall(DiscountedMetric):
    """Relevant documents in the top k over the relevant documents of the list."""

    metric: ClassVar[str] = "R"

    k: int | None = 10

    def discounts(self, rankings: Tensor) -> Tensor:
        return _up_to(self.k, rankings)

    def gains(self, labels: Tensor, mask: Tensor) -> Tensor:
        relevant = _relevant(labels, mask)
        return relevant / relevant.sum(dim=-1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class MRR(_RankingMetric):
    """1 / rank of the first relevant document, 0 where it is beyond k."""

    metric: ClassVar[str] = "RR"

    def per_position(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        relevant = place(_relevant(labels, mask), rankings)
        first = relevant * (relevant.cumsum(dim=-1) == 1)
        return first * _up_to(self.k, rankings) / _ranks(rankings)


@dataclass(frozen=True)
class MAP(_RankingMetric):
    """Sum of the precision at each relevant document in the top k, over the relevant documents of the list."""

    metric: ClassVar[str] = "AP"

    def per_position(self, rankings: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        relevant = _relevant(labels, mask)
        num_relevant = relevant.sum(dim=-1).clamp(min=1)[..., None, None]
        placed = place(relevant, rankings)
        precision = placed.cumsum(dim=-1) / _ranks(rankings)
        return placed * precision * _up_to(self.k, rankings) / num_relevant


def check_shape(name: str, value: object, like: Tensor, shape: str) -> None:
    """Raise ValueError where a reward's `value` is no tensor, or of another shape than `like`, named `shape`."""
    expected = f"expected a tensor {shape}, here {list(like.shape)}"
    if not isinstance(value, Tensor):
        raise ValueError(f"the reward {name} returned a {type(value).__name__}, {expected}")
    if value.shape != like.shape:
        raise ValueError(f"the reward {name} returned the shape {list(value.shape)}, {expected}")


class Outcome(NamedTuple):
    """What rankings earn: the weighted total [..., G], every reward's own value [..., G] by name, and the weighted
    total at each position [..., G, k] where that was asked for."""

    total: Tensor
    values: dict[str, Tensor]
    per_position: Tensor | None


@dataclass(frozen=True)
class RewardSum:
    """sum_i weight_i reward_i."""

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, reward: Reward | Sequence[Reward], weights: Sequence[float] | None) -> RewardSum:
        """From one reward or several; weights None: 1 each. Raises ValueError where the numbers differ."""
        rewards = (reward,) if callable(reward) else tuple(reward)
        chosen = tuple(weights) if weights is not None else (1.0,) * len(rewards)
        if not rewards or len(chosen) != len(rewards):
            raise ValueError(f"reward_weights has {len(chosen)} values for {len(rewards)} rewards; give one for each")
        return cls(rewards, chosen)

    @property
    def depth(self) -> int | None:
        """Positions that the deepest reward reads (its `k`); None where one reads the whole list or does not say."""
        depths = [getattr(reward, "k", None) for reward in self.rewards]
        return None if None in depths else max(depth for depth in depths if depth is not None)

    def evaluate(self, rankings: Tensor, labels: Tensor, mask: Tensor, *, per_position: bool) -> Outcome:
        """What the rankings earn; `per_position` needs rewards with that method.

        Raises ValueError where a reward returns no tensor [..., G], or position by position none [..., G, k].
        """
        values: dict[str, Tensor] = {}
        total = rankings.new_zeros(rankings.shape[:-1], dtype=torch.float32)
        positions = rankings.new_zeros(rankings.shape, dtype=torch.float32)
        for reward, weight in zip(self.rewards, self.weights, strict=True):
            if per_position:
                at_positions = reward.per_position(rankings, labels, mask)  # type: ignore[attr-defined]
                check_shape(f"{reward_name(reward)}.per_position", at_positions, rankings, "[..., G, k]")
                positions = positions + weight * at_positions
                value = at_positions.sum(dim=-1)
            else:
                value = reward(rankings, labels, mask)
                check_shape(reward_name(reward), value, total, "[..., G]")
                value = value.to(total.dtype)
            values[reward_name(reward)] = value
            total = total + weight * value
        return Outcome(total, values, positions if per_position else None)
