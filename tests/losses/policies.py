"""The policies in their variants, wrapped for the property tests so that their actions move with the documents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from loss_samples import Sample
from torch import Tensor

from losses.contracts import Statistics, requirements
from losses.math.plackett_luce import Rankings, position_mask
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.policies.set_policy import SelectionGRPO, SubsetGRPO
from losses.policies.set_rewards import SetF, SetPrecision, SetRecall
from losses.policies.token_policy import TokenPolicyGRPO
from losses.rewards import MAP, MRR, NDCG, Recall

SMALL = PlackettLuceGRPO(num_generations=8, temperature=0.7, reward=NDCG(k=2))
TOKEN = TokenPolicyGRPO(num_generations=8, temperature=0.7)
VOCABULARY = TokenPolicyGRPO(num_generations=16, vocabulary=True, format_weight=0.5)
SELECTION = SelectionGRPO(num_generations=8, temperature=0.7)
SUBSET = SubsetGRPO(num_generations=16, temperature=0.7, k=2)
RANKING_VARIANTS = {
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
OTHER_VARIANTS = {
    "token": TOKEN,
    "token, expected": TokenPolicyGRPO(expected=True, beta=0.5, entropy_coef=0.1, pos_weight="auto"),
    "token, k3, cispo": replace(TOKEN, beta=0.5, kl_estimator="k3", loss_type="cispo", epsilon_high=5.0),
    "vocabulary": VOCABULARY,
    "vocabulary, kl, entropy": replace(VOCABULARY, beta=0.5, entropy_coef=0.1),
    "vocabulary, k1": replace(VOCABULARY, beta=0.5, kl_in="reward", kl_estimator="k1"),
    "vocabulary, expected": TokenPolicyGRPO(vocabulary=True, expected=True, beta=0.5, format_weight=0.5),
    "selection": SELECTION,
    "selection, grpo, kl": replace(SELECTION, loss_type="grpo", beta=0.5),
    "selection, k1": replace(SELECTION, beta=0.5, kl_in="reward", kl_estimator="k1"),
    "selection, sequence": replace(SELECTION, importance_sampling_level="sequence"),
    "subset": SUBSET,
    "subset, kl, entropy": replace(SUBSET, beta=0.5, entropy_coef=0.1),
    "sets, rewards": replace(SUBSET, reward=[SetF(2.0), SetRecall(), SetPrecision()], reward_weights=[1, 0.5, 2]),
}
VARIANTS = RANKING_VARIANTS | OTHER_VARIANTS


@dataclass(frozen=True)
class Policy:
    """A policy loss under the contract of list losses.

    Its actions are stored per document (a ranking as the rank of each), so that a change to the documents of a sample
    (padding, another order) also changes the actions.
    """

    contract: ClassVar[str] = "list"
    sharded: ClassVar[bool] = True

    policy: Any

    def __getattr__(self, name: str) -> Any:
        """Return the policy's exemptions."""
        if name in ("saturates", "differentiable", "shift_invariant", "depends_on_other_lists", "masks_misordered"):
            return getattr(self.policy, name)
        raise AttributeError(name)

    @property
    def data_requirements(self) -> frozenset[str]:
        return requirements(self.policy)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs, and those of the reference even if beta is 0: for the statistics."""
        own = ("scores", *self.policy.policy_inputs)
        prefixed = [f"{prefix}{name}" for prefix in ("old_", "reference_") for name in own]
        return ("actions", *self.policy.policy_inputs, *prefixed)

    def with_actions(self, sample: Sample) -> Sample:
        """Return the sample with actions drawn from the old policy; list i has the seed i + 1."""
        seeds = (sample.share.own(len(sample.mask) * sample.share.ranks) + 1).tolist()
        old = {name: getattr(sample, f"old_{name}") for name in ("scores", *self.policy.policy_inputs)}
        drawn = self.policy.sample(mask=sample.mask, seeds=seeds, **old)
        if isinstance(drawn, Rankings):
            places = torch.arange(drawn.rankings.shape[-1])
            unplaced = torch.full((*drawn.rankings.shape[:-1], sample.mask.shape[-1]), 100)
            drawn = unplaced.scatter(-1, drawn.rankings, places.expand_as(drawn.rankings))
        elif drawn.dtype != torch.bool:
            return replace(sample, actions=drawn)  # answers, by document already
        return replace(sample, actions=drawn.transpose(-1, -2))

    def actions(self, of_documents: Tensor, mask: Tensor) -> Any:
        """[..., n, G] -> the actions as the policy takes them."""
        if isinstance(self.policy, PlackettLuceGRPO):
            num_positions = self.policy.num_positions(of_documents.shape[-2])
            best_first = of_documents.argsort(dim=-2, stable=True)[..., :num_positions, :].transpose(-1, -2)
            return Rankings(best_first, position_mask(mask, num_positions))
        return of_documents if isinstance(self.policy, TokenPolicyGRPO) else of_documents.transpose(-1, -2)

    def __call__(
        self, scores: Tensor, labels: Tensor, mask: Tensor, *, actions: Tensor, **inputs: Tensor
    ) -> tuple[Tensor, Statistics]:
        return self.policy(scores, labels, mask, actions=self.actions(actions, mask), **inputs)
