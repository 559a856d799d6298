"""GRPO for any policy: actions are sampled in groups and rewarded, and those with more reward become more likely.

A policy is a distribution over actions. An action is a sequence of one or more positions: the ranks of a ranking, the
documents of a set, or one answer. Positions correspond to the tokens of a completion in TRL. The old and the reference
policy are stored as a few floats per document. A policy defines its sampling, the probabilities, entropy and divergence
of each position, the rewards of its actions and its groups. Everything else is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from losses.contracts import Statistics
from losses.math.kl import k1, k2, k3, ratio_times_k3
from losses.math.share import ALONE, Share
from losses.policies.advantages import advantages, all_equal, reward_to_go_advantages
from losses.policies.options import PolicyOptions
from losses.policies.surrogate import (
    Surrogate,
    cispo_surrogate,
    clipped_surrogate,
    importance_ratio,
    reduce_positions,
)
from losses.rewards import Rewards


class Distribution(Protocol):
    """A policy at the sampled actions: [..., G, k] for G actions of k positions in each group [...]."""

    @property
    def position_mask(self) -> Tensor:
        """[..., 1 or G, k] bool, False at positions that are padding."""

    @property
    def log_probs(self) -> Tensor:
        """[..., G, k], 0 at masked positions: their sum is the action's log-probability."""

    def entropy(self) -> Tensor:
        """The entropy of each position in nats, [..., 1 or G, k], 0 at masked positions."""

    def kl(self, reference: Any) -> Tensor:
        """The exact KL(policy || reference) of each position, [..., 1 or G, k]."""

    def detach(self) -> Any:
        """Return the same distribution as a constant."""


@dataclass(frozen=True)
class GroupPolicy(PolicyOptions, ABC):
    """The sampling and the loss of a policy (trainer=grpo)."""

    sharded: ClassVar[bool] = True

    @abstractmethod
    def sample(self, scores: Tensor, mask: Tensor, seeds: Sequence[int], **policy_inputs: Tensor) -> Any:
        """Sample `num_generations` actions per group. scores, mask, policy_inputs: [lists, n]; seeds: one per list."""

    @abstractmethod
    def distribution(self, scores: Tensor, mask: Tensor, actions: Any, **policy_inputs: Tensor) -> Distribution:
        """Return the policy of the scores (and `policy_inputs`) at the actions. scores, mask: [..., n]."""

    @abstractmethod
    def compute_rewards(self, actions: Any, labels: Tensor, mask: Tensor) -> Rewards:
        """Return the rewards of the actions, [..., G]. labels, mask: [..., n]."""

    @abstractmethod
    def groups(self, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return two masks [...] bool: groups that are not padding, and groups whose rewards can differ.

        labels, mask: [..., n].
        """

    def equal_rewards(self, actions: Any, labels: Tensor, mask: Tensor) -> Tensor:
        """Return whether the rewards are all equal in each group of a list, so that it teaches nothing: [lists] bool.

        labels, mask: [lists, n].
        """
        equal = all_equal(self.compute_rewards(actions, labels, mask).total) | ~self.groups(labels, mask)[0]
        return equal.flatten(1).all(dim=1) if equal.ndim > 1 else equal

    @property
    def depth(self) -> int | None:
        """The number of positions of the longest action; None: the largest number in the batch."""
        return None

    def on_policy_surrogate(
        self, policy: Distribution, labels: Tensor, mask: Tensor, ratio: Tensor
    ) -> Surrogate | None:
        """Return the loss of an estimator without advantages (`on_policy_only`), or None to use the policy gradient."""
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
        share: Share = ALONE,
        **policy_inputs: Tensor,
    ) -> tuple[Tensor, Statistics]:
        """Return the loss of the whole batch, and its statistics, from the lists of a rank.

        Args:
            scores: [..., n], the policy's scores; all arithmetic is at least in float32.
            labels: [..., n] graded relevance; mask: [..., n] bool, False at padding.
            actions: sampled from `old_scores`.
            old_scores: [..., n], the scores of the policy that sampled (at the first update equal to `scores`).
            reference_scores: [..., n], the scores of the frozen reference: needed if beta > 0, else optional and only
                for the statistics.
            share: which lists these are; by default all.
            policy_inputs: the inputs that the property of this name lists: NAME for the policy, old_NAME for the old
                policy, reference_NAME for the reference.

        Returns:
            The scalar loss, and detached scalars: reward_mean, reward_std (of a group, averaged), frac_reward_zero_std
            (of all groups), entropy and kl (nats per position; kl only with a reference), clip_fraction, and
            reward_mean/NAME for each of several rewards, unweighted.

        Raises:
            ValueError: beta is above 0 and there are no reference_scores.
        """
        if self.beta and reference_scores is None:
            raise ValueError(f"beta={self.beta} needs reference_scores; without a reference set beta to 0")
        inputs = {"scores": scores, "old_scores": old_scores, "reference_scores": reference_scores, **policy_inputs}
        policy = self._distribution("", inputs, mask, actions)
        old = self._distribution("old_", inputs, mask, actions).detach()
        reference = None
        if reference_scores is not None:
            reference = self._distribution("reference_", inputs, mask, actions).detach()
        ratio = importance_ratio(policy.log_probs - old.log_probs, policy.position_mask, self.importance_sampling_level)
        rewards = self.compute_rewards(actions, labels, mask)
        nonempty, informative = self.groups(labels, mask)
        counted = informative & ~(all_equal(rewards.total) & self.skip_zero_std)
        surrogate = self.on_policy_surrogate(policy, labels, mask, ratio)
        if surrogate is None:
            penalty = None if reference is None or self.kl_in == "loss" else self.beta * self.kl_penalty(old, reference)
            surrogate = self._policy_gradient(policy, self._advantages(rewards, penalty, counted, share), ratio)
        kl = None if reference is None else self._kl(policy, old, reference, ratio)
        loss, statistics = self._with_regularisers(surrogate, kl, policy, counted, share)
        return loss, reward_statistics(rewards, nonempty, counted, share) | statistics

    def kl_penalty(self, old: Distribution, reference: Distribution) -> Tensor:
        """Return the KL penalty of each position, [..., G, k], which is subtracted from its reward: the log-ratio.

        It is computed from the policy that sampled: so advantages are the same at every update with the same actions.
        """
        return k1(old.log_probs, reference.log_probs)

    def _distribution(self, prefix: str, inputs: Mapping[str, Any], mask: Tensor, actions: Any) -> Distribution:
        """Return the policy of the inputs whose names begin with `prefix`."""
        policy_inputs = {name: inputs[f"{prefix}{name}"] for name in self.policy_inputs}
        return self.distribution(inputs[f"{prefix}scores"], mask, actions, **policy_inputs)

    def _kl(self, policy: Distribution, old: Distribution, reference: Distribution, ratio: Tensor) -> Tensor:
        """Return the estimate of the divergence at each position, [..., 1 or G, k], differentiable."""
        if self.kl_estimator == "k1":
            return k1(policy.log_probs, reference.log_probs)
        if self.kl_estimator == "k2":
            return k2(policy.log_probs, reference.log_probs)
        if self.kl_estimator == "k3":
            if self.use_bias_correction_kl and self.importance_sampling_level == "token":
                return ratio_times_k3(policy.log_probs, reference.log_probs, old.log_probs)
            estimate = k3(policy.log_probs, reference.log_probs)
            return estimate * ratio if self.use_bias_correction_kl else estimate
        return policy.kl(reference)

    def _advantages(self, rewards: Rewards, penalty: Tensor | None, counted: Tensor, share: Share) -> Tensor:
        """Return [..., G, k], or [..., G, 1] if all positions of an action share one advantage.

        penalty: [..., G, k], subtracted from the rewards.
        """
        if rewards.per_position is not None:
            per_position = rewards.per_position if penalty is None else rewards.per_position - penalty
            return reward_to_go_advantages(per_position, self.advantage_estimator, counted, share)
        total = rewards.total if penalty is None else rewards.total - penalty.sum(dim=-1)
        return advantages(total, self.advantage_estimator, counted, share).unsqueeze(-1)

    def _policy_gradient(self, policy: Distribution, advantages: Tensor, ratio: Tensor) -> Surrogate:
        epsilon_high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.loss_type == "cispo":
            return cispo_surrogate(ratio, advantages, policy.log_probs, epsilon_high=epsilon_high)
        surrogate = clipped_surrogate(
            ratio, advantages, epsilon=self.epsilon, epsilon_high=epsilon_high, delta=self.delta
        )
        if self.importance_sampling_level == "sequence_product":
            # One term per action, divided by its positions: at ratio 1 the gradient equals that of the other levels.
            lengths = policy.position_mask.sum(dim=-1, keepdim=True).clamp(min=1)
            return surrogate._replace(loss=surrogate.loss / lengths)
        return surrogate

    def _with_regularisers(
        self, surrogate: Surrogate, kl: Tensor | None, policy: Distribution, counted: Tensor, share: Share
    ) -> tuple[Tensor, Statistics]:
        """Return the scalar loss with divergence and entropy, and the statistics of the policy."""

        def mean(values: Tensor) -> Tensor:
            return self.reduce(values, policy, counted, "bnpo", share)

        loss = surrogate.loss
        if kl is not None and self.beta and self.kl_estimator != "k1":
            loss = loss + self.beta * kl
        loss = self.reduce(loss, policy, counted, self.loss_type, share)
        entropy = mean((policy if self.entropy_coef else policy.detach()).entropy())
        if self.entropy_coef:
            loss = loss - self.entropy_coef * entropy
        statistics = {"entropy": entropy.detach(), "clip_fraction": mean(surrogate.clipped.float())}
        return loss, statistics if kl is None else statistics | {"kl": mean(kl.detach())}

    def reduce(
        self, values: Tensor, policy: Distribution, counted: Tensor, loss_type: str, share: Share = ALONE
    ) -> Tensor:
        """Reduce values [..., 1 or G, 1 or k] to a scalar; "dr_grpo" divides by `depth` positions."""
        depth: int | Tensor = self.depth or 1
        if loss_type == "dr_grpo" and not self.depth:
            depth = share.most(policy.position_mask.sum(dim=-1).max())
        return reduce_positions(
            values, policy.position_mask, counted, loss_type=loss_type, num_positions=depth, share=share
        )


def has_distinct_labels(labels: Tensor, mask: Tensor) -> Tensor:
    """labels, mask: [..., n] -> [...] bool: whether two documents of the list have different labels."""
    labels = labels.float()
    highest = labels.masked_fill(~mask, -torch.inf).amax(dim=-1)
    lowest = labels.masked_fill(~mask, torch.inf).amin(dim=-1)
    return highest > lowest


def reward_statistics(rewards: Rewards, nonempty: Tensor, counted: Tensor, share: Share = ALONE) -> Statistics:
    """Return means over the groups `counted`, and `frac_reward_zero_std` over all `nonempty` ones; both [...] bool."""

    def mean(per_group: Tensor, groups: Tensor = counted) -> Tensor:
        return share.fraction(per_group.masked_fill(~groups, 0.0).sum(), groups.sum())

    statistics = {
        "reward_mean": mean(rewards.total.mean(dim=-1)),
        "reward_std": mean(rewards.total.std(dim=-1)),
        "frac_reward_zero_std": mean(all_equal(rewards.total).float(), nonempty),
    }
    if len(rewards.values) > 1:
        statistics |= {f"reward_mean/{name}": mean(value.mean(dim=-1)) for name, value in rewards.values.items()}
    return statistics
