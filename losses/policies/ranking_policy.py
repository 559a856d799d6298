"""GRPO for rankers: the policy is a Plackett-Luce distribution over rankings, defined by one score per document.

A list is scored once for any number of sampled rankings. The old and the reference policy are one stored float per
document. A position of a ranking corresponds to a token of a completion in TRL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losses.math.plackett_luce import (
    PositionDistributions,
    Rankings,
    gumbel_noise,
    position_distributions,
    sample_rankings,
)
from losses.pl_rank import pl_rank_2
from losses.policies.group_policy import Distribution, GroupPolicy, has_distinct_labels
from losses.policies.ranking_options import RankingPolicyOptions
from losses.policies.surrogate import Surrogate
from losses.rewards import DiscountedMetric, Rewards


@dataclass(frozen=True)
class PlackettLuceGRPO(RankingPolicyOptions, GroupPolicy):
    """The sampling and the loss of the Plackett-Luce ranking policy; the options are those of `RankingPolicyOptions`.

    By default the loss is the sum over positions, then the mean over rankings, then the mean over lists: its gradient
    is that of -E[reward], averaged over the lists. A list whose documents all have the same label teaches nothing: it
    is left out of every sum and denominator.

    Use: any reward of the ranking, differentiable or not (nDCG, MRR, one of yours); trainer=grpo.
    Cost: num_generations n log n.
    Source: GRPO, Shao et al. 2024, arXiv 2402.03300, with TRL's options; RLOO, Ahmadian et al. 2024, arXiv 2402.14740.
    """

    @torch.no_grad()
    def sample(self, scores: Tensor, mask: Tensor, seeds: Sequence[int], **policy_inputs: Tensor) -> Rankings:
        """Sample `num_generations` rankings of each list. scores, mask: [lists, n]; seeds: one integer per list."""
        noise = gumbel_noise(seeds, self.num_generations, mask)
        num_positions = self.num_positions(scores.shape[-1])
        return Rankings(*sample_rankings(scores, mask, noise, temperature=self.temperature, k=num_positions))

    def distribution(
        self, scores: Tensor, mask: Tensor, actions: Rankings, **policy_inputs: Tensor
    ) -> PositionDistributions:
        return position_distributions(scores, mask, actions.rankings, temperature=self.temperature)

    def compute_rewards(self, actions: Rankings, labels: Tensor, mask: Tensor) -> Rewards:
        return self.reward_sum.evaluate(actions.rankings, labels, mask, per_position=self.per_position)

    def groups(self, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return mask.any(dim=-1), has_distinct_labels(labels, mask)

    def kl_penalty(self, old: Distribution, reference: Distribution) -> Tensor:
        """Return the penalty of each position: the divergence of the next position.

        The Rao-Blackwell term of a position depends on the choices *before* it. So each choice is penalised by the term
        after it, and the loss adds the derivative of the terms themselves.
        """
        if self.kl_estimator == "k1":
            return super().kl_penalty(old, reference)
        kl = old.kl(reference)
        return torch.cat([kl[..., 1:], torch.zeros_like(kl[..., :1])], dim=-1)

    def on_policy_surrogate(
        self, policy: Distribution, labels: Tensor, mask: Tensor, ratio: Tensor
    ) -> Surrogate | None:
        """Return PL-Rank-2's loss, or None to use the policy gradient."""
        if not self.on_policy_only:
            return None
        assert isinstance(policy, PositionDistributions)
        objective = torch.zeros_like(policy.log_probs)
        for reward, weight in zip(self.reward_sum.rewards, self.reward_sum.weights, strict=True):
            assert isinstance(reward, DiscountedMetric)
            gains, discounts = reward.gains(labels, mask), reward.discounts(policy.rankings)
            objective = objective + weight * pl_rank_2(policy, gains, discounts)
        return Surrogate(-objective, ratio, torch.zeros_like(ratio, dtype=torch.bool))
