"""GRPO for rerankers that choose a set of documents (for example for a reader) and are rewarded for the whole set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.math.answers import two_token_entropy, two_token_kl
from losses.math.checks import check_at_least, check_finite
from losses.math.masking import at_least_float32
from losses.math.noise import uniform_noise
from losses.math.subsets import SubsetDistribution, subset_distribution
from losses.policies.group_policy import GroupPolicy, has_distinct_labels
from losses.policies.set_rewards import SetF, SetRecall
from losses.rewards import Reward, Rewards, RewardSum


@dataclass(frozen=True)
class SetPolicy(GroupPolicy):
    """The common part of policies over sets; actions are [..., G, n] bool.

    reward, reward_weights: one reward or several (set_rewards.py, or a callable (selected, labels, mask) -> [..., G]),
    and a weight for each (None: 1). A list whose documents all have the same label is left out of every sum and
    denominator.
    """

    reward: Reward | list[Reward] = field(default_factory=SetF)
    reward_weights: list[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for weight in self.reward_weights or ():
            check_finite("reward_weights", weight)
        assert self.reward_sum  # raises ValueError if the numbers of rewards and weights differ

    @property
    def reward_sum(self) -> RewardSum:
        """The weighted sum of the rewards."""
        return RewardSum.from_options(self.reward, self.reward_weights)

    @property
    def data_requirements(self) -> tuple[str, ...]:
        return self.reward_sum.data_requirements

    def compute_rewards(self, actions: Tensor, labels: Tensor, mask: Tensor) -> Rewards:
        return self.reward_sum.evaluate(actions, labels, mask, per_position=False)

    def groups(self, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return mask.any(dim=-1), has_distinct_labels(labels, mask)


@dataclass(frozen=True)
class Selections:
    """The policy that chooses each document independently, P(i in S) = sigmoid(logit_i): a position is a document.

    logits: [..., n], 0 at padding; selected: [..., G, n] bool; mask: [..., n] bool.
    """

    logits: Tensor
    selected: Tensor
    mask: Tensor

    @property
    def position_mask(self) -> Tensor:
        """[..., 1, n]."""
        return self.mask.unsqueeze(-2)

    @property
    def log_probs(self) -> Tensor:
        """[..., G, n], with gradient 1[i in S] - P(i in S)."""
        logits = self.logits.unsqueeze(-2)
        return F.logsigmoid(logits.where(self.selected, -logits)).masked_fill(~self.position_mask, 0.0)

    def entropy(self) -> Tensor:
        """[..., 1, n]."""
        return two_token_entropy(self.logits).unsqueeze(-2).masked_fill(~self.position_mask, 0.0)

    def kl(self, reference: Selections) -> Tensor:
        """[..., 1, n]."""
        return two_token_kl(self.logits, reference.logits).unsqueeze(-2).masked_fill(~self.position_mask, 0.0)

    def detach(self) -> Selections:
        return replace(self, logits=self.logits.detach())


@dataclass(frozen=True)
class SelectionGRPO(SetPolicy):
    """-E[r(S)] over sets S that contain document i independently with probability sigmoid(s_i / T)  (Williams 1992).

    The size of the set is learned too. Divergence (`kl_estimator=exact`) and entropy are sums over the documents.

    Use: a set of any size, rewarded as a whole (F1), if the scores should say which documents to keep; trainer=grpo.
    Cost: num_generations n.
    Source: REINFORCE, Williams 1992, with GRPO's options, Shao et al. 2024, arXiv 2402.03300.
    """

    @property
    def shift_invariant(self) -> bool:
        """False: a constant added to the scores changes how many documents are chosen."""
        return False

    @torch.no_grad()
    def sample(self, scores: Tensor, mask: Tensor, seeds: Sequence[int], **policy_inputs: Tensor) -> Tensor:
        """Sample sets [lists, G, n] bool."""
        no_actions = mask.new_zeros(mask.shape[0], 0, mask.shape[-1])
        probabilities = self.distribution(scores, mask, no_actions).logits.sigmoid().unsqueeze(-2)
        return (uniform_noise(seeds, self.num_generations, mask) < probabilities) & mask.unsqueeze(-2)

    def distribution(self, scores: Tensor, mask: Tensor, actions: Tensor, **policy_inputs: Tensor) -> Selections:
        return Selections(at_least_float32(scores).masked_fill(~mask, 0.0) / self.temperature, actions, mask)


@dataclass(frozen=True)
class SubsetGRPO(SetPolicy):
    """-E[r(S)] over sets S of k documents, P(S) = prod_{i in S} e^{s_i / T} / e_k(e^{s / T})  (Kulesza, Taskar 2012).

    e_k is the elementary symmetric polynomial. If a list has at most k documents, all are chosen and it teaches
    nothing. A set is one position: all loss types but "cispo" are the same, and all importance sampling levels too.
    Divergence (`kl_estimator=exact`) and entropy are sums over all subsets.

    Use: the k documents for a reader, in any order; trainer=grpo.
    Cost: n k + num_generations n.
    Source: k-DPPs, Kulesza and Taskar 2012, section 5.2.1, with GRPO's options, Shao et al. 2024, arXiv 2402.03300.
    """

    reward: Reward | list[Reward] = field(default_factory=SetRecall)
    k: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("k", self.k, 1)

    @torch.no_grad()
    def sample(self, scores: Tensor, mask: Tensor, seeds: Sequence[int], **policy_inputs: Tensor) -> Tensor:
        """Sample sets [lists, G, n] bool."""
        no_actions = mask.new_zeros(mask.shape[0], 0, mask.shape[-1])
        return self.distribution(scores, mask, no_actions).sample(uniform_noise(seeds, self.num_generations, mask))

    def distribution(
        self, scores: Tensor, mask: Tensor, actions: Tensor, **policy_inputs: Tensor
    ) -> SubsetDistribution:
        return subset_distribution(scores, mask, actions, temperature=self.temperature, k=self.k)
