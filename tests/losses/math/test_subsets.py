"""Fixed-size subsets: oracle 5 (inclusion probabilities sum to k), sampling, entropy and divergence by enumeration."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from scipy.stats import chisquare

from losses.math.noise import uniform_noise
from losses.math.plackett_luce import position_distributions
from losses.math.subsets import SubsetDistribution, subset_distribution

SCORES, REFERENCE = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
MASK = torch.tensor([True, True, False, True, True, True])


def all_subsets(k: int) -> torch.Tensor:
    """[subsets, 6] bool: every choice of k valid documents."""
    chosen = torch.tensor(list(combinations(MASK.nonzero().flatten().tolist(), k)))
    return torch.zeros(len(chosen), 6, dtype=torch.bool).scatter(1, chosen, True)


def distribution(scores: torch.Tensor, k: int, temperature: float = 0.5) -> SubsetDistribution:
    return subset_distribution(scores, MASK, all_subsets(min(k, 5)), temperature=temperature, k=k)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_probabilities_sum_to_one_and_inclusions_to_k(k):
    policy = distribution(SCORES, k)
    probability = policy.log_probs.squeeze(-1).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    inclusion = policy.inclusion_probabilities()
    torch.testing.assert_close(inclusion, probability @ all_subsets(k).double())
    assert inclusion.sum().item() == pytest.approx(k, abs=1e-12)
    assert inclusion[2] == 0


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_entropy_divergence_and_their_gradients_are_those_of_the_enumeration(k):
    scores = SCORES.clone().requires_grad_()
    policy, reference = distribution(scores, k), distribution(REFERENCE, k)
    log_prob, other = policy.log_probs.squeeze(-1), reference.log_probs.squeeze(-1)
    expected = -(log_prob.exp() * log_prob).sum(), (log_prob.exp() * (log_prob - other)).sum()
    for value, by_hand in zip((policy.entropy(), policy.kl(reference)), expected, strict=True):
        assert value.shape == (1, 1)
        torch.testing.assert_close(value.squeeze(), by_hand)
        gradients = [torch.autograd.grad(each.sum(), scores, retain_graph=True)[0] for each in (value, by_hand)]
        torch.testing.assert_close(*gradients)
    assert policy.kl(policy.detach()).item() == 0


def test_a_list_of_fewer_documents_is_chosen_whole():
    policy = distribution(SCORES.clone().requires_grad_(), 7)
    assert policy.log_probs.item() == pytest.approx(0, abs=1e-12)
    assert policy.entropy().item() == pytest.approx(0, abs=1e-12)
    drawn = policy.sample(uniform_noise([1], 4, MASK[None])[0])
    assert torch.equal(drawn, MASK.expand(4, 6))


def test_one_document_is_plackett_luce_at_k_1():
    rankings = all_subsets(1).nonzero()[:, 1:]
    policy = position_distributions(SCORES, MASK, rankings, temperature=0.5)
    torch.testing.assert_close(distribution(SCORES, 1).log_probs, policy.log_probs)


def test_frequencies_of_draws():
    """Chi-square against the probabilities, p > 1e-3."""
    policy = distribution(SCORES.float(), 3)
    drawn = policy.sample(uniform_noise([3], 20_000, MASK[None])[0])
    assert (drawn.sum(-1) == 3).all()
    counts = (drawn[:, None] == all_subsets(3)).all(-1).sum(0)
    assert counts.sum() == 20_000
    expected = policy.log_probs.squeeze(-1).double().softmax(0) * 20_000
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_gradcheck_and_extremes():
    function = lambda scores: distribution(scores, 3, 1.0).log_probs  # noqa: E731
    assert torch.autograd.gradcheck(function, (SCORES.clone().requires_grad_(),))
    scores = (SCORES.float().sign() * 1e4).requires_grad_()
    policy = distribution(scores, 3, 1.0)
    for value in (policy.log_probs, policy.entropy(), policy.kl(distribution(-scores.detach(), 3, 1.0))):
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), scores, retain_graph=True)[0].isfinite().all()
    assert policy.inclusion_probabilities().sum().item() == pytest.approx(3, abs=1e-3)
