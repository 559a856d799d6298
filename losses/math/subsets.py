"""The distribution over subsets of fixed size k: P(S) = exp(sum_{i in S} s_i) / e_k(exp(s)).

e_k is the elementary symmetric polynomial, computed by its recursion in log space in O(n k). The recursion also gives
the probability that document i is chosen if r documents remain to be chosen among the first i. With it, sampling,
inclusion probabilities and expectations take one pass over the documents (conditional Poisson sampling; Kulesza and
Taskar 2012, section 5.2.1). If a list has fewer than k documents, all are chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from losses.math.masking import masked_logits


def log_elementary_symmetric(logits: Tensor, k: int) -> Tensor:
    """Return log e_0 ... log e_k of exp(logits), after 0, 1, ... n elements: [..., n] -> [n + 1, ..., k + 1].

    Elements at `finfo.min` are ignored. The result is `finfo.min` if there are fewer than r elements for e_r.
    """
    sums = logits.new_full((*logits.shape[:-1], k + 1), torch.finfo(logits.dtype).min)
    sums[..., 0] = 0.0
    table = [sums]
    for element in logits.unbind(dim=-1):
        with_element = torch.logaddexp(sums[..., 1:], sums[..., :-1] + element.unsqueeze(-1))
        sums = torch.cat([sums[..., :1], with_element], dim=-1)
        table.append(sums)
    return torch.stack(table)


@dataclass(frozen=True)
class SubsetDistribution:
    """The policy over subsets, at sampled subsets of one position (`losses.policies.group_policy.Distribution`).

    logits: [..., n] s/T up to a constant, 0 at padding.
    include_probs, exclude_probs: [n, ..., k + 1], the probability that document i is in S, or is not, if r documents
        (0 to k) remain to be chosen among the first i.
    log_normalizer: [...] log e_k.
    sizes: [...] int64, k or the list's number of documents if that is smaller.
    selected: [..., G, n] bool, the sampled subsets; mask: [..., n] bool.
    """

    logits: Tensor
    include_probs: Tensor
    exclude_probs: Tensor
    log_normalizer: Tensor
    sizes: Tensor
    selected: Tensor
    mask: Tensor

    @property
    def position_mask(self) -> Tensor:
        """[..., 1, 1]."""
        return self.mask.any(dim=-1)[..., None, None]

    @property
    def log_probs(self) -> Tensor:
        """Return log P(S), [..., G, 1]."""
        chosen = self.logits.unsqueeze(-2).masked_fill(~self.selected, 0.0).sum(dim=-1)
        log_prob = (chosen - self.log_normalizer.unsqueeze(-1)).unsqueeze(-1)
        return log_prob.masked_fill(~self.position_mask, 0.0)

    def expectation(self, values: Tensor) -> Tensor:
        """Return E[sum_{i in S} values_i]: [..., n] (0 at padding) -> [..., 1, 1], differentiable in both."""
        mean = torch.zeros_like(self.include_probs[0])
        for include, exclude, value in zip(self.include_probs, self.exclude_probs, values.unbind(dim=-1), strict=True):
            one_less = torch.cat([torch.zeros_like(mean[..., :1]), mean[..., :-1]], dim=-1)
            mean = include * (value.unsqueeze(-1) + one_less) + exclude * mean
        return mean.gather(-1, self.sizes.unsqueeze(-1)).unsqueeze(-1)

    def entropy(self) -> Tensor:
        """Return log e_k - E[sum_S s], [..., 1, 1]."""
        entropy = self.log_normalizer[..., None, None] - self.expectation(self.logits)
        return entropy.masked_fill(~self.position_mask, 0.0)

    def kl(self, reference: SubsetDistribution) -> Tensor:
        """Return E[sum_S (s - r)] - log e_k(s) + log e_k(r), [..., 1, 1]."""
        log_ratio_mean = self.expectation(self.logits - reference.logits)
        kl = log_ratio_mean - (self.log_normalizer - reference.log_normalizer)[..., None, None]
        return kl.masked_fill(~self.position_mask, 0.0)

    def detach(self) -> SubsetDistribution:
        tensors = ("logits", "include_probs", "exclude_probs", "log_normalizer")
        return replace(self, **{name: getattr(self, name).detach() for name in tensors})

    def inclusion_probabilities(self) -> Tensor:
        """Return P(document in S), [..., n]; the sum over a list is the size of its sets."""
        states = torch.arange(self.include_probs.shape[-1], device=self.sizes.device)
        remaining_probs = (states == self.sizes.unsqueeze(-1)).to(self.include_probs.dtype)
        probabilities = []
        for include, exclude in zip(self.include_probs.flip(0), self.exclude_probs.flip(0), strict=True):
            chosen = remaining_probs * include
            probabilities.append(chosen.sum(dim=-1))
            one_less = torch.cat([chosen[..., 1:], torch.zeros_like(chosen[..., :1])], dim=-1)
            remaining_probs = one_less + remaining_probs * exclude
        return torch.stack(probabilities[::-1], dim=-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Draw exact samples, last document first: uniform [..., G, n] in (0, 1) -> [..., G, n] bool."""
        num_remaining = self.sizes.unsqueeze(-1).expand(uniform.shape[:-1])
        selected = torch.zeros(uniform.shape, dtype=torch.bool, device=uniform.device)
        for index in reversed(range(uniform.shape[-1])):
            included = self.include_probs[index].gather(-1, num_remaining) > uniform[..., index]
            selected[..., index] = included
            num_remaining = num_remaining - included.long()
        return selected


def subset_distribution(
    scores: Tensor, mask: Tensor, selected: Tensor, *, temperature: float, k: int
) -> SubsetDistribution:
    """Return the policy of the scores. scores, mask: [..., n]; selected: [..., G, n] bool, min(k, number of documents)
    in each set."""
    logits = masked_logits(scores, mask, temperature)
    table = log_elementary_symmetric(logits, k)
    sizes = mask.sum(dim=-1).clamp(max=k)
    # The log-odds of including a document. Their sigmoids add up to 1 at any scale, ratios to the sum would not.
    log_odds = table[:-1, ..., :-1] + logits.movedim(-1, 0).unsqueeze(-1) - table[:-1, ..., 1:]
    none_remaining = torch.zeros_like(log_odds[..., :1])
    return SubsetDistribution(
        logits=logits.masked_fill(~mask, 0.0),
        include_probs=torch.cat([none_remaining, log_odds.sigmoid()], dim=-1),
        exclude_probs=torch.cat([none_remaining + 1, (-log_odds).sigmoid()], dim=-1),
        log_normalizer=table[-1].gather(-1, sizes.unsqueeze(-1)).squeeze(-1),
        sizes=sizes,
        selected=selected,
        mask=mask,
    )
