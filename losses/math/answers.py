"""The answer of an LLM reranker about one document as a distribution: yes or no, or also anything else.

Over the two tokens P(yes) = sigmoid(s), s = z_yes - z_no. Over the vocabulary, with L = logsumexp_v(z_v) - z_no,
log P(yes) = s - L, log P(no) = -L, and the rest of the mass is on the other tokens, which are one answer here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.math.masking import at_least_float32

NO, YES, OTHER = 0, 1, 2
# What float32 resolves of a probability near 1: below it the mass of the other tokens is rounding.
SMALLEST_GAP = 1e-6


def two_token_log_prob(scores: Tensor, said_yes: Tensor) -> Tensor:
    """log P(token): scores, said_yes (bool) of any equal shape."""
    return F.logsigmoid(scores.where(said_yes, -scores))


def expected_reward(scores: Tensor, reward_yes: Tensor, reward_no: Tensor) -> Tensor:
    """J = sigmoid(s) r_yes + sigmoid(-s) r_no, with gradient sigmoid(s) sigmoid(-s) (r_yes - r_no)."""
    return scores.sigmoid() * reward_yes + (-scores).sigmoid() * reward_no


def two_token_entropy(scores: Tensor) -> Tensor:
    """Entropy of the token in nats."""
    return -(scores.sigmoid() * F.logsigmoid(scores) + (-scores).sigmoid() * F.logsigmoid(-scores))


def two_token_kl(scores: Tensor, reference_scores: Tensor) -> Tensor:
    """KL(policy || reference) of the token, exactly."""
    yes = F.logsigmoid(scores) - F.logsigmoid(reference_scores)
    no = F.logsigmoid(-scores) - F.logsigmoid(-reference_scores)
    return scores.sigmoid() * yes + (-scores).sigmoid() * no


def answer_log_probs(scores: Tensor, logsumexp: Tensor | None = None) -> Tensor:
    """log P of no, yes, and with `logsumexp` (L) anything else: [...] -> [..., 2 or 3].

    P(else) = 1 - e^-(L - softplus(s)). L < softplus(s) can come of rounding alone: it counts as no mass, without a
    gradient.
    """
    if logsumexp is None:
        return torch.stack([F.logsigmoid(-scores), F.logsigmoid(scores)], dim=-1)
    gap = (logsumexp - F.softplus(scores)).clamp(min=SMALLEST_GAP)
    other = (-torch.expm1(-gap)).log()
    return torch.stack([F.logsigmoid(-scores) - gap, F.logsigmoid(scores) - gap, other], dim=-1)


@dataclass(frozen=True)
class AnswerDistribution:
    """The policy of each document's answer, at sampled answers: one position (`group_policy.Distribution`).

    outcomes: [..., n, 2 or 3] log-probabilities; answers: [..., n, G] int64 of NO, YES, OTHER; mask: [..., n] bool.
    """

    outcomes: Tensor
    answers: Tensor
    mask: Tensor

    @property
    def position_mask(self) -> Tensor:
        """[..., n, 1, 1]."""
        return self.mask[..., None, None]

    @property
    def log_probs(self) -> Tensor:
        """[..., n, G, 1]."""
        chosen = torch.take_along_dim(self.outcomes, self.answers, dim=-1)
        return chosen.unsqueeze(-1).masked_fill(~self.position_mask, 0.0)

    def expectation(self, values: Tensor) -> Tensor:
        """sum_a P(a) values_a: [..., n, 2 or 3] -> [..., n, 1, 1], 0 at padding."""
        mean = (self.outcomes.exp() * values).sum(dim=-1)
        return mean[..., None, None].masked_fill(~self.position_mask, 0.0)

    def entropy(self) -> Tensor:
        """[..., n, 1, 1]."""
        return -self.expectation(self.outcomes)

    def kl(self, reference: AnswerDistribution) -> Tensor:
        """[..., n, 1, 1]."""
        return self.expectation(self.outcomes - reference.outcomes)

    def detach(self) -> AnswerDistribution:
        return replace(self, outcomes=self.outcomes.detach())


def answer_distribution(
    scores: Tensor, mask: Tensor, answers: Tensor, *, temperature: float, logsumexp: Tensor | None
) -> AnswerDistribution:
    """scores, mask, logsumexp: [..., n]; answers: [..., n, G]. Whatever stands at padding is ignored."""
    scores = at_least_float32(scores).masked_fill(~mask, 0.0) / temperature
    if logsumexp is not None:
        logsumexp = at_least_float32(logsumexp).masked_fill(~mask, 2.0)
    return AnswerDistribution(answer_log_probs(scores, logsumexp), answers, mask)


def sample_answers(outcomes: Tensor, uniform: Tensor) -> Tensor:
    """Answers by inverting the distribution, YES first: [..., n, 2 or 3], uniform [..., G, n] -> [..., n, G] int64."""
    yes, no = outcomes[..., YES, None].exp(), outcomes[..., NO, None].exp()
    uniform = uniform.transpose(-1, -2)
    answers = torch.full(uniform.shape, NO, device=outcomes.device)
    if outcomes.shape[-1] == 3:
        answers = answers.masked_fill(uniform >= yes + no, OTHER)
    return answers.masked_fill(uniform < yes, YES)
