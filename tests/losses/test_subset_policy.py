"""Fixed-size subsets: oracle 5 (inclusion probabilities sum to k), and enumeration."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from losses.plackett_luce import position_distributions
from losses.subset_policy import inclusion_probabilities, subset_log_prob

SCORES = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.tensor([True, True, False, True, True, True])


def all_subsets(k: int) -> torch.Tensor:
    """[subsets, 6] bool: every choice of k valid documents."""
    chosen = torch.tensor(list(combinations(MASK.nonzero().flatten().tolist(), k)))
    return torch.zeros(len(chosen), 6, dtype=torch.bool).scatter(1, chosen, True)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_probabilities_sum_to_one_and_inclusions_to_k(k):
    probability = subset_log_prob(SCORES, MASK, all_subsets(k), temperature=0.5, k=k).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    inclusion = inclusion_probabilities(SCORES, MASK, temperature=0.5, k=k)
    torch.testing.assert_close(inclusion, probability @ all_subsets(k).double())
    assert inclusion.sum().item() == pytest.approx(k, abs=1e-12)
    assert inclusion[2] == 0


def test_one_document_is_plackett_luce_at_k_1():
    subsets = all_subsets(1)
    log_prob = subset_log_prob(SCORES, MASK, subsets, temperature=0.5, k=1)
    policy = position_distributions(SCORES, MASK, subsets.nonzero()[:, 1:], temperature=0.5)
    torch.testing.assert_close(log_prob, policy.log_probs[:, 0])


def test_gradcheck_and_extremes():
    subsets = all_subsets(3)
    function = lambda scores: subset_log_prob(scores, MASK, subsets, temperature=1.0, k=3)  # noqa: E731
    assert torch.autograd.gradcheck(function, (SCORES.clone().requires_grad_(),))
    scores = (SCORES.float().sign() * 1e4).requires_grad_()
    value = function(scores)
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), scores)[0].isfinite().all()
    assert inclusion_probabilities(scores, MASK, temperature=1.0, k=3).sum().item() == pytest.approx(3, abs=1e-3)
