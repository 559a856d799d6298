"""GRPO of any policy: actions are sampled in groups, rewarded, and made more likely than the rest of their group.

A policy is a distribution over actions, each a sequence of one or more positions (a ranking's places, a set's
documents, one answer), which stand where a completion's tokens stand in TRL. Old and reference policy are floats per
document. A policy says how it samples, what an action's positions have for probabilities, entropy and divergence, and
what actions earn; everything else is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from losses.contracts import Statistics
from losses.math.kl import k1, k2, k3
from losses.policies.advantages import advantages, all_equal, reward_to_go_advantages
from losses.policies.options import PolicyOptions
from losses.policies.surrogate import (
    Surrogate,
    cispo_surrogate,
    clipped_surrogate,
    importance_ratio,
    reduce_positions,
)
from losses.rewards import Outcome


class Distribution(Protocol):
    """A policy at the sampled actions: [..., G, k] for G actions of k positions in each group [...]."""

    @property
    def position_mask(self) -> Tensor:
        """[..., 1 or G, k] bool, False at positions that are padding."""

    @property
    def log_probs(self) -> Tensor:
        """[..., G, k], 0 at masked positions: their sum is the action's log-probability."""

    def entropy(self) -> Tensor:
        """In nats, [..., 1 or G, k], 0 at masked positions."""

    def kl(self, reference: Any) -> Tensor:
        """KL(policy || reference) of each position's choice, exactly, [..., 1 or G, k]."""

    def detach(self) -> Any:
        """The same as a constant."""


@dataclass(frozen=True)
class GroupPolicy(PolicyOptions, ABC):
    """Sampling and loss of a policy (trainer=grpo)."""

    @abstractmethod
    def sample(self, scores: Tensor, mask: Tensor, keys: Sequence[int], **represented: Tensor) -> Any:
        """Draw `num_generations` actions of every group. scores, mask, `policy_inputs`: [lists, n]; keys: 1 a list."""

    @abstractmethod
    def distribution(self, scores: Tensor, mask: Tensor, actions: Any, **represented: Tensor) -> Distribution:
        """The policy that the scores (and `policy_inputs`) give, at the actions. scores, mask: [..., n]."""

    @abstractmethod
    def rewards_of(self, actions: Any, labels: Tensor, mask: Tensor) -> Outcome:
        """What the actions earn, [..., G]."""

    @abstractmethod
    def groups(self, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The groups that there are and those that can teach something, each [...] bool."""

    @property
    def depth(self) -> int | None:
        """Positions of the longest action; None: as many as the batch has."""
        return None

    def on_policy_surrogate(
        self, policy: Distribution, labels: Tensor, mask: Tensor, ratio: Tensor
    ) -> Surrogate | None:
        """The loss of an estimator without advantages (`on_policy_only`); None: it is the policy gradient's."""
        return None

    def __call__(
        self,
        scores: Tensor,
        labels: Tensor,
        mask: Tensor,
        *,
        actions: Any,
        old_scores: Tensor,
        reference_scores: Tensor | None = None,
        **represented: Tensor,
    ) -> tuple[Tensor, Statistics]:
        """The loss of the whole batch, and what a researcher reads.

        Args:
            scores: [..., n] of the policy; all arithmetic is in float32 at least.
            labels: [..., n] graded relevance; mask: [..., n] bool, False at padding.
            actions: sampled from `old_scores`.
            old_scores: [..., n] of the policy that sampled (at the first update, the same as `scores`).
            reference_scores: [..., n] of the frozen reference: needed where beta > 0, else only for the statistics.
            represented: what `policy_inputs` names, of the policy, the old one (old_NAME) and the reference
                (reference_NAME).

        Returns:
            The scalar loss, and detached scalars: reward_mean, reward_std (of a group, averaged), frac_reward_zero_std
            (of all groups), entropy and kl (nats per position; kl where there is a reference), clip_fraction, and
            reward_mean/NAME for each of several rewards, unweighted.
        """
        if self.beta and reference_scores is None:
            raise ValueError(f"beta={self.beta} needs reference_scores; without a reference set beta to 0")
        given = {"scores": scores, "old_scores": old_scores, "reference_scores": reference_scores, **represented}
        policy = self._at("", given, mask, actions)
        old = self._at("old_", given, mask, actions).detach()
        reference = None if reference_scores is None else self._at("reference_", given, mask, actions).detach()
        ratio = importance_ratio(policy.log_probs - old.log_probs, policy.position_mask, self.importance_sampling_level)
        outcome = self.rewards_of(actions, labels, mask)
        existing, teaching = self.groups(labels, mask)
        counted = teaching & ~(all_equal(outcome.total) & self.skip_zero_std)
        surrogate = self.on_policy_surrogate(policy, labels, mask, ratio)
        if surrogate is None:
            penalty = None if reference is None or self.kl_in == "loss" else self.beta * self.kl_penalty(old, reference)
            surrogate = self._policy_gradient(policy, self._advantages(outcome, penalty, counted), ratio)
        kl = None if reference is None else self._kl(policy, reference, ratio)
        loss, statistics = self._with_regularisers(surrogate, kl, policy, counted)
        return loss, reward_statistics(outcome, existing, counted) | statistics

    def kl_penalty(self, old: Distribution, reference: Distribution) -> Tensor:
        """What each position's choice is charged with for its divergence, [..., G, k]: the log-ratio of the choice.

        It is that of the policy which sampled, so that advantages are the same at every update of the same actions.
        """
        return k1(old.log_probs, reference.log_probs)

    def _at(self, prefix: str, given: Mapping[str, Any], mask: Tensor, actions: Any) -> Distribution:
        """The policy of the inputs whose names begin with `prefix`."""
        represented = {name: given[f"{prefix}{name}"] for name in self.policy_inputs}
        return self.distribution(given[f"{prefix}scores"], mask, actions, **represented)

    def _kl(self, policy: Distribution, reference: Distribution, ratio: Tensor) -> Tensor:
        """The estimate of the divergence at each position, [..., 1 or G, k], differentiable."""
        if self.kl_estimator == "k1":
            return k1(policy.log_probs, reference.log_probs)
        if self.kl_estimator == "k2":
            return k2(policy.log_probs, reference.log_probs)
        if self.kl_estimator == "k3":
            estimate = k3(policy.log_probs, reference.log_probs)
            return estimate * ratio if self.use_bias_correction_kl else estimate
        return policy.kl(reference)

    def _advantages(self, outcome: Outcome, penalty: Tensor | None, counted: Tensor) -> Tensor:
        """[..., G, k], or [..., G, 1] where every position has its action's. penalty: taken off the rewards."""
        if outcome.per_position is not None:
            rewards = outcome.per_position if penalty is None else outcome.per_position - penalty
            return reward_to_go_advantages(rewards, self.advantage_estimator, counted)
        rewards = outcome.total if penalty is None else outcome.total - penalty.sum(dim=-1)
        return advantages(rewards, self.advantage_estimator, counted).unsqueeze(-1)

    def _policy_gradient(self, policy: Distribution, advantages: Tensor, ratio: Tensor) -> Surrogate:
        epsilon_high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.loss_type == "cispo":
            return cispo_surrogate(ratio, advantages, policy.log_probs, epsilon_high=epsilon_high)
        surrogate = clipped_surrogate(
            ratio, advantages, epsilon=self.epsilon, epsilon_high=epsilon_high, delta=self.delta
        )
        if self.importance_sampling_level == "sequence_product":
            # One term per action, spread over its positions: the gradient at ratio 1 is that of the other levels.
            lengths = policy.position_mask.sum(dim=-1, keepdim=True).clamp(min=1)
            return surrogate._replace(loss=surrogate.loss / lengths)
        return surrogate

    def _with_regularisers(
        self, surrogate: Surrogate, kl: Tensor | None, policy: Distribution, counted: Tensor
    ) -> tuple[Tensor, Statistics]:
        """The scalar loss with divergence and entropy, and the statistics of the policy."""

        def mean(values: Tensor) -> Tensor:
            return self.reduce(values, policy, counted, "bnpo")

        loss = surrogate.loss
        if kl is not None and self.beta and self.kl_estimator != "k1":
            loss = loss + self.beta * kl
        loss = self.reduce(loss, policy, counted, self.loss_type)
        entropy = mean((policy if self.entropy_coef else policy.detach()).entropy())
        if self.entropy_coef:
            loss = loss - self.entropy_coef * entropy
        statistics = {"entropy": entropy.detach(), "clip_fraction": mean(surrogate.clipped.float())}
        return loss, statistics if kl is None else statistics | {"kl": mean(kl.detach())}

    def reduce(self, values: Tensor, policy: Distribution, counted: Tensor, loss_type: str) -> Tensor:
        """The scalar of [..., 1 or G, 1 or k] values; "dr_grpo" divides by `depth` positions."""
        depth = self.depth or policy.position_mask.sum(dim=-1).max()
        return reduce_positions(values, policy.position_mask, counted, loss_type=loss_type, num_positions=depth)


def orderable(labels: Tensor, mask: Tensor) -> Tensor:
    """[..., n] -> [...] bool: at least two documents, and not all of one label."""
    labels = labels.float()
    highest = labels.masked_fill(~mask, -torch.inf).amax(dim=-1)
    lowest = labels.masked_fill(~mask, torch.inf).amin(dim=-1)
    return highest > lowest


def reward_statistics(outcome: Outcome, existing: Tensor, counted: Tensor) -> Statistics:
    """Means over the groups that count; `frac_reward_zero_std` over all that exist."""

    def mean(per_group: Tensor, of: Tensor = counted) -> Tensor:
        return per_group.masked_fill(~of, 0.0).sum() / of.sum().clamp(min=1)

    statistics = {
        "reward_mean": mean(outcome.total.mean(dim=-1)),
        "reward_std": mean(outcome.total.std(dim=-1)),
        "frac_reward_zero_std": mean(all_equal(outcome.total).float(), existing),
    }
    if len(outcome.values) > 1:
        statistics |= {f"reward_mean/{name}": mean(value.mean(dim=-1)) for name, value in outcome.values.items()}
    return statistics
