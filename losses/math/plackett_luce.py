"""The Plackett-Luce distribution over rankings: sampling, exact log-probability, entropy and divergence.

P(y) = prod_j exp(s_{y_j}/T) / sum_{i not in y_<j} exp(s_i/T): at every position, a softmax over the documents not yet
placed. Rankings may be cut after k positions; their probability is then exactly that of the prefix. No tensor here is
larger than [..., G, n] for G rankings of a list of n documents.

References: Plackett 1975; Gumbel top-k sampling, Kool et al. 2019 (arXiv 1903.06059).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from losses.math.masking import masked_logits
from losses.math.noise import uniform_noise


@dataclass(frozen=True)
class Rankings:
    """G rankings of every list, cut after k positions.

    rankings: [..., G, k] int64, the index of the document at each position, best first.
    position_mask: [..., 1, k] bool, False at positions beyond the list's number of documents.
    """

    rankings: Tensor
    position_mask: Tensor


def gumbel_noise(seeds: Sequence[int], num_generations: int, mask: Tensor) -> Tensor:
    """Return standard Gumbel draws [lists, G, n] float32, 0 at padding; seeds and mask as in `uniform_noise`."""
    noise = -(-uniform_noise(seeds, num_generations, mask).log()).log()
    return noise.float().masked_fill(~mask.unsqueeze(-2), 0.0)


def position_mask(mask: Tensor, num_positions: int) -> Tensor:
    """mask [..., n] bool -> [..., 1, num_positions] bool: True at the positions that the list's documents fill."""
    positions = torch.arange(num_positions, device=mask.device)
    return positions < mask.sum(dim=-1, keepdim=True).unsqueeze(-1)


def sample_rankings(
    scores: Tensor, mask: Tensor, noise: Tensor, *, temperature: float, k: int
) -> tuple[Tensor, Tensor]:
    """Sample rankings by the Gumbel top-k trick: the k largest values of s/T + Gumbel noise, in order.

    Args:
        scores, mask: [..., n].
        noise: [..., G, n] standard Gumbel draws (`gumbel_noise`).
        k: the number of positions; at most n are returned. Padding comes last.

    Returns:
        rankings [..., G, min(k, n)] int64 and position_mask [..., 1, min(k, n)] bool (see `Rankings`).
    """
    logits = masked_logits(scores.detach(), mask, temperature)
    perturbed = (logits.unsqueeze(-2) + noise).masked_fill(~mask.unsqueeze(-2), torch.finfo(logits.dtype).min)
    num_positions = min(k, scores.shape[-1])
    return perturbed.topk(num_positions, dim=-1).indices, position_mask(mask, num_positions)


def gather_ranked(values: Tensor, rankings: Tensor) -> Tensor:
    """Return the documents' values in ranked order: values [..., n], rankings [..., G, k] -> [..., G, k]."""
    return torch.take_along_dim(values.unsqueeze(-2), rankings, dim=-1)


def reverse_cumsum(values: Tensor) -> Tensor:
    """Return sum_{x >= j} values_x along the last axis: the reward-to-go of every position."""
    return values.flip(-1).cumsum(dim=-1).flip(-1)


@dataclass(frozen=True)
class PositionDistributions:
    """The softmax over the documents not yet placed, at every position of given rankings (`position_distributions`).

    logits: [..., n] s/T up to a constant, 0 at padding.
    placed_logits: [..., G, k], the logits of the ranked documents.
    unplaced_logits: [..., G, n], the logits of the documents that the ranking leaves out, `finfo.min` elsewhere.
    log_denominators: [..., G, k] log sum_{i not in y_<j} exp(logits_i).
    """

    rankings: Tensor
    position_mask: Tensor
    logits: Tensor
    placed_logits: Tensor
    unplaced_logits: Tensor
    log_denominators: Tensor

    @cached_property
    def log_probs(self) -> Tensor:
        """Return log P(y_j | y_<j), [..., G, k], 0 at masked positions. Their sum is the ranking's log-probability."""
        return (self.placed_logits - self.log_denominators).masked_fill(~self.position_mask, 0.0)

    def expectation(self, values: Tensor) -> Tensor:
        """Return sum_i P(i | y_<j) values_i at every position: values [..., n] -> [..., G, k], differentiable in both.

        From the last position to the first, E_j = p_j v_{y_j} + (1 - p_j) E_{j+1}: a convex combination, stable at any
        scale, in O(n + k) per ranking. If every document is placed, the last p_j is 1 and the initial mean has no
        effect.
        """
        mean = (self.unplaced_logits.softmax(dim=-1) * values.unsqueeze(-2)).sum(dim=-1)
        probs, remaining_probs = self.log_probs.exp(), -self.log_probs.expm1()
        ranked = gather_ranked(values, self.rankings)
        means: list[Tensor] = []
        for position in reversed(range(self.rankings.shape[-1])):
            mean = probs[..., position] * ranked[..., position] + remaining_probs[..., position] * mean
            means.append(mean)
        return torch.stack(means[::-1], dim=-1)

    def entropy(self) -> Tensor:
        """Return H(P(. | y_<j)) in nats, [..., G, k]. The expectation of its sum over positions is the entropy of the
        rankings."""
        entropy = self.log_denominators - self.expectation(self.logits)
        return entropy.masked_fill(~self.position_mask, 0.0)

    def kl(self, reference: PositionDistributions) -> Tensor:
        """Return KL(P(. | y_<j) || P_ref(. | y_<j)) over the documents not yet placed, [..., G, k].

        The sum over positions is the Rao-Blackwell estimate of the divergence between the policies: only the prefixes
        are sampled, and each position is summed exactly over all documents.
        """
        log_ratio_mean = self.expectation(self.logits - reference.logits)
        kl = log_ratio_mean - (self.log_denominators - reference.log_denominators)
        return kl.masked_fill(~self.position_mask, 0.0)

    def detach(self) -> PositionDistributions:
        """Return the same distributions as constants."""
        tensors = ("logits", "placed_logits", "unplaced_logits", "log_denominators")
        return replace(self, **{name: getattr(self, name).detach() for name in tensors})


def position_distributions(
    scores: Tensor, mask: Tensor, rankings: Tensor, *, temperature: float
) -> PositionDistributions:
    """Return the policy at every position of the rankings. scores, mask: [..., n]; rankings: [..., G, k].

    The denominators are a reversed `logcumsumexp` over the k placed documents that starts with the logsumexp of the
    unplaced ones.
    """
    logits = masked_logits(scores, mask, temperature)
    lowest = torch.finfo(logits.dtype).min
    placed = gather_ranked(logits, rankings)
    every_ranking = logits.unsqueeze(-2).expand(*rankings.shape[:-1], logits.shape[-1])
    unplaced = every_ranking.scatter(-1, rankings, lowest)
    tail = unplaced.logsumexp(dim=-1, keepdim=True)
    log_denominators = torch.cat([tail, placed.flip(-1)], dim=-1).logcumsumexp(dim=-1)[..., 1:].flip(-1)
    filled = position_mask(mask, rankings.shape[-1])
    return PositionDistributions(
        rankings=rankings,
        position_mask=filled,
        logits=logits.masked_fill(~mask, 0.0),
        placed_logits=placed,
        unplaced_logits=unplaced,
        log_denominators=log_denominators.masked_fill(~filled, 0.0),
    )
