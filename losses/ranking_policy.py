"""GRPO for rankers: the policy is a Plackett-Luce distribution over rankings, given by one score per document.

One scoring pass of a list serves any number of sampled rankings, and the old and the reference policy are one stored
float per document. A position of a ranking stands where a token of a completion stands in TRL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losses.advantages import advantages, all_equal, reward_to_go_advantages
from losses.kl import k1, k2, k3
from losses.pl_rank import pl_rank_2
from losses.plackett_luce import (
    PositionDistributions,
    Rankings,
    gumbel_noise,
    position_distributions,
    sample_rankings,
)
from losses.policy_gradient import (
    Surrogate,
    cispo_surrogate,
    clipped_surrogate,
    importance_ratio,
    reduce_positions,
)
from losses.ranking_options import RankingPolicyOptions
from losses.rewards import DiscountedMetric, Outcome


@dataclass(frozen=True)
class PlackettLuceGRPO(RankingPolicyOptions):
    """Sampling and loss of the Plackett-Luce ranking policy; the options are those of `RankingPolicyOptions`.

    The default is the sum over positions, the mean over rankings, the mean over lists, so that its gradient is that of
    -E[reward] per list. Lists with fewer than two documents or a single label value teach nothing: they are left out of
    every sum and denominator.

    Use: any reward of the ranking, differentiable or not (nDCG, MRR, one of yours), after a warm start; trainer=grpo.
    Cost: num_generations n log n.
    Source: GRPO, Shao et al. 2024, arXiv 2402.03300, with TRL's options; RLOO, Ahmadian et al. 2024, arXiv 2402.14740.
    """

    @torch.no_grad()
    def sample(self, scores: Tensor, mask: Tensor, keys: Sequence[int]) -> Rankings:
        """Sample `num_generations` rankings of each list. scores, mask: [lists, n]; keys: one integer per list."""
        noise = gumbel_noise(keys, self.num_generations, mask)
        num_positions = self.num_positions(scores.shape[-1])
        return Rankings(*sample_rankings(scores, mask, noise, temperature=self.temperature, k=num_positions))

    def __call__(
        self,
        scores: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        rankings: Rankings,
        old_scores: Tensor,
        reference_scores: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the whole batch, and what a researcher reads.

        Args:
            scores: [..., n] of the policy; all arithmetic is in float32 at least.
            labels: [..., n] graded relevance; mask: [..., n] bool, False at padding.
            rankings: sampled from `old_scores`.
            old_scores: [..., n] of the policy that sampled (at the first update, the same as `scores`).
            reference_scores: [..., n] of the frozen reference: needed where beta > 0, else only for the statistics.

        Returns:
            The scalar loss, and detached scalars: reward_mean, reward_std (of a group, averaged), frac_reward_zero_std
            (of all lists), entropy and kl (nats per position; kl where there is a reference), clip_fraction, and
            reward_mean/NAME for each of several rewards, unweighted.
        """
        if self.reads and reference_scores is None:
            raise ValueError(f"beta={self.beta} needs reference_scores; without a reference set beta to 0")
        policy = self._distributions(scores, mask, rankings)
        old = self._distributions(old_scores.detach(), mask, rankings)
        reference = None if reference_scores is None else self._distributions(reference_scores.detach(), mask, rankings)
        ratio = importance_ratio(policy.log_probs - old.log_probs, policy.position_mask, self.importance_sampling_level)
        outcome = self.rewards.evaluate(rankings.rankings, labels, mask, per_position=self.per_position)
        list_mask = _orderable(labels, mask) & ~(all_equal(outcome.total) & self.skip_zero_std)
        if self.gradient_estimator == "pl_rank_2":
            surrogate = self._pl_rank_2(policy, labels, mask, ratio)
        else:
            penalty = self._penalty(old, reference)
            surrogate = self._policy_gradient(policy, self._advantages(outcome, penalty, list_mask), ratio)
        kl = None if reference is None else self._kl(policy, reference, ratio)
        loss, statistics = self._with_regularisers(surrogate, kl, policy, list_mask)
        return loss, _reward_statistics(outcome, list_mask) | statistics

    def _with_regularisers(
        self, surrogate: Surrogate, kl: Tensor | None, policy: PositionDistributions, list_mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss with divergence and entropy, and the statistics of the policy."""

        def mean(values: Tensor) -> Tensor:
            return self._reduce(values, policy, list_mask, "bnpo")

        loss = surrogate.loss
        if kl is not None and self.beta and self.kl_estimator != "k1":
            loss = loss + self.beta * kl
        loss = self._reduce(loss, policy, list_mask, self.loss_type)
        entropy = mean((policy if self.entropy_coef else policy.detach()).entropy())
        if self.entropy_coef:
            loss = loss - self.entropy_coef * entropy
        statistics = {"entropy": entropy.detach(), "clip_fraction": mean(surrogate.clipped.float())}
        return loss, statistics if kl is None else statistics | {"kl": mean(kl.detach())}

    def _distributions(self, scores: Tensor, mask: Tensor, rankings: Rankings) -> PositionDistributions:
        return position_distributions(scores, mask, rankings.rankings, temperature=self.temperature)

    def _kl(self, policy: PositionDistributions, reference: PositionDistributions, ratio: Tensor) -> Tensor:
        """The estimate of the divergence at each position, [..., G, k], differentiable."""
        if self.kl_estimator == "rao_blackwell":
            return policy.kl(reference)
        if self.kl_estimator == "k1":
            return k1(policy.log_probs, reference.log_probs)
        if self.kl_estimator == "k2":
            return k2(policy.log_probs, reference.log_probs)
        estimate = k3(policy.log_probs, reference.log_probs)
        return estimate * ratio if self.use_bias_correction_kl else estimate

    def _advantages(self, outcome: Outcome, penalty: Tensor | None, list_mask: Tensor) -> Tensor:
        """[..., G, k], or [..., G, 1] where every position has its ranking's. penalty: taken off the rewards."""
        if outcome.per_position is not None:
            rewards = outcome.per_position if penalty is None else outcome.per_position - penalty
            return reward_to_go_advantages(rewards, self.advantage_estimator, list_mask)
        rewards = outcome.total if penalty is None else outcome.total - penalty.sum(dim=-1)
        return advantages(rewards, self.advantage_estimator, list_mask).unsqueeze(-1)

    def _penalty(self, old: PositionDistributions, reference: PositionDistributions | None) -> Tensor | None:
        """beta times the divergence that each position's choice is charged with, [..., G, k]; None without.

        It is that of the policy which sampled, so that advantages are the same at every update of the same rankings.
        k1 is the log-ratio of the choice itself. The Rao-Blackwell term of a position depends on the choices *before*
        it: each choice is charged with the next position's, and the loss adds the derivative of the terms themselves.
        """
        if reference is None or self.kl_in == "loss":
            return None
        kl = self.beta * self._kl(old, reference, torch.ones_like(old.log_probs))
        if self.kl_estimator == "k1":
            return kl
        return torch.cat([kl[..., 1:], torch.zeros_like(kl[..., :1])], dim=-1)

    def _policy_gradient(self, policy: PositionDistributions, advantages: Tensor, ratio: Tensor) -> Surrogate:
        epsilon_high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.loss_type == "cispo":
            return cispo_surrogate(ratio, advantages, policy.log_probs, epsilon_high=epsilon_high)
        surrogate = clipped_surrogate(
            ratio, advantages, epsilon=self.epsilon, epsilon_high=epsilon_high, delta=self.delta
        )
        if self.importance_sampling_level == "sequence_product":
            # One term per ranking, spread over its positions: the gradient at ratio 1 is that of the other levels.
            lengths = policy.position_mask.sum(dim=-1, keepdim=True).clamp(min=1)
            return surrogate._replace(loss=surrogate.loss / lengths)
        return surrogate

    def _pl_rank_2(self, policy: PositionDistributions, labels: Tensor, mask: Tensor, ratio: Tensor) -> Surrogate:
        objective = torch.zeros_like(policy.log_probs)
        for reward, weight in zip(self.rewards.rewards, self.rewards.weights, strict=True):
            assert isinstance(reward, DiscountedMetric)
            objective = objective + weight * pl_rank_2(
                policy, reward.gains(labels, mask), reward.discounts(policy.rankings)
            )
        return Surrogate(-objective, ratio, torch.zeros_like(ratio, dtype=torch.bool))

    def _reduce(self, values: Tensor, policy: PositionDistributions, list_mask: Tensor, loss_type: str) -> Tensor:
        depth = self.k or self.rewards.depth or values.shape[-1]
        return reduce_positions(values, policy.position_mask, list_mask, loss_type=loss_type, num_positions=depth)


def _orderable(labels: Tensor, mask: Tensor) -> Tensor:
    """[..., n] -> [...] bool: at least two documents, and not all of one label."""
    labels = labels.float()
    highest = labels.masked_fill(~mask, -torch.inf).amax(dim=-1)
    lowest = labels.masked_fill(~mask, torch.inf).amin(dim=-1)
    return highest > lowest


def _reward_statistics(outcome: Outcome, list_mask: Tensor) -> dict[str, Tensor]:
    """Means over the lists that count; `frac_reward_zero_std` over all."""
    num_lists = list_mask.sum().clamp(min=1)

    def mean(per_list: Tensor) -> Tensor:
        return per_list.masked_fill(~list_mask, 0.0).sum() / num_lists

    statistics = {
        "reward_mean": mean(outcome.total.mean(dim=-1)),
        "reward_std": mean(outcome.total.std(dim=-1)),
        "frac_reward_zero_std": all_equal(outcome.total).float().mean(),
    }
    if len(outcome.values) > 1:
        statistics |= {f"reward_mean/{name}": mean(value.mean(dim=-1)) for name, value in outcome.values.items()}
    return statistics
