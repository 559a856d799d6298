"""Fixtures of the losses' tests: every configured loss; enumeration of all rankings, exact gradients, z-scores."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
import torch
from loss_samples import Case, configured, is_exempt, kinds, load_loss
from policies import VARIANTS, Policy
from torch import Tensor

from losses.contracts import is_policy
from losses.math.plackett_luce import Rankings, position_distributions, sample_rankings

TESTED = pytest.StashKey[dict[str, Case]]()  # the cases of the property tests in this run
EXEMPTIONS = ("depends_on_other_lists", "shift_invariant", "saturates", "masks_misordered", "differentiable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--config-dir", type=Path, help="a configuration directory whose losses the property tests run on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case`: every configured loss, of scores or embeddings or both, and every variant of the policy."""
    if "case" not in metafunc.fixturenames:
        return
    config_dir = metafunc.config.getoption("--config-dir", default=None)
    tested = [(name, kind) for name in configured(config_dir) for kind in kinds(name, config_dir)]
    tested += [] if config_dir else [(name, "variant") for name in VARIANTS]
    names = [f"{name}, {kind}" if kind in ("embeddings", "variant") else name for name, kind in tested]
    metafunc.parametrize("case", tested, ids=names, indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    name, kind = request.param
    config_dir = request.config.getoption("--config-dir", default=None)
    loss = VARIANTS[name] if kind == "variant" else load_loss(name, config_dir)
    case = Case(Policy(loss), "scores") if is_policy(loss) else Case(loss, kind)
    if kind != "variant":
        request.config.stash.setdefault(TESTED, {})[name] = case
    return case


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report how many losses were tested, and which are exempt from what."""
    tested = {name: case.loss for name, case in config.stash.get(TESTED, {}).items()}
    if not tested:
        return
    contracts = Counter(loss.contract for loss in tested.values())
    counts = ", ".join(f"{count} {contract}" for contract, count in sorted(contracts.items()))
    terminalreporter.write_sep("-", "losses")
    terminalreporter.write_line(f"files of conf/loss tested: {len(tested)} ({counts})")
    for exemption in EXEMPTIONS:
        exempt = sorted(name for name, loss in tested.items() if is_exempt(loss, exemption))
        terminalreporter.write_line(f"exempt from {exemption}: {', '.join(exempt) or 'none'}")


class Enumeration:
    """A list of four documents small enough to sum over all of its rankings, in float64."""

    scores = torch.tensor([0.3, -0.6, 0.9, 0.1], dtype=torch.float64)
    reference_scores = torch.tensor([0.5, 0.4, -0.2, -0.9], dtype=torch.float64)
    labels = torch.tensor([0.0, 2.0, 1.0, 0.0])
    mask = torch.ones(4, dtype=torch.bool)
    temperature = 0.7

    def rankings(self, k: int) -> Tensor:
        """All n!/(n-k)! rankings, as the group of one list: [rankings, k]."""
        return torch.tensor(list(permutations(range(4), k)))

    def policy(self, scores: Tensor, k: int):
        return position_distributions(scores, self.mask, self.rankings(k), temperature=self.temperature)

    def gradient(self, function, k: int) -> Tensor:
        """d/ds sum_y P(y) function(policy)_y, where function(policy) is [rankings]."""
        scores = self.scores.clone().requires_grad_()
        policy = self.policy(scores, k)
        expectation = (policy.log_probs.sum(-1).exp() * function(policy)).sum()
        return torch.autograd.grad(expectation, scores)[0]

    def reward_gradient(self, reward, k: int) -> Tensor:
        """The exact gradient of the expected reward."""
        return self.gradient(lambda policy: reward(policy.rankings, self.labels, self.mask).double(), k)

    def kl_gradient(self, k: int) -> Tensor:
        """The exact gradient of KL(policy || reference) over rankings."""
        reference = self.policy(self.reference_scores, k).log_probs.sum(-1)
        return self.gradient(lambda policy: policy.log_probs.sum(-1) - reference, k)


@pytest.fixture(scope="session")
def enumeration() -> Enumeration:
    return Enumeration()


@pytest.fixture(scope="session")
def gradient_samples(enumeration):
    """Independent gradient estimates of a loss, [samples, 4]: every list of the batch is the enumerated one.

    One fixed draw of noise serves all: `gumbel_noise` gives every list its own generator, slow for so many lists.
    """
    num_samples = 6_000
    noise = -torch.empty(num_samples, 8, 4).exponential_(generator=torch.Generator().manual_seed(11)).log()

    def sample(loss) -> Tensor:
        def repeat(values: Tensor) -> Tensor:
            return values.expand(num_samples, 4)

        scores = repeat(enumeration.scores).clone().requires_grad_()
        mask, labels = repeat(enumeration.mask), repeat(enumeration.labels)
        own_noise = noise[:, : loss.num_generations]
        k = loss.num_positions(4)
        rankings = Rankings(*sample_rankings(scores, mask, own_noise, temperature=loss.temperature, k=k))
        reference = repeat(enumeration.reference_scores) if loss.inputs else None
        value, _ = loss(scores, labels, mask, actions=rankings, old_scores=scores.detach(), reference_scores=reference)
        return torch.autograd.grad(value, scores)[0] * num_samples

    return sample


@pytest.fixture(scope="session")
def z_scores():
    """(mean - expected) / standard error of each coordinate: samples [S, n], expected [n] -> [n]."""

    def z(samples: Tensor, expected: Tensor) -> Tensor:
        return (samples.mean(0) - expected) / (samples.std(0) / len(samples) ** 0.5)

    return z


@pytest.fixture
def lists():
    """(scores, labels, mask, old scores, reference scores) of lists of 5, 3 and 4 documents, the last of one label."""
    generator = torch.Generator().manual_seed(0)
    scores, old, reference = torch.randn(3, 3, 5, generator=generator).unbind()
    mask = torch.arange(5) < torch.tensor([[5], [3], [4]])
    labels = torch.tensor([[0, 2, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 0]]).float()
    return scores, labels, mask, old, reference


@pytest.fixture(scope="session")
def evaluate():
    """evaluate(loss, *tensors) -> (value, gradient, statistics); rankings None: of a loss that samples none."""

    def evaluate(loss, scores, labels, mask, rankings, old, reference):
        scores = scores.clone().requires_grad_()
        value, statistics = (
            (loss(scores, labels, mask), {})
            if rankings is None
            else loss(scores, labels, mask, actions=rankings, old_scores=old, reference_scores=reference)
        )
        return value.detach(), torch.autograd.grad(value, scores)[0], statistics

    return evaluate
