"""GRPO for LLM rerankers that judge one document at a time: the action is the relevance token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from losses.contracts import Statistics
from losses.math.answers import NO, OTHER, YES, AnswerDistribution, answer_distribution, sample_answers
from losses.math.checks import check_finite, check_pos_weight
from losses.math.masking import positive_weights
from losses.math.noise import uniform_noise
from losses.math.share import ALONE, Share
from losses.policies.group_policy import GroupPolicy
from losses.rewards import Rewards

# The options of sampling and of the importance ratio, which a sum over all answers does not use.
SAMPLING_OPTIONS = (
    "num_generations",
    "advantage_estimator",
    "skip_zero_std",
    "loss_type",
    "importance_sampling_level",
    "epsilon",
    "epsilon_high",
    "delta",
    "kl_in",
)


@dataclass(frozen=True)
class TokenPolicyGRPO(GroupPolicy):
    """-E[r(a)] over the answer a to each document, r(a) = w_c 1[a = y] + w_f 1[a in {yes, no}]  (Shao et al. 2024).

    y is yes if the document's label is above `relevant_above`; higher grades make no difference. Each document is a
    prompt of its own, and its `num_generations` answers are the group: advantages never compare documents. The loss is
    the mean over all documents of the global step, as TRL's is over completions.

    correctness_weight, format_weight: w_c and w_f.
    relevant_above: labels above it are relevant.
    pos_weight: the factor of w_c for a relevant document: a number, None for 1, or "auto", the list's number of other
        documents per relevant one. With 1, where few documents are relevant, "no" to all is soon the only answer that
        is sampled, and then nothing is learned any more.
    vocabulary: true, the policy is over all tokens; all tokens but yes and no are one answer, "anything else", with
        reward 0. False, it is over the two tokens, P(yes) = sigmoid(s); every answer then has the right format, so
        `format_weight` is rejected.
    expected: sum over all answers instead of sampling: J = sum_a P(a) r(a). The sampled gradient is an unbiased
        estimate of its gradient; over two tokens dJ/ds = P(yes) P(no) (r_yes - r_no). The options of sampling and of
        the ratio are rejected.

    Divergence (`kl_estimator=exact`) and entropy are sums over the answers. An answer has one position: all loss types
    but "cispo" are the same, and all importance sampling levels too.

    Use: the first stage of an LLM reranker, also to teach it to answer yes or no (vocabulary); trainer=grpo.
    Cost: num_generations n; expected: n.
    Source: GRPO, Shao et al. 2024, arXiv 2402.03300; as a warm-up of rerankers, ProRank, arXiv 2506.03487.
    """

    data_requirements: ClassVar[tuple[str, ...]] = ("labels",)
    sharded: ClassVar[bool] = True
    shift_invariant: ClassVar[bool] = False  # P("yes") is absolute

    num_generations: int = 16
    correctness_weight: float = 1.0
    format_weight: float = 0.0
    relevant_above: float = 0.0
    pos_weight: float | Literal["auto"] | None = "auto"
    vocabulary: bool = False
    expected: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("correctness_weight", "format_weight", "relevant_above"):
            check_finite(name, getattr(self, name))
        check_pos_weight(self.pos_weight)
        if self.correctness_weight == 0 and self.format_weight == 0:
            raise ValueError("correctness_weight and format_weight are both 0, so every reward is 0: set one of them")
        if not self.vocabulary:
            self._reject_unused(("format_weight",), "vocabulary=false (every answer is yes or no)")
        elif self.temperature != 1:
            raise ValueError(
                f"temperature={self.temperature} would need the logits of the whole vocabulary: with vocabulary=true "
                "leave it at 1"
            )
        if self.expected:
            self._reject_unused(SAMPLING_OPTIONS, "expected=true (nothing is sampled)")
            if self.kl_estimator != "exact":
                raise ValueError(
                    f"kl_estimator={self.kl_estimator} needs samples, and expected=true has none: set it to exact"
                )

    @property
    def policy_inputs(self) -> tuple[str, ...]:
        return ("logsumexp",) if self.vocabulary else ()

    @property
    def compares_actions(self) -> bool:
        return not self.expected

    @torch.no_grad()
    def sample(self, scores: Tensor, mask: Tensor, seeds: Sequence[int], **policy_inputs: Tensor) -> Tensor:
        """Sample answers [lists, n, G] int64 (losses/math/answers.py); with `expected`, none: [lists, n, 0]."""
        no_actions = torch.zeros(*mask.shape, 0, dtype=torch.int64, device=mask.device)
        if self.expected:
            return no_actions
        log_probs = self.distribution(scores, mask, no_actions, **policy_inputs).log_probs_by_answer
        return sample_answers(log_probs, uniform_noise(seeds, self.num_generations, mask))

    def distribution(
        self, scores: Tensor, mask: Tensor, actions: Tensor, **policy_inputs: Tensor
    ) -> AnswerDistribution:
        logsumexp = policy_inputs.get("logsumexp")
        return answer_distribution(scores, mask, actions, temperature=self.temperature, logsumexp=logsumexp)

    def groups(self, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mask twice: every document is a group, and all can teach."""
        return mask, mask

    def compute_rewards(self, actions: Tensor, labels: Tensor, mask: Tensor) -> Rewards:
        """Return the rewards [..., n, G] of the sampled answers."""
        rewards = self.answer_rewards(labels, mask)
        values = {name: torch.take_along_dim(reward, actions, dim=-1) for name, reward in rewards.items()}
        return Rewards(self._total(values, labels, mask), values, None)

    def answer_rewards(self, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the unweighted rewards of every possible answer, by name: [..., n, 2 or 3] in the order NO, YES,
        OTHER."""
        relevant = ((labels > self.relevant_above) & mask).float()
        answers = [relevant.new_zeros(relevant.shape)] * (3 if self.vocabulary else 2)
        answers[NO], answers[YES] = 1 - relevant, relevant
        rewards = {"correctness": torch.stack(answers, dim=-1)}
        if self.vocabulary:
            in_format = torch.ones_like(rewards["correctness"])
            in_format[..., OTHER] = 0.0
            rewards["format"] = in_format
        return rewards

    def _total(self, values: dict[str, Tensor], labels: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted sum of the rewards [..., n, any]."""
        relevant = (labels > self.relevant_above) & mask
        weights = 1 + relevant.float() * (positive_weights(relevant, mask, self.pos_weight) - 1)
        total = self.correctness_weight * weights.unsqueeze(-1) * values["correctness"]
        return total + self.format_weight * values["format"] if "format" in values else total

    def __call__(
        self, scores: Tensor, labels: Tensor, mask: Tensor, *, actions: Tensor, share: Share = ALONE, **inputs: Any
    ) -> tuple[Tensor, Statistics]:
        """Return the loss and statistics as `GroupPolicy` does; with `expected`, without those of sampling."""
        if not self.expected:
            return super().__call__(scores, labels, mask, actions=actions, share=share, **inputs)
        policy = self.distribution(scores, mask, actions, **{name: inputs[name] for name in self.policy_inputs})
        rewards = self.answer_rewards(labels, mask)
        objective = policy.expectation(self._total(rewards, labels, mask))

        def mean(values: Tensor) -> Tensor:
            return self.reduce(values, policy, mask, "sum", share)

        loss = -mean(objective) - self.entropy_coef * mean(policy.entropy())
        statistics = {"reward_mean": mean(objective), "entropy": mean(policy.entropy())}
        if inputs.get("reference_scores") is not None:
            kl = mean(policy.kl(self._distribution("reference_", inputs, mask, actions).detach()))
            loss, statistics["kl"] = loss + self.beta * kl, kl
        if len(rewards) > 1:
            statistics |= {f"reward_mean/{name}": mean(policy.expectation(value)) for name, value in rewards.items()}
        return loss, {name: value.detach() for name, value in statistics.items()}
