"""PL-Rank-2: Plackett-Luce gradients of position-discounted rewards (Oosterhuis 2021, arXiv 2105.00855)."""

from __future__ import annotations

from torch import Tensor

from losses.math.plackett_luce import PositionDistributions, gather_ranked, reverse_cumsum


def pl_rank_2(policy: PositionDistributions, gains: Tensor, discounts: Tensor) -> Tensor:
    """Return the reward of each position, whose gradient is PL-Rank-2's estimate.

    For the reward sum_x theta_x rho_{y_x}, the estimate from one ranking of K positions is

        dJ/ds_d = sum_{x > rank(d)} theta_x rho_{y_x}
                  + sum_{j <= min(K, rank(d))} P(d | y_<j) (theta_j rho_d - sum_{x >= j} theta_x rho_{y_x})

    It uses the gains of all documents that could have been placed, not only of the one that was placed. It is computed
    as the derivative of  log P(y_j | y_<j) (rewards after j) + theta_j (sum_d sg[P(d | y_<j)] rho_d s_d - rho_{y_j}
    log Z_j). It is unbiased if the rankings were sampled from these scores. The gradient of a single sample need not
    sum to 0.

    Args:
        policy: the distributions at the positions of the sampled rankings [..., G, k].
        gains: rho, [..., n], 0 at padding.
        discounts: theta, [k].

    Returns:
        [..., G, k], whose values are the rewards theta_j rho_{y_j}; no gradient at masked positions.
    """
    placed_gains = gather_ranked(gains, policy.rankings)
    rewards = placed_gains * discounts
    rewards_after = reverse_cumsum(rewards) - rewards
    choices = policy.detach().expectation(gains * policy.logits) - placed_gains * policy.log_denominators
    surrogate = (policy.log_probs * rewards_after + discounts * choices).masked_fill(~policy.position_mask, 0.0)
    return rewards + surrogate - surrogate.detach()
