"""The distribution over subsets of fixed size k: P(S) = exp(sum_{i in S} s_i) / e_k(exp(s)).

e_k, the elementary symmetric polynomial, comes by its log-space recursion in O(n k), and with it the probability that
a document is chosen where r are still to be chosen among it and those before it: sampling, inclusion and expectations
walk the documents once (conditional Poisson sampling; Kulesza and Taskar 2012, section 5.2.1). Lists of fewer than k
documents are chosen whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from losses.math.masking import masked_logits


def log_elementary_symmetric(logits: Tensor, k: int) -> Tensor:
    """log e_0 ... log e_k of exp(logits), after 0, 1, ... n elements: [..., n] -> [n + 1, ..., k + 1].

    Elements at `finfo.min` take no part; `finfo.min` where there are fewer elements than e_r takes.
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
    """The policy over subsets, at sampled ones: one position (`losses.policies.group_policy.Distribution`).

    logits: [..., n] s/T up to a constant, 0 at padding; taken, left: [n, ..., k + 1] P(document i is in S, or not,
        where r are to be chosen of the documents up to it); log_normalizer: [...] log e_k;
    sizes: [...] int64, k or the list's number of documents; selected: [..., G, n] bool; mask: [..., n] bool.
    """

    logits: Tensor
    taken: Tensor
    left: Tensor
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
        """log P(S), [..., G, 1]."""
        chosen = self.logits.unsqueeze(-2).masked_fill(~self.selected, 0.0).sum(dim=-1)
        log_prob = (chosen - self.log_normalizer.unsqueeze(-1)).unsqueeze(-1)
        return log_prob.masked_fill(~self.position_mask, 0.0)

    def expectation(self, values: Tensor) -> Tensor:
        """E[sum_{i in S} values_i]: [..., n] (0 at padding) -> [..., 1, 1], differentiable in both."""
        mean = torch.zeros_like(self.taken[0])
        for taken, left, value in zip(self.taken, self.left, values.unbind(dim=-1), strict=True):
            one_less = torch.cat([torch.zeros_like(mean[..., :1]), mean[..., :-1]], dim=-1)
            mean = taken * (value.unsqueeze(-1) + one_less) + left * mean
        return mean.gather(-1, self.sizes.unsqueeze(-1)).unsqueeze(-1)

    def entropy(self) -> Tensor:
        """log e_k - E[sum_S s], [..., 1, 1]."""
        entropy = self.log_normalizer[..., None, None] - self.expectation(self.logits)
        return entropy.masked_fill(~self.position_mask, 0.0)

    def kl(self, reference: SubsetDistribution) -> Tensor:
        """E[sum_S (s - r)] - log e_k(s) + log e_k(r), [..., 1, 1]."""
        log_ratio_mean = self.expectation(self.logits - reference.logits)
        kl = log_ratio_mean - (self.log_normalizer - reference.log_normalizer)[..., None, None]
        return kl.masked_fill(~self.position_mask, 0.0)

    def detach(self) -> SubsetDistribution:
        tensors = ("logits", "taken", "left", "log_normalizer")
        return replace(self, **{name: getattr(self, name).detach() for name in tensors})

    def inclusion_probabilities(self) -> Tensor:
        """P(document in S), [..., n], summing to the size."""
        states = torch.arange(self.taken.shape[-1], device=self.sizes.device)
        left_to_choose = (states == self.sizes.unsqueeze(-1)).to(self.taken.dtype)
        probabilities = []
        for taken, left in zip(self.taken.flip(0), self.left.flip(0), strict=True):
            chosen = left_to_choose * taken
            probabilities.append(chosen.sum(dim=-1))
            one_less = torch.cat([chosen[..., 1:], torch.zeros_like(chosen[..., :1])], dim=-1)
            left_to_choose = one_less + left_to_choose * left
        return torch.stack(probabilities[::-1], dim=-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Exact draws, last document first: uniform [..., G, n] in (0, 1) -> [..., G, n] bool."""
        left_to_choose = self.sizes.unsqueeze(-1).expand(uniform.shape[:-1])
        selected = torch.zeros(uniform.shape, dtype=torch.bool, device=uniform.device)
        for index in reversed(range(uniform.shape[-1])):
            taken = self.taken[index].gather(-1, left_to_choose) > uniform[..., index]
            selected[..., index] = taken
            left_to_choose = left_to_choose - taken.long()
        return selected


def subset_distribution(
    scores: Tensor, mask: Tensor, selected: Tensor, *, temperature: float, k: int
) -> SubsetDistribution:
    """scores, mask: [..., n]; selected: [..., G, n] bool, min(k, number of documents) in each."""
    logits = masked_logits(scores, mask, temperature)
    table = log_elementary_symmetric(logits, k)
    sizes = mask.sum(dim=-1).clamp(max=k)
    # The difference of the two ways, not of each to their sum: both probabilities add up to 1 at any scale.
    more = table[:-1, ..., :-1] + logits.movedim(-1, 0).unsqueeze(-1) - table[:-1, ..., 1:]
    none_to_choose = torch.zeros_like(more[..., :1])
    return SubsetDistribution(
        logits=logits.masked_fill(~mask, 0.0),
        taken=torch.cat([none_to_choose, more.sigmoid()], dim=-1),
        left=torch.cat([none_to_choose + 1, (-more).sigmoid()], dim=-1),
        log_normalizer=table[-1].gather(-1, sizes.unsqueeze(-1)).squeeze(-1),
        sizes=sizes,
        selected=selected,
        mask=mask,
    )
