"""Oracle 9 over every loss under conf/loss, a new file included, and every variant of the Plackett-Luce GRPO.

What the list contract promises: padding, the order of the documents, the other lists of the batch, a constant added to
a list's scores and leading axes change nothing; value and gradient are finite whatever comes, and gradients are
derivatives. A loss whose class says `shift_invariant = False` is excused from the constant.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from launch.compose import compose, instantiate
from losses.plackett_luce import Rankings
from losses.ranking_policy import PlackettLuceGRPO
from losses.rewards import MAP, MRR, NDCG, Recall

CONF = Path(__file__).parents[2] / "conf" / "loss"
CONFIGURED = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml"))

SMALL = PlackettLuceGRPO(num_generations=8, temperature=0.7, reward=NDCG(k=2))
VARIANTS = {
    "small": SMALL,
    "pl_rank_2": replace(SMALL, gradient_estimator="pl_rank_2"),
    "whole reward": replace(SMALL, reward_to_go=False),
    "sequence": replace(SMALL, reward_to_go=False, importance_sampling_level="sequence", loss_type="grpo"),
    "sequence_product": replace(SMALL, reward_to_go=False, importance_sampling_level="sequence_product"),
    "cispo": replace(SMALL, loss_type="cispo", epsilon_high=5.0),
    "dr_grpo, delta": replace(SMALL, loss_type="dr_grpo", delta=3.0),
    "bnpo, batch": replace(SMALL, loss_type="bnpo", advantage_estimator="batch"),
    "dapo, group, skip": replace(SMALL, loss_type="dapo", advantage_estimator="group", skip_zero_std=True),
    "kl loss": replace(SMALL, beta=0.5),
    "kl reward": replace(SMALL, beta=0.5, kl_in="reward"),
    "k1 reward": replace(SMALL, beta=0.5, kl_in="reward", kl_estimator="k1", reward_to_go=False),
    "k2": replace(SMALL, beta=0.5, kl_estimator="k2"),
    "k3": replace(SMALL, beta=0.5, kl_estimator="k3"),
    "entropy": replace(SMALL, entropy_coef=0.1),
    "rewards": replace(SMALL, reward=[NDCG(k=2), MRR(), MAP(), Recall(k=3)], reward_weights=[1, 0.5, 0.5, 2]),
}
every_loss = pytest.mark.parametrize("name", [*(f"loss={name}" for name in CONFIGURED), *VARIANTS])
every_variant = pytest.mark.parametrize("name", VARIANTS)


@cache
def get(name: str) -> Any:
    """A variant, or "loss=NAME": what the command line would make of it."""
    return VARIANTS[name] if name in VARIANTS else instantiate(compose([name]).loss)


@pytest.fixture
def loss(name: str) -> Any:
    return get(name)


def sample(loss: Any, behaviour: Tensor, mask: Tensor, first_key: int = 1) -> Rankings | None:
    """Rankings of a policy loss, None for the others."""
    return loss.sample(behaviour, mask, range(first_key, first_key + len(mask))) if hasattr(loss, "sample") else None


def reindex(rankings: Rankings | None, index: Any) -> Rankings | None:
    """Other leading axes."""
    return rankings and Rankings(rankings.rankings[index], rankings.position_mask[index])


def test_every_configured_loss_is_found_and_names_its_contract():
    assert {"plackett_luce_grpo", "softmax_cross_entropy"} <= set(CONFIGURED)
    for name in CONFIGURED:
        assert get(f"loss={name}").contract == "list", f"conf/loss/{name}.yaml: this suite knows the contract list only"


@every_loss
def test_padding(loss, lists, evaluate):
    scores, labels, mask, old, reference = lists
    rankings = sample(loss, old, mask)
    plain = evaluate(loss, scores, labels, mask, rankings, old, reference)
    wider = [F.pad(values, (0, 3), value=torch.nan) for values in (scores, labels, old, reference)]
    wide_mask = F.pad(mask, (0, 3))
    again = sample(loss, wider[2], wide_mask)
    if rankings is not None:
        positions, filled = rankings.rankings.shape[-1], rankings.position_mask.expand_as(rankings.rankings)
        assert torch.equal(again.rankings[..., :positions][filled], rankings.rankings[filled])
    padded = evaluate(loss, wider[0], wider[1], wide_mask, again, wider[2], wider[3])
    torch.testing.assert_close(padded[0], plain[0])
    torch.testing.assert_close(padded[1][:, :5], plain[1])
    torch.testing.assert_close(padded[2], plain[2])
    assert (padded[1][~wide_mask] == 0).all()
    assert plain[1].abs().max() > 1e-4


@every_loss
def test_permutation_of_documents(loss, lists, evaluate):
    scores, labels, mask, old, reference = lists
    rankings = sample(loss, old, mask)
    plain = evaluate(loss, scores, labels, mask, rankings, old, reference)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = rankings and Rankings(order.argsort()[rankings.rankings], rankings.position_mask)
    shuffled = [values[:, order] for values in (scores, labels, mask)]
    other = evaluate(loss, *shuffled, moved, old[:, order], reference[:, order])
    torch.testing.assert_close(other[0], plain[0])
    torch.testing.assert_close(other[1], plain[1][:, order])


@every_loss
def test_the_other_lists_of_the_batch(loss, lists, evaluate):
    """They may change a list's gradient by a common factor only, the denominator, which their scores do not enter."""
    if getattr(loss, "advantage_estimator", None) == "batch":
        pytest.skip("its std is that of the batch")
    scores, labels, mask, old, reference = lists
    rankings = sample(loss, old, mask)
    together = evaluate(loss, scores, labels, mask, rankings, old, reference)[1]
    for row, size in ((0, 5), (1, 3)):
        others = scores.neg().index_copy(0, torch.tensor([row]), scores[row : row + 1])
        beside = evaluate(loss, others, labels, mask, rankings, old, reference)[1]
        torch.testing.assert_close(beside[row], together[row])
        if getattr(loss, "entropy_coef", 0):
            continue  # reward and entropy have denominators of their own
        own = [values[row : row + 1, :size] for values in lists]
        alone = evaluate(loss, *own[:3], sample(loss, own[3], own[2], row + 1), *own[3:])[1][0]
        factor = (together[row, :size] @ alone) / (alone @ alone).clamp(min=1e-12)
        torch.testing.assert_close(factor * alone, together[row, :size])
        assert 0 < factor <= 1 or not alone.any()  # a margin may be met by every pair
        if getattr(loss, "loss_type", None) in ("sum", "grpo", "dr_grpo"):
            assert factor.item() == pytest.approx(0.5, abs=1e-3)  # two lists count


@every_loss
def test_a_list_of_padding_changes_nothing(loss, lists, evaluate):
    scores, labels, mask, old, reference = (torch.cat([values, values[:1]]) for values in lists)
    mask[3] = False
    rankings = sample(loss, old, mask)
    value, gradient, _ = evaluate(loss, scores, labels, mask, rankings, old, reference)
    three = evaluate(loss, *lists[:3], reindex(rankings, slice(3)), *lists[3:])
    torch.testing.assert_close(value, three[0])
    torch.testing.assert_close(gradient[:3], three[1])
    assert (gradient[3] == 0).all()


@every_loss
def test_a_constant_added_to_a_lists_scores(loss, lists, evaluate):
    if not getattr(loss, "shift_invariant", True):
        pytest.skip("its class says that it is not shift-invariant")
    scores, labels, mask, old, reference = (
        values.double() if values.is_floating_point() else values for values in lists
    )
    rankings = sample(loss, old, mask)
    plain = evaluate(loss, scores, labels, mask, rankings, old, reference)
    shift = torch.tensor([[3.0], [-7.0], [20.0]]).double()
    shifted = evaluate(loss, scores + shift, labels, mask, rankings, old, reference)
    torch.testing.assert_close(shifted[0], plain[0])
    torch.testing.assert_close(shifted[1], plain[1])
    if not getattr(loss, "on_policy_only", False):  # PL-Rank-2's sum to 0 in expectation
        torch.testing.assert_close(plain[1].sum(-1), torch.zeros(3).double(), atol=1e-6, rtol=0)


@every_loss
def test_leading_axes_are_free(loss, lists, evaluate):
    scores, labels, mask, old, reference = lists
    rankings = sample(loss, old, mask)
    flat = evaluate(loss, scores, labels, mask, rankings, old, reference)
    for index in (None, (slice(None), None)):
        own = [values[index] for values in lists]
        nested = evaluate(loss, *own[:3], reindex(rankings, index), *own[3:])
        torch.testing.assert_close(nested[0], flat[0])
        torch.testing.assert_close(nested[1], flat[1][index])
    single = evaluate(loss, *[v[0] for v in lists[:3]], reindex(rankings, 0), old[0], reference[0])
    batch = evaluate(loss, *[v[:1] for v in lists[:3]], reindex(rankings, slice(1)), old[:1], reference[:1])
    torch.testing.assert_close(single[0], batch[0])
    torch.testing.assert_close(single[1], batch[1][0])


CASES = ("1e4", "all 1e4", "equal scores", "equal labels", "one document", "no relevant document", "masked", "bf16")


@pytest.mark.parametrize("case", CASES)
@every_loss
def test_finite(loss, case, lists, evaluate):
    scores, labels, mask, old, reference = lists
    if case == "1e4":
        scores, reference = scores.sign() * 1e4, -scores.sign() * 1e4
    elif case in ("all 1e4", "equal scores"):
        scores = torch.full_like(scores, 1e4 if case == "all 1e4" else 0.0)
    elif case == "one document":
        mask = torch.arange(5).expand(3, 5) == 2
    elif case == "masked":
        mask = torch.zeros_like(mask)
    elif case == "bf16":
        scores, old, reference = scores.bfloat16(), old.bfloat16(), reference.bfloat16()
    elif "label" in case or "relevant" in case:
        labels = torch.full_like(labels, float(case == "equal labels"))
    rankings = sample(loss, old, mask)
    for behaviour in (old, scores):
        value, gradient, statistics = evaluate(loss, scores, labels, mask, rankings, behaviour, reference)
        assert value.ndim == 0
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert (gradient[~mask] == 0).all()
        assert all(statistic.isfinite() for statistic in statistics.values())
        if case == "masked" or (rankings is not None and ("label" in case or "document" in case)):
            assert value == 0
            assert (gradient == 0).all()
        if case == "equal scores" and behaviour is scores:
            assert (gradient[:2].abs().amax(-1) > 0).all()
        if case == "bf16" and rankings is not None:
            assert value.dtype == torch.float32


@every_loss
def test_gradcheck(loss, lists, evaluate):
    if getattr(loss, "on_policy_only", False) or getattr(loss, "loss_type", None) == "cispo":
        pytest.skip("its value is not the integral of its gradient")
    scores, labels, mask, old, reference = (
        values.double() if values.is_floating_point() else values for values in lists
    )
    rankings = sample(loss, old, mask)

    def value(scores: Tensor) -> Tensor:
        if rankings is None:
            return loss(scores, labels, mask)
        return loss(scores, labels, mask, rankings=rankings, old_scores=old, reference_scores=reference)[0]

    assert torch.autograd.gradcheck(value, (scores.requires_grad_(),))


@every_variant
def test_a_list_of_one_label_teaches_a_policy_nothing(loss, lists, evaluate):
    scores, labels, mask, old, reference = lists
    gradient = evaluate(loss, scores, labels, mask, sample(loss, old, mask), old, reference)[1]
    assert (gradient[2] == 0).all()
    assert (gradient[:2].abs().amax(-1) > 1e-4).all()


@every_variant
def test_oracle_4_equal_rewards_give_zero_but_for_the_divergence(loss, lists, evaluate):
    if loss.gradient_estimator == "pl_rank_2" or loss.entropy_coef:
        pytest.skip("it learns from more than the differences of the rewards")
    scores, labels, mask, _, reference = lists
    rankings = sample(loss, scores, mask)
    same = Rankings(rankings.rankings[:, :1].expand_as(rankings.rankings), rankings.position_mask)
    _, gradient, statistics = evaluate(loss, scores, labels, mask, same, scores, reference)
    assert statistics["frac_reward_zero_std"] == 1
    assert (gradient == 0).all() == (loss.beta == 0 or loss.kl_estimator == "k1")
