"""The options of the Plackett-Luce GRPO beside those of every policy, and the check that each of them has an effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from losses.math.masking import at_least, finite, one_of
from losses.policies.options import PolicyOptions
from losses.rewards import NDCG, DiscountedMetric, Reward, RewardSum, reward_name

GRADIENT_ESTIMATORS = ("policy_gradient", "pl_rank_2")
# A list whose sampled rankings all earn the same teaches PL-Rank-2 too, from the documents that were not sampled.
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
    """Every option of `PlackettLuceGRPO`: those of `PolicyOptions`, and

    k: positions sampled; None: as many as the reward reads, else the whole list.
    reward, reward_weights: one reward or several (losses/rewards.py or any callable), and a weight for each (None: 1).
    gradient_estimator: "policy_gradient" (everything else), or "pl_rank_2" (NDCG and Recall; no advantages, no ratio).
    reward_to_go: weigh each position by the rewards from there on; else by the whole ranking's.
    kl_in: with "reward" the choices are also charged for the divergence that they lead to (of the policy that sampled),
        which gives the rankings' whole gradient.
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
            finite("reward_weights", weight)
        one_of("gradient_estimator", self.gradient_estimator, GRADIENT_ESTIMATORS)
        self._check_depth()
        if self.gradient_estimator == "pl_rank_2":
            self._check_pl_rank_2()
        elif self.reward_to_go:
            self._check_reward_to_go()

    def _check_depth(self) -> None:
        depth = self.rewards.depth
        if self.k is not None:
            at_least("k", self.k, 1)
            if depth is not None and self.k < depth:
                raise ValueError(f"k={self.k} positions are fewer than the {depth} that the reward reads; lower its k")

    def _check_pl_rank_2(self) -> None:
        self._refuse_unused(PL_RANK_2_UNUSED, "gradient_estimator=pl_rank_2")
        if lacking := [reward_name(r) for r in self.rewards.rewards if not isinstance(r, DiscountedMetric)]:
            raise ValueError(f"gradient_estimator=pl_rank_2 takes the rewards NDCG and Recall, not {lacking[0]}")

    def _check_reward_to_go(self) -> None:
        if lacking := [reward_name(r) for r in self.rewards.rewards if not hasattr(r, "per_position")]:
            raise ValueError(f"reward_to_go=true needs a reward with per_position(), which {lacking[0]} has not")
        if self.importance_sampling_level != "token":
            raise ValueError(
                f"importance_sampling_level={self.importance_sampling_level} has one ratio for all positions of a "
                "ranking; set reward_to_go to false, or the level to token"
            )

    @property
    def rewards(self) -> RewardSum:
        """The weighted sum of the rewards."""
        return RewardSum.of(self.reward, self.reward_weights)

    @property
    def per_position(self) -> bool:
        """Rewards are wanted position by position."""
        return self.reward_to_go or self.gradient_estimator == "pl_rank_2"

    @property
    def on_policy_only(self) -> bool:
        return self.gradient_estimator == "pl_rank_2"

    @property
    def depth(self) -> int | None:
        """Positions sampled; None: the whole list."""
        return self.k or self.rewards.depth

    def num_positions(self, list_size: int) -> int:
        """Positions to sample in lists padded to `list_size`."""
        return min(self.depth or list_size, list_size)
