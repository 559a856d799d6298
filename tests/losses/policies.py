"""The Plackett-Luce GRPO in its variants, as the property suite asks it: its rankings travel with the documents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from loss_samples import Sample
from torch import Tensor

from losses.contracts import Statistics
from losses.plackett_luce import Rankings, position_mask
from losses.ranking_policy import PlackettLuceGRPO
from losses.rewards import MAP, MRR, NDCG, Recall

SMALL = PlackettLuceGRPO(num_generations=8, temperature=0.7, reward=NDCG(k=2))
VARIANTS = {
    "small": SMALL,
    "pl_rank_2": replace(SMALL, gradient_estimator="pl_rank_2"),
    "whole reward": replace(SMALL, reward_to_go=False),
    "sequence": replace(SMALL, reward_to_go=False, importance_sampling_level="sequence", loss_type="grpo"),
    "sequence_product": replace(SMALL, reward_to_go=False, importance_sampling_level="sequence_product"),
    "cispo": replace(SMALL, loss_type="cispo", epsilon_high=5.0),
    "dr_grpo, delta": replace(SMALL, loss_type="dr_grpo", delta=3.0),
    "bnpo, batch": replace(SMALL, loss_type="bnpo", advantage_estimator="batch"),
    "dapo, group, skip": replace(SMALL, loss_type="dapo", advantage_estimator="group", skip_zero_std=True),
    "kl loss": replace(SMALL, beta=0.5),
    "kl reward": replace(SMALL, beta=0.5, kl_in="reward"),
    "k1 reward": replace(SMALL, beta=0.5, kl_in="reward", kl_estimator="k1", reward_to_go=False),
    "k2": replace(SMALL, beta=0.5, kl_estimator="k2"),
    "k3": replace(SMALL, beta=0.5, kl_estimator="k3"),
    "entropy": replace(SMALL, entropy_coef=0.1),
    "rewards": replace(SMALL, reward=[NDCG(k=2), MRR(), MAP(), Recall(k=3)], reward_weights=[1, 0.5, 0.5, 2]),
}


@dataclass(frozen=True)
class Policy:
    """A policy loss under the contract of list losses.

    Its rankings are given as the rank of each document, so that whatever is done to the documents of a sample (padding,
    another order) is done to the rankings.
    """

    contract: ClassVar[str] = "list"
    saturates: ClassVar[bool] = True  # a policy that never samples the better order learns nothing of it
    reads: ClassVar[tuple[str, ...]] = ("old_scores", "ranks", "reference_scores")

    policy: Any

    @property
    def differentiable(self) -> bool:
        """Whether the value is the integral of the gradient."""
        return not self.policy.on_policy_only and self.policy.loss_type != "cispo"

    def draw(self, sample: Sample) -> Sample:
        """The sample with rankings drawn from `old_scores`; list i has key i + 1."""
        drawn = self.policy.sample(sample.old_scores, sample.mask, range(1, len(sample.mask) + 1)).rankings
        num_documents = sample.mask.shape[-1]
        unplaced = torch.full((*drawn.shape[:-1], num_documents), num_documents)
        ranks = unplaced.scatter(-1, drawn, torch.arange(drawn.shape[-1]).expand_as(drawn))
        return replace(sample, ranks=ranks.transpose(-1, -2))

    def rankings(self, ranks: Tensor, mask: Tensor) -> Rankings:
        num_positions = self.policy.num_positions(ranks.shape[-2])
        best_first = ranks.argsort(dim=-2, stable=True)[..., :num_positions, :].transpose(-1, -2)
        return Rankings(best_first, position_mask(mask, num_positions))

    def __call__(
        self, scores: Tensor, labels: Tensor, mask: Tensor, *, ranks: Tensor, **inputs: Tensor
    ) -> tuple[Tensor, Statistics]:
        return self.policy(scores, labels, mask, rankings=self.rankings(ranks, mask), **inputs)
