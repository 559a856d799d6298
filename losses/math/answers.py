"""The distribution of an LLM reranker's answer about one document: yes, no, or (over the vocabulary) anything else.

Over the two tokens, P(yes) = sigmoid(s), s = z_yes - z_no. Over the vocabulary, with L = logsumexp_v(z_v) - z_no,
log P(yes) = s - L and log P(no) = -L. The rest of the probability is on the other tokens, which are one answer here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.math.masking import at_least_float32

NO, YES, OTHER = 0, 1, 2
# The resolution of float32 near probability 1: below it the probability of the other tokens is rounding error.
SMALLEST_GAP = 1e-6


def two_token_log_prob(scores: Tensor, is_yes: Tensor) -> Tensor:
    """Return log P(token). scores, is_yes (bool): any shape, the same for both."""
    return F.logsigmoid(scores.where(is_yes, -scores))


def expected_reward(scores: Tensor, reward_yes: Tensor, reward_no: Tensor) -> Tensor:
    """Return J = sigmoid(s) r_yes + sigmoid(-s) r_no, whose gradient is sigmoid(s) sigmoid(-s) (r_yes - r_no)."""
    return scores.sigmoid() * reward_yes + (-scores).sigmoid() * reward_no


def two_token_entropy(scores: Tensor) -> Tensor:
    """Return the entropy of the token in nats; any shape."""
    return -(scores.sigmoid() * F.logsigmoid(scores) + (-scores).sigmoid() * F.logsigmoid(-scores))


def two_token_kl(scores: Tensor, reference_scores: Tensor) -> Tensor:
    """Return the exact KL(policy || reference) of the token; any shape."""
    yes = F.logsigmoid(scores) - F.logsigmoid(reference_scores)
    no = F.logsigmoid(-scores) - F.logsigmoid(-reference_scores)
    return scores.sigmoid() * yes + (-scores).sigmoid() * no


def answer_log_probs(scores: Tensor, logsumexp: Tensor | None = None) -> Tensor:
    """Return log P of no, yes and, with `logsumexp` (L), anything else: [...] -> [..., 2 or 3].

    P(anything else) = 1 - e^-(L - softplus(s)). Only rounding makes L < softplus(s): that counts as no probability, and
    has no gradient.
    """
    if logsumexp is None:
        return torch.stack([F.logsigmoid(-scores), F.logsigmoid(scores)], dim=-1)
    gap = (logsumexp - F.softplus(scores)).clamp(min=SMALLEST_GAP)
    other = (-torch.expm1(-gap)).log()
    return torch.stack([F.logsigmoid(-scores) - gap, F.logsigmoid(scores) - gap, other], dim=-1)


@dataclass(frozen=True)
class AnswerDistribution:
    """The policy over the answer to each document, at sampled answers of one position (`group_policy.Distribution`).

    log_probs_by_answer: [..., n, 2 or 3]; answers: [..., n, G] int64 of NO, YES, OTHER; mask: [..., n] bool.
    """

    log_probs_by_answer: Tensor
    answers: Tensor
    mask: Tensor

    @property
    def position_mask(self) -> Tensor:
        """[..., n, 1, 1]."""
        return self.mask[..., None, None]

    @property
    def log_probs(self) -> Tensor:
        """[..., n, G, 1]."""
        chosen = torch.take_along_dim(self.log_probs_by_answer, self.answers, dim=-1)
        return chosen.unsqueeze(-1).masked_fill(~self.position_mask, 0.0)

    def expectation(self, values: Tensor) -> Tensor:
        """Return sum_a P(a) values_a: [..., n, 2 or 3] -> [..., n, 1, 1], 0 at padding."""
        mean = (self.log_probs_by_answer.exp() * values).sum(dim=-1)
        return mean[..., None, None].masked_fill(~self.position_mask, 0.0)

    def entropy(self) -> Tensor:
        """[..., n, 1, 1]."""
        return -self.expectation(self.log_probs_by_answer)

    def kl(self, reference: AnswerDistribution) -> Tensor:
        """[..., n, 1, 1]."""
        return self.expectation(self.log_probs_by_answer - reference.log_probs_by_answer)

    def detach(self) -> AnswerDistribution:
        return replace(self, log_probs_by_answer=self.log_probs_by_answer.detach())


def answer_distribution(
    scores: Tensor, mask: Tensor, answers: Tensor, *, temperature: float, logsumexp: Tensor | None
) -> AnswerDistribution:
    """scores, mask, logsumexp: [..., n]; answers: [..., n, G]. Values at padding are ignored."""
    scores = at_least_float32(scores).masked_fill(~mask, 0.0) / temperature
    if logsumexp is not None:
        logsumexp = at_least_float32(logsumexp).masked_fill(~mask, 2.0)
    return AnswerDistribution(answer_log_probs(scores, logsumexp), answers, mask)


def sample_answers(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Sample answers by inverting the distribution, YES first.

    log_probs: [..., n, 2 or 3]; uniform: [..., G, n] draws in (0, 1) -> [..., n, G] int64.
    """
    yes, no = log_probs[..., YES, None].exp(), log_probs[..., NO, None].exp()
    uniform = uniform.transpose(-1, -2)
    answers = torch.full(uniform.shape, NO, device=log_probs.device)
    if log_probs.shape[-1] == 3:
        answers = answers.masked_fill(uniform >= yes + no, OTHER)
    return answers.masked_fill(uniform < yes, YES)
