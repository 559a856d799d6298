"""Pointwise policy of an LLM reranker over two tokens: P(yes) = sigmoid(s), s = logit(yes) - logit(no).

For rerankers that say of one document whether it is relevant. KTO is made of it; as a policy of its own no loss under
conf/loss uses it.

All functions are elementwise. Sampling the token has the expected reward as expectation, so that the closed form is the
better estimator wherever nothing else is generated.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
