"""The token policy: closed-form gradients, samples against them (oracle 3), divergence and entropy, options."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.distributions import Categorical, kl_divergence

from launch.cli.compose import instantiate
from losses.math.answers import NO, OTHER, YES, answer_log_probs
from losses.policies.token_policy import TokenPolicyGRPO

CONF = Path(__file__).parents[3] / "conf" / "loss"
SCORES = torch.tensor([[0.4, -1.3, 2.0]], dtype=torch.float64)
LOGSUMEXP = F.softplus(SCORES) + torch.tensor([[0.7, 0.2, 1.1]]).double()
LABELS, MASK = torch.tensor([[1.0, 0.0, 2.0]]), torch.ones(1, 3, dtype=torch.bool)
TWO = TokenPolicyGRPO(num_generations=4, pos_weight=None)
ALL = TokenPolicyGRPO(num_generations=4, vocabulary=True, format_weight=0.5, pos_weight=None)


def gradient(loss, actions, scores=SCORES, logsumexp=LOGSUMEXP, labels=LABELS, mask=MASK, **inputs):
    """d loss / d (scores, logsumexp), on policy unless an old one is given."""
    leaves = {"scores": scores.clone().requires_grad_(), "logsumexp": logsumexp.clone().requires_grad_()}
    own = {name: leaves[name] for name in ("scores", *loss.policy_inputs)}
    old = {f"old_{name}": value.detach() for name, value in own.items()}
    value, _ = loss(labels=labels, mask=mask, actions=actions, **own, **(old | inputs))
    return torch.autograd.grad(value, list(own.values()))


def expected(loss):
    return replace(loss, num_generations=16, expected=True)


def nothing():
    return torch.zeros(1, 3, 0, dtype=torch.int64)


def test_the_expected_gradient_is_the_closed_form():
    """sigmoid(s) sigmoid(-s) (r_yes - r_no), meaned over documents."""
    (found,) = gradient(expected(TWO), nothing())
    sign = torch.tensor([[1.0, -1.0, 1.0]]).double()
    torch.testing.assert_close(found, -SCORES.sigmoid() * (-SCORES).sigmoid() * sign / 3)
    weighted = replace(expected(TWO), correctness_weight=2.0, relevant_above=1.0)
    (found,) = gradient(weighted, nothing())
    sign = torch.tensor([[-1.0, -1.0, 1.0]]).double()
    torch.testing.assert_close(found, -2 * SCORES.sigmoid() * (-SCORES).sigmoid() * sign / 3)


def test_the_expected_reward_over_the_vocabulary_is_that_of_the_logits():
    """Against plain softmax over a vocabulary of nine tokens, of which two are the answers."""
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    no, yes = 4, 7
    scores, logsumexp = logits[:, yes] - logits[:, no], logits.logsumexp(-1) - logits[:, no]
    loss = expected(ALL)
    value, statistics = loss(
        scores[None], LABELS, MASK, actions=nothing(), logsumexp=logsumexp[None], old_scores=None, old_logsumexp=None
    )
    probabilities = logits.softmax(-1)
    right = probabilities[[0, 1, 2], [yes, no, yes]]
    in_format = probabilities[:, [no, yes]].sum(-1)
    by_hand = -(right + 0.5 * in_format).mean()
    torch.testing.assert_close(value, by_hand)
    torch.testing.assert_close(torch.autograd.grad(value, logits), torch.autograd.grad(by_hand, logits))
    torch.testing.assert_close(statistics["reward_mean/correctness"], right.mean().detach())
    torch.testing.assert_close(statistics["reward_mean/format"], in_format.mean().detach())
    torch.testing.assert_close(statistics["reward_mean"], -value.detach())


@pytest.mark.parametrize("loss", [TWO, ALL], ids=["two", "vocabulary"])
@pytest.mark.parametrize(("estimator", "factor"), [("none", 0.75), ("rloo", 1.0)])
def test_oracle_3_all_groups_of_four_sum_to_the_expected_gradient(loss, estimator, factor):
    """The group mean shrinks it to exactly (G-1)/G = 0.75; leaving one out does not."""
    log_probs = answer_log_probs(SCORES, LOGSUMEXP if loss.vocabulary else None)
    sums = [torch.zeros_like(SCORES) for _ in ("scores", *loss.policy_inputs)]
    for group in product(range(log_probs.shape[-1]), repeat=4):
        actions = torch.tensor(group).expand(1, 3, 4)
        probability = torch.take_along_dim(log_probs, actions, dim=-1).sum(-1).exp()
        found = gradient(replace(loss, advantage_estimator=estimator), actions)
        sums = [total + probability * value for total, value in zip(sums, found, strict=True)]
    for total, exact in zip(sums, gradient(expected(loss), nothing()), strict=True):
        torch.testing.assert_close(total, factor * exact, atol=1e-7, rtol=0)  # rewards are float32
        assert exact.abs().max() > 0.01


@pytest.mark.parametrize("loss", [TWO, ALL], ids=["two", "vocabulary"])
def test_oracle_3_sampled_gradients_are_unbiased(loss, z_scores):
    """abs(z) < 4, over groups drawn by `sample`."""
    num_samples = 4_000
    own = {"scores": SCORES, "logsumexp": LOGSUMEXP}
    repeated = {name: own[name].expand(num_samples, 3) for name in ("scores", *loss.policy_inputs)}
    mask = MASK.expand(num_samples, 3)
    actions = loss.sample(mask=mask, seeds=range(num_samples), **repeated)
    probabilities = answer_log_probs(SCORES, LOGSUMEXP if loss.vocabulary else None)[0].exp()
    frequencies = F.one_hot(actions, probabilities.shape[-1]).double().mean(dim=(0, 2))
    assert (
        (frequencies - probabilities).abs() < 4 * (probabilities * (1 - probabilities) / (4 * num_samples)).sqrt()
    ).all()
    wide = (repeated["scores"], repeated.get("logsumexp", LOGSUMEXP.expand(num_samples, 3)))
    samples = gradient(loss, actions, *wide, LABELS.expand(num_samples, 3), mask)
    for sample, exact in zip(samples, gradient(expected(loss), nothing()), strict=True):
        assert z_scores(sample * num_samples, exact[0]).abs().max() < 4
        assert z_scores(sample * num_samples, 0 * exact[0]).abs().max() > 10


@pytest.mark.parametrize("vocabulary", [False, True])
def test_divergence_and_entropy_are_torchs(vocabulary):
    loss = TokenPolicyGRPO(num_generations=4, vocabulary=vocabulary, beta=0.3, entropy_coef=0.2)
    others = {"scores": -SCORES, "logsumexp": F.softplus(-SCORES) + 0.4}
    reference = {f"reference_{name}": others[name] for name in ("scores", *loss.policy_inputs)}
    own = {name: {"scores": SCORES, "logsumexp": LOGSUMEXP}[name] for name in ("scores", *loss.policy_inputs)}
    old = {f"old_{name}": value for name, value in own.items()}
    same = torch.full((1, 3, 4), YES)
    value, statistics = loss(labels=LABELS, mask=MASK, actions=same, **own, **old, **reference)
    policy = Categorical(logits=answer_log_probs(SCORES, LOGSUMEXP if vocabulary else None))
    other = Categorical(logits=answer_log_probs(-SCORES, others["logsumexp"] if vocabulary else None))
    torch.testing.assert_close(statistics["entropy"], policy.entropy().mean())
    torch.testing.assert_close(statistics["kl"], kl_divergence(policy, other).mean())
    torch.testing.assert_close(value, 0.3 * statistics["kl"] - 0.2 * statistics["entropy"])  # equal rewards: A = 0
    closed, also = expected(loss)(labels=LABELS, mask=MASK, actions=nothing(), **own, **reference)
    torch.testing.assert_close(also["kl"], statistics["kl"])
    torch.testing.assert_close(closed, value - also["reward_mean"])


def test_advantages_do_not_compare_documents():
    """Other documents, and other lists, change a document's gradient by the denominator alone."""
    loss = replace(TWO, advantage_estimator="group")
    actions = torch.tensor([[[YES, NO, NO, YES], [NO, NO, NO, YES], [YES, YES, NO, YES]]])
    together = gradient(loss, actions)[0][:, :1]
    alone = gradient(loss, actions[:, :1], SCORES[:, :1], labels=LABELS[:, :1], mask=MASK[:, :1])[0]
    torch.testing.assert_close(together * 3, alone)


def test_pos_weight_multiplies_the_reward_of_relevant_documents():
    for weight, factors in ((3.0, [3, 1, 3]), ("auto", [0.5, 1, 0.5])):
        plain, weighted = (gradient(expected(replace(TWO, pos_weight=w)), nothing())[0] for w in (None, weight))
        torch.testing.assert_close(weighted, plain * torch.tensor([factors]))


def test_other_tokens_earn_nothing_and_lose_mass():
    actions = torch.tensor([YES, OTHER, OTHER, OTHER]).expand(1, 3, 4)
    of_score, of_logsumexp = gradient(ALL, actions)
    assert (of_logsumexp[0, [0, 2]] > 0).all()  # minimised: the mass of the answers grows
    assert (of_score[0, [0, 2]] < 0).all()


def test_a_logsumexp_below_that_of_the_two_tokens_is_rounding():
    log_probs = answer_log_probs(SCORES.float(), F.softplus(SCORES.float()) - 1e-3)
    assert log_probs.exp().sum(-1).tolist() == [pytest.approx([1.0] * 3)]
    assert log_probs[..., OTHER].exp().max() < 2e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format_weight": 0.5}, "format_weight=0.5 has no effect with vocabulary=false"),
        ({"vocabulary": True, "temperature": 0.5}, "temperature=0.5 would need the logits of the whole vocabulary"),
        ({"correctness_weight": 0.0}, "correctness_weight and format_weight are both 0"),
        ({"expected": True, "num_generations": 8}, "num_generations=8 has no effect with expected=true"),
        ({"expected": True, "delta": 2.0}, "delta=2.0 has no effect with expected=true"),
        ({"expected": True, "loss_type": "dapo"}, "loss_type=dapo has no effect with expected=true"),
        ({"expected": True, "beta": 0.1, "kl_estimator": "k3"}, "kl_estimator=k3 needs samples"),
        ({"pos_weight": "aut"}, "pos_weight='aut' is not known; choose a number, auto or null"),
        ({"kl_estimator": "rao_blackwell"}, "choose one of: exact, k2, k3"),
        ({"relevant_above": float("nan")}, "relevant_above must be a finite number"),
    ],
)
def test_refusals_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        TokenPolicyGRPO(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("token_policy", {}),
        ("token_policy_expected", {"expected": True}),
        ("token_policy_vocabulary", {"vocabulary": True, "format_weight": 0.5}),
    ],
)
def test_the_configuration_files_state_the_defaults(name, options):
    node = OmegaConf.load(CONF / f"{name}.yaml")
    assert instantiate(OmegaConf.to_container(node)) == TokenPolicyGRPO(**options)
    assert set(node) - {"_target_"} == {field.name for field in fields(TokenPolicyGRPO)}


def test_reads():
    assert TWO.inputs == ()
    assert replace(TWO, beta=0.1).inputs == ("reference_scores",)
    assert replace(ALL, beta=0.1).inputs == ("logsumexp", "reference_scores", "reference_logsumexp")
