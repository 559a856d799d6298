"""The options of Plackett-Luce GRPO in addition to those of all policies, and the check that each has an effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from losses.math.checks import check_at_least, check_finite, check_one_of
from losses.policies.options import PolicyOptions
from losses.rewards import NDCG, DiscountedMetric, Reward, RewardSum, reward_name

GRADIENT_ESTIMATORS = ("policy_gradient", "pl_rank_2")
# PL-Rank-2 also learns from a list whose sampled rankings all have the same reward: from the documents not sampled.
PL_RANK_2_UNUSED = (
    "advantage_estimator",
    "reward_to_go",
    "skip_zero_std",
    "loss_type",
    "importance_sampling_level",
    "epsilon",
    "epsilon_high",
    "delta",
    "kl_in",
)


@dataclass(frozen=True)
class RankingPolicyOptions(PolicyOptions):
    """The options of `PlackettLuceGRPO`: those of `PolicyOptions`, and

    k: the number of positions sampled; None: as many as the reward reads, or the whole list if that is not known.
    reward, reward_weights: one reward or several (losses/rewards.py or any callable), and a weight for each (None: 1).
    gradient_estimator: "policy_gradient", or "pl_rank_2" (only for NDCG and Recall; without advantages and ratio).
    reward_to_go: weigh each position by the sum of the rewards from there on, not by the reward of the whole ranking.
    kl_in: with "reward" and "rao_blackwell", the loss keeps the divergence of each position, and each position is also
        penalised for the divergence after it (of the policy that sampled): together, the whole gradient of the KL.
    kl_estimator: "rao_blackwell" (exact at every position), "k2" and "k3" (in the loss), "k1" (in the reward).
    """

    kl_estimators: ClassVar[Mapping[str, Sequence[str]]] = {
        "loss": ("rao_blackwell", "k2", "k3"),
        "reward": ("rao_blackwell", "k1"),
    }

    num_generations: int = 128
    kl_estimator: str = "rao_blackwell"
    k: int | None = None
    reward: Reward | list[Reward] = field(default_factory=NDCG)
    reward_weights: list[float] | None = None
    gradient_estimator: str = "policy_gradient"
    reward_to_go: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for weight in self.reward_weights or ():
            check_finite("reward_weights", weight)
        check_one_of("gradient_estimator", self.gradient_estimator, GRADIENT_ESTIMATORS)
        self._check_depth()
        if self.gradient_estimator == "pl_rank_2":
            self._check_pl_rank_2()
        elif self.reward_to_go:
            self._check_reward_to_go()

    def _check_depth(self) -> None:
        depth = self.reward_sum.depth
        if self.k is not None:
            check_at_least("k", self.k, 1)
            if depth is not None and self.k < depth:
                raise ValueError(f"k={self.k} positions are fewer than the {depth} that the reward reads; lower its k")

    def _check_pl_rank_2(self) -> None:
        self._reject_unused(PL_RANK_2_UNUSED, "gradient_estimator=pl_rank_2")
        if unfit := [reward_name(r) for r in self.reward_sum.rewards if not isinstance(r, DiscountedMetric)]:
            raise ValueError(f"gradient_estimator=pl_rank_2 takes the rewards NDCG and Recall, not {unfit[0]}")

    def _check_reward_to_go(self) -> None:
        if unfit := [reward_name(r) for r in self.reward_sum.rewards if not hasattr(r, "per_position")]:
            raise ValueError(
                f"reward_to_go=true needs a reward with per_position(), which {unfit[0]} does not have; set "
                "reward_to_go to false"
            )
        if self.importance_sampling_level != "token":
            raise ValueError(
                f"importance_sampling_level={self.importance_sampling_level} has one ratio for all positions of a "
                "ranking; set reward_to_go to false, or the level to token"
            )

    @property
    def reward_sum(self) -> RewardSum:
        """The weighted sum of the rewards."""
        return RewardSum.from_options(self.reward, self.reward_weights)

    @property
    def data_requirements(self) -> tuple[str, ...]:
        return self.reward_sum.data_requirements

    @property
    def per_position(self) -> bool:
        """Whether the rewards of each position are needed."""
        return self.reward_to_go or self.gradient_estimator == "pl_rank_2"

    @property
    def on_policy_only(self) -> bool:
        return self.gradient_estimator == "pl_rank_2"

    @property
    def depth(self) -> int | None:
        """The number of positions sampled; None: the whole list."""
        return self.k or self.reward_sum.depth

    def num_positions(self, list_size: int) -> int:
        """Return the number of positions to sample in lists padded to `list_size`."""
        return min(self.depth or list_size, list_size)
