"""The options of the Plackett-Luce GRPO, with TRL's names, and the check that each of them has an effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar

from losses.advantages import ADVANTAGE_ESTIMATORS
from losses.lists import above_zero, at_least, finite, one_of
from losses.policy_gradient import IMPORTANCE_SAMPLING_LEVELS, LOSS_TYPES
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
KL_ESTIMATORS = {"loss": ("rao_blackwell", "k2", "k3"), "reward": ("rao_blackwell", "k1")}


@dataclass(frozen=True)
class RankingPolicyOptions:
    """Every option of `PlackettLuceGRPO`. Raises ValueError, in one line, for a value or combination without meaning.

    num_generations: G, rankings sampled per list.
    temperature: of the policy, softmax(scores / temperature); cosine scores need 0.01 to 0.05.
    k: positions sampled; None: as many as the reward reads, else the whole list.
    reward, reward_weights: one reward or several (losses/rewards.py or any callable), and a weight for each (None: 1).
    gradient_estimator: "policy_gradient" (everything below), or "pl_rank_2" (NDCG and Recall; no advantages, no ratio).
    advantage_estimator: "rloo", "none", "group" or "batch" (losses/advantages.py).
    reward_to_go: weigh each position by the rewards from there on; else by the whole ranking's.
    skip_zero_std: leave lists out of the denominators too where all sampled rankings have the same reward.
    loss_type: "sum", "grpo", "bnpo", "dapo", "dr_grpo" or "cispo" (`reduce_positions`).
    importance_sampling_level: "token" (each position), "sequence" (GSPO's mean) or "sequence_product".
    epsilon, epsilon_high: clip range of the ratio, [1 - epsilon, 1 + epsilon_high], 0 <= epsilon < 1, epsilon_high
        >= 0, None: epsilon. For
        "cispo", epsilon_high is an absolute cap.
    delta: cap of the ratio in the unclipped branch; None: none.
    beta: weight of the divergence from the reference.
    kl_in: "loss" adds the divergence of each position to the loss; with "reward" the choices are also charged for the
        divergence that they lead to (of the policy that sampled), which gives the rankings' whole gradient.
    kl_estimator: "rao_blackwell" (exact at every position), "k2" and "k3" (in the loss), "k1" (in the reward; as a loss
        its expected gradient is zero).
    use_bias_correction_kl: for k3, times the ratio: the gradient of the reverse, not the forward divergence.
    entropy_coef: weight of the mean entropy of a position, subtracted from the loss.
    """

    contract: ClassVar[str] = "list"

    num_generations: int = 128
    temperature: float = 1.0
    k: int | None = None
    reward: Reward | list[Reward] = field(default_factory=NDCG)
    reward_weights: list[float] | None = None
    gradient_estimator: str = "policy_gradient"
    advantage_estimator: str = "rloo"
    reward_to_go: bool = True
    skip_zero_std: bool = False
    loss_type: str = "sum"
    importance_sampling_level: str = "token"
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    beta: float = 0.0
    kl_in: str = "loss"
    kl_estimator: str = "rao_blackwell"
    use_bias_correction_kl: bool = True
    entropy_coef: float = 0.0

    def __post_init__(self) -> None:
        at_least("num_generations", self.num_generations, 2)
        above_zero("temperature", self.temperature)
        at_least("epsilon", self.epsilon, 0)
        if self.epsilon >= 1:
            raise ValueError(
                f"epsilon must be below 1, got {self.epsilon}: the ratio is clipped at 1 - epsilon, above 0"
            )
        if self.epsilon_high is not None:
            at_least("epsilon_high", self.epsilon_high, 0)
        if self.delta is not None:
            above_zero("delta", self.delta)
        at_least("beta", self.beta, 0)
        finite("entropy_coef", self.entropy_coef)
        for weight in self.reward_weights or ():
            finite("reward_weights", weight)
        one_of("gradient_estimator", self.gradient_estimator, GRADIENT_ESTIMATORS)
        one_of("advantage_estimator", self.advantage_estimator, ADVANTAGE_ESTIMATORS)
        one_of("loss_type", self.loss_type, LOSS_TYPES)
        one_of("importance_sampling_level", self.importance_sampling_level, IMPORTANCE_SAMPLING_LEVELS)
        one_of("kl_in", self.kl_in, tuple(KL_ESTIMATORS))
        one_of(f"with kl_in={self.kl_in}, kl_estimator", self.kl_estimator, KL_ESTIMATORS[self.kl_in])
        self._check_depth()
        self._check_kl()
        if self.gradient_estimator == "pl_rank_2":
            self._check_pl_rank_2()
        else:
            self._check_policy_gradient()

    def _check_depth(self) -> None:
        depth = self.rewards.depth
        if self.k is not None:
            at_least("k", self.k, 1)
            if depth is not None and self.k < depth:
                raise ValueError(f"k={self.k} positions are fewer than the {depth} that the reward reads; lower its k")

    def _check_kl(self) -> None:
        if self.beta == 0:
            self._refuse_unused(("kl_in", "kl_estimator", "use_bias_correction_kl"), "beta=0 (no divergence)")
        elif self.kl_estimator != "k3":
            self._refuse_unused(("use_bias_correction_kl",), f"kl_estimator={self.kl_estimator}")

    def _refuse_unused(self, names: Sequence[str], setting: str) -> None:
        """ValueError where one of the options, which `setting` leaves without effect, is not at its default."""
        defaults = {option.name: option.default for option in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect with {setting}; leave it at {defaults[name]}"
                )

    def _check_pl_rank_2(self) -> None:
        self._refuse_unused(PL_RANK_2_UNUSED, "gradient_estimator=pl_rank_2")
        if lacking := [reward_name(r) for r in self.rewards.rewards if not isinstance(r, DiscountedMetric)]:
            raise ValueError(f"gradient_estimator=pl_rank_2 takes the rewards NDCG and Recall, not {lacking[0]}")

    def _check_policy_gradient(self) -> None:
        if self.loss_type == "cispo":
            if self.epsilon_high is None:
                raise ValueError("loss_type=cispo needs epsilon_high, an absolute cap on the ratio (such as 5)")
            self._refuse_unused(("epsilon", "delta"), "loss_type=cispo")
        if not self.reward_to_go:
            return
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
    def reads(self) -> tuple[str, ...]:
        """Inputs beside the contract's: the reference scores where their divergence has a weight."""
        return ("reference_scores",) if self.beta > 0 else ()

    @property
    def on_policy_only(self) -> bool:
        """The estimate holds only for rankings sampled from the very scores given: num_iterations must be 1."""
        return self.gradient_estimator == "pl_rank_2"

    def num_positions(self, list_size: int) -> int:
        """Positions to sample in lists padded to `list_size`."""
        return min(self.k or self.rewards.depth or list_size, list_size)
