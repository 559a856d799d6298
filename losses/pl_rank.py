"""PL-Rank-2: Plackett-Luce gradients of position-discounted rewards (Oosterhuis 2021, arXiv 2105.00855)."""

from __future__ import annotations

from torch import Tensor

from losses.math.plackett_luce import PositionDistributions, place, reverse_cumsum


def pl_rank_2(policy: PositionDistributions, gains: Tensor, discounts: Tensor) -> Tensor:
    """The reward of each position, with PL-Rank-2's estimate of its gradient attached.

    For the reward sum_x theta_x rho_{y_x}, the estimate from one ranking of K positions is

        dJ/ds_d = sum_{x > rank(d)} theta_x rho_{y_x}
                  + sum_{j <= min(K, rank(d))} P(d | y_<j) (theta_j rho_d - sum_{x >= j} theta_x rho_{y_x})

    It uses the gain of every document that could have been placed, not only of the one that was. Written as the
    derivative of  log P(y_j | y_<j) (rewards after j) + theta_j (sum_d sg[P(d | y_<j)] rho_d s_d - rho_{y_j} log Z_j).
    It is unbiased for rankings sampled from these very scores; a single sample's gradient need not sum to 0.

    Args:
        policy: the distributions at the positions of the sampled rankings [..., G, k].
        gains: rho, [..., n], 0 at padding.
        discounts: theta, [k].

    Returns:
        [..., G, k], in value the rewards theta_j rho_{y_j}.
    """
    placed_gains = place(gains, policy.rankings)
    rewards = placed_gains * discounts
    rewards_after = reverse_cumsum(rewards) - rewards
    choices = policy.detach().expectation(gains * policy.logits) - placed_gains * policy.log_denominators
    surrogate = (policy.log_probs * rewards_after + discounts * choices).masked_fill(~policy.position_mask, 0.0)
    return rewards + surrogate - surrogate.detach()
