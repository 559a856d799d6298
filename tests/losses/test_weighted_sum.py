"""Weighted sums: the parts' values and gradients, schedules, what is logged and refused, and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from running import run_to_the_end

from launch.cli.compose import load
from losses.contracts import LossInputs, MatrixLoss, compute_loss, input_names, requirements
from losses.math.schedules import Schedule
from losses.policies.ranking_policy import PlackettLuceGRPO
from losses.preference import DPO, BradleyTerry
from losses.softmax_cross_entropy import SoftmaxCrossEntropy
from losses.weighted_sum import Term, WeightedSum


@dataclass(frozen=True)
class Alignment(MatrixLoss):
    """A loss of embeddings: minus the mean similarity of queries and first documents, half of it with a statistic."""

    def __call__(self, queries, documents, labels, mask, **inputs):
        value = -(queries * documents[:, 0]).sum(-1).mean()
        return value, {"similarity": -value.detach()}


@pytest.fixture
def lists() -> LossInputs:
    """Two lists of embeddings in float64; the second has no pair, so that the terms' denominators differ."""
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(2, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    return LossInputs(
        labels=torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
        mask=torch.tensor([[True, True, True], [True, True, False]]),
        queries=queries.double().requires_grad_(),
        documents=documents.double().requires_grad_(),
        reference_scores=torch.randn(2, 3, generator=generator).double(),
    )


def gradients(value, lists):
    return torch.autograd.grad(value, (lists.queries, lists.documents))


def test_value_and_gradient_are_the_parts_whatever_their_contract(lists):
    parts = {"rank": (BradleyTerry(), 0.5), "dpo": (DPO(0.3), 2.0), "align": (Alignment(), -0.25)}
    total, statistics = compute_loss(WeightedSum({name: Term(*part) for name, part in parts.items()}), lists)
    alone = {name: (weight, compute_loss(loss, lists)[0]) for name, (loss, weight) in parts.items()}
    torch.testing.assert_close(total, sum(weight * value for weight, value in alone.values()))
    each = [(weight, gradients(value, lists)) for weight, value in alone.values()]
    expected = tuple(sum(weight * gradient[i] for weight, gradient in each) for i in range(2))
    torch.testing.assert_close(gradients(total, lists), expected)
    assert set(statistics) == {"loss/rank", "loss/dpo", "loss/align", "align/similarity"}
    for name, (_, value) in alone.items():
        torch.testing.assert_close(statistics[f"loss/{name}"], value.detach())
        assert not statistics[f"loss/{name}"].requires_grad


def test_schedules_multiply_the_weight(lists):
    fading = Term(BradleyTerry(), 0.5, Schedule(initial=1.0, final=0.0, start=0.5))
    sum_ = WeightedSum({"fading": fading, "plain": Term(SoftmaxCrossEntropy())})
    for progress, weight in ((0.0, 0.5), (0.5, 0.5), (0.75, 0.25), (1.0, 0.0)):
        total, statistics = compute_loss(sum_, replace(lists, progress=progress))
        assert statistics["weight/fading"].item() == weight
        assert "weight/plain" not in statistics
        torch.testing.assert_close(total, weight * statistics["loss/fading"] + statistics["loss/plain"])
    (at_end,) = torch.autograd.grad(total, lists.queries, retain_graph=True)
    (alone,) = torch.autograd.grad(compute_loss(SoftmaxCrossEntropy(), lists)[0], lists.queries)
    torch.testing.assert_close(at_end, alone)


def test_a_sum_within_a_sum(lists):
    inner = WeightedSum({"a": Term(BradleyTerry(), 3.0), "b": Term(DPO())})
    total, statistics = compute_loss(WeightedSum({"outer": Term(inner, 2.0)}), lists)
    torch.testing.assert_close(total, 2 * compute_loss(inner, lists)[0])
    assert set(statistics) == {"loss/outer", "outer/loss/a", "outer/loss/b"}


def test_needs_and_inputs_are_those_of_the_terms(lists):
    sum_ = WeightedSum({"dpo": Term(DPO()), "cross_entropy": Term(SoftmaxCrossEntropy())})
    assert requirements(sum_) == {"comparison", "positive", "several"}
    assert input_names(sum_) == ("reference_scores",)
    with pytest.raises(ValueError, match="loss DPO needs reference_scores, which this run does not have"):
        compute_loss(sum_, replace(lists, reference_scores=None))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "^terms is empty: give at least one"),
        ({"a": Term(PlackettLuceGRPO())}, "^terms.a.loss=PlackettLuceGRPO is a policy .* trainer=grpo$"),
        ({"a": Term({"beta": 1})}, "^terms.a.loss={'beta': 1} is not a loss"),
        ({"a": Term(DPO(), float("nan"))}, "^terms.a.weight must be a finite number"),
    ],
)
def test_what_is_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        WeightedSum(terms)


def composed(*overrides: str):
    return load(["trainer=ranking", *overrides]).loss


def test_a_sum_is_made_on_the_command_line():
    loss = composed(
        "loss=weighted_sum",
        "loss@loss.terms.main.loss=bradley_terry",
        "loss.terms.main.loss.margin=1",
        "+loss@loss.terms.sft.loss=softmax_cross_entropy",
        "loss.terms.sft.weight=0.5",
        "loss.terms.sft.schedule={initial: 1, final: 0, start: 0.25}",
    )
    fading = Schedule(initial=1.0, final=0.0, start=0.25)
    assert loss == WeightedSum({"main": Term(BradleyTerry(1.0)), "sft": Term(SoftmaxCrossEntropy(), 0.5, fading)})


def test_terms_are_replaced_and_taken_away():
    node = "{_target_: losses.preference.DPO, beta: 2}"
    assert composed("loss=weighted_sum", f"loss.terms.main.loss={node}").terms == {"main": Term(DPO(2.0))}
    left = composed("loss=dpo_and_cross_entropy", "~loss.terms.cross_entropy", "loss.terms.dpo.weight=2")
    assert left.terms == {"dpo": Term(DPO(), 2.0)}
    shaped = composed("loss=weighted_sum", "loss.terms.main.schedule.shape=cosine").terms["main"].schedule
    assert shaped == Schedule("cosine")


def test_a_sum_in_a_file_of_ones_own(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(
        "_target_: losses.weighted_sum.WeightedSum\n"
        "defaults:\n  - /loss@terms.dpo.loss: dpo\n  - _self_\n"
        "terms:\n"
        "  dpo: {weight: 0.5, loss: {beta: 0.3}}\n"
        "  pairs: {loss: {_target_: losses.preference.BradleyTerry}, schedule: {end: 0.5}}\n"
    )
    loss = load(["trainer=ranking", "loss=mine"], config_dir=tmp_path).loss
    assert loss.terms == {"dpo": Term(DPO(0.3), 0.5), "pairs": Term(BradleyTerry(), schedule=Schedule(end=0.5))}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.terms.main.wieght=1", "loss.terms.main.wieght is not an option: did you mean weight? valid: loss,"),
        ("loss.terms.main.loss.temprature=1", "loss.terms.main.loss.temprature is not an option: did you mean temp"),
        ("loss.terms.main.schedule.finl=1", "loss.terms.main.schedule.finl is not an option: did you mean final?"),
        ("loss.terms.other.weight=1", "loss.terms.other.loss is not set"),
        ("loss.terms.main.weight=much", "loss.terms.main.weight='much' is not a number"),
        ("loss.terms.main.schedule.end=2", "loss.terms.main.schedule: end must be at most 1"),
        ("+loss@loss.terms.more.loss=plackett_luce_grpo", "loss: terms.more.loss=PlackettLuceGRPO is a policy"),
        ("+loss@loss.terms.more.loss=dpoo", "loss=dpoo is not a choice: did you mean dpo? valid:"),
    ],
)
def test_mistakes_are_one_line(setting, message):
    with pytest.raises(ValueError) as error:
        composed("loss=weighted_sum", setting)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_run_logs_every_term_and_the_scheduled_weight(tiny_run):
    lines, _ = run_to_the_end(
        [
            *tiny_run,
            "trainer=ranking",
            "model.dropout=0",
            "loss=dpo_and_cross_entropy",
            "loss.terms.cross_entropy.schedule={initial: 1, final: 0}",
            "trainer.max_steps=4",
            "trainer.log_every=1",
        ]
    )
    lines = [line for line in lines if line["split"] == "train"]
    assert len(lines) == 4
    assert [line["weight/cross_entropy"] for line in lines] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    for line in lines:
        total = line["loss/dpo"] + line["weight/cross_entropy"] * line["loss/cross_entropy"]
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    assert lines[0]["loss/dpo"] == pytest.approx(math.log(2))
