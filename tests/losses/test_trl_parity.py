"""Preference losses against TRL 1.16: its trainers' own loss computations, on log-probabilities given to them.

A trainer is made without its constructor and given the attributes that its loss reads; a stand-in for the model returns
the log-probabilities. TRL's log-probability of a completion is a document's score here (for ORPO and KTO, which are
about probabilities, logsigmoid of the score). Value and gradient agree to 1e-5.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from losses.kto import KTO
from losses.math.answers import two_token_kl
from losses.preference import DPO, IPO, ORPO, BradleyTerry, ConservativeDPO, Hinge, RobustDPO, SimPO

NUM_PAIRS = 6


@cache
def trl(path: str):
    """A class of TRL, which takes seconds to import: only when a test asks for it."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"trl.{module}"), name)


def trainer(path: str, **attributes):
    made = object.__new__(trl(path))
    gathers = {"gather": lambda value: value, "gather_for_metrics": lambda value: value}
    made.__dict__ |= {
        "accelerator": SimpleNamespace(device=torch.device("cpu"), **gathers),
        "model": SimpleNamespace(training=True),
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
        **attributes,
    }
    return made


def outputs(log_probs: torch.Tensor) -> SimpleNamespace:
    """What TRL's models return, of rows [rows] with one token of completion; the rest goes into metrics alone."""
    column = log_probs.unsqueeze(-1)
    same = torch.zeros_like(column)
    return SimpleNamespace(log_probs=column, entropy=same, mean_logits=same, is_top1=same > 0)


@pytest.fixture
def pairs():
    """(scores, reference), each [pairs, 2], chosen first; margins of several units, either way."""
    generator = torch.Generator().manual_seed(0)
    scores, reference = 3 * torch.randn(2, NUM_PAIRS, 2, generator=generator)
    return scores.requires_grad_(), reference


def ours(loss, scores, reference):
    labels = torch.tensor([1.0, 0.0]).expand_as(scores)
    inputs = {"reference_scores": reference} if loss.inputs else {}
    return loss(scores, labels, labels >= 0, **inputs)


def assert_equal(own, theirs, scores):
    assert abs(theirs.item()) > 0.01
    torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(value, scores)[0] for value in (own, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    assert gradients[0].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("loss_type", "loss"),
    [("sigmoid", DPO(0.3)), ("ipo", IPO(0.3)), ("hinge", Hinge(0.3)), ("robust", RobustDPO(0.3, 0.2))],
)
def test_dpo_trainer(loss_type, loss, pairs):
    scores, reference = pairs
    dpo = trainer(
        "trainer.dpo_trainer.DPOTrainer",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=loss.beta,
        label_smoothing=getattr(loss, "label_smoothing", 0.0),
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
    )
    rows = torch.ones(2 * NUM_PAIRS, 2, dtype=torch.long)
    inputs = {
        "input_ids": rows,
        "attention_mask": rows,
        "completion_mask": torch.tensor([0, 1]).expand_as(rows),
        "ref_chosen_logps": reference[:, 0],
        "ref_rejected_logps": reference[:, 1],
    }
    theirs = dpo._compute_loss(lambda **_: outputs(scores.T.flatten()), inputs, return_outputs=False)
    assert_equal(ours(loss, scores, reference), theirs, scores)


def test_kto_trainer(pairs):
    """One document a list. Its estimate of the divergence is replaced by the exact one, whose mean is the same."""
    scores, reference = (values.flatten() for values in pairs)
    labels = torch.arange(2 * NUM_PAIRS) % 3 == 0
    loss = KTO(beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
    divergence = two_token_kl(scores.detach(), reference)
    kto = trainer(
        "trainer.kto_trainer.KTOTrainer",
        loss_type="kto",
        beta=loss.beta,
        desirable_weight=loss.desirable_weight,
        undesirable_weight=loss.undesirable_weight,
        calculate_KL=True,
        _compute_kl_logps=lambda model, batch: divergence,
    )
    rows = torch.ones(len(labels), 2, dtype=torch.long)
    inputs = {
        "input_ids": rows,
        "attention_mask": rows,
        "completion_mask": torch.tensor([0, 1]).expand_as(rows),
        "label": labels,
        "ref_logps": F.logsigmoid(reference),
        "ref_KL_logps": torch.zeros_like(divergence),
    }
    theirs = kto._compute_loss(lambda **_: outputs(F.logsigmoid(scores)), inputs, return_outputs=False)
    one_each = (scores[:, None], labels[:, None].float(), torch.ones(len(labels), 1, dtype=torch.bool))
    assert_equal(loss(*one_each, reference_scores=reference[:, None]), theirs, pairs[0])


def test_orpo_trainer(pairs):
    scores, _ = pairs
    chosen, rejected = F.logsigmoid(scores).unbind(-1)
    unused = torch.zeros(1)
    orpo = trainer(
        "experimental.orpo.ORPOTrainer",
        beta=0.4,
        concatenated_forward=lambda model, batch: (chosen, rejected, unused, unused, -chosen.mean()),
    )
    theirs, _ = orpo.get_batch_loss_metrics(None, {})
    assert_equal(ours(ORPO(0.4), scores, None), theirs, scores)


@pytest.mark.parametrize(
    ("loss_type", "loss"),
    [("simpo", SimPO(1.5, 0.6)), ("sigmoid", ConservativeDPO(0.3, 0.2)), ("hinge", Hinge(0.3)), ("ipo", IPO(0.3))],
)
def test_cpo_trainer(loss_type, loss, pairs):
    """CPO has no reference: the log-ratios to it are given in place of the log-probabilities."""
    scores, reference = pairs
    cpo = trainer(
        "experimental.cpo.CPOTrainer",
        loss_type=loss_type,
        beta=loss.beta,
        label_smoothing=getattr(loss, "label_smoothing", 0.0),
        simpo_gamma=getattr(loss, "gamma", 0.0),
        alpha=0.0,
    )
    log_ratios = scores - reference if loss.inputs else scores
    theirs = cpo.cpo_loss(*log_ratios.unbind(-1))[0].mean()
    assert_equal(ours(loss, scores, reference), theirs, scores)


@pytest.mark.parametrize("margin", [0.0, 0.8])
def test_reward_trainer(margin, pairs):
    scores, _ = pairs
    options = SimpleNamespace(center_rewards_coefficient=None)
    reward = trainer("trainer.reward_trainer.RewardTrainer", args=options)
    inputs = {"attention_mask": torch.ones(2 * NUM_PAIRS, 2), "margin": torch.full((NUM_PAIRS,), margin)}
    theirs = reward.compute_loss(lambda **_: SimpleNamespace(logits=scores.T.reshape(-1, 1)), inputs)
    assert_equal(ours(BradleyTerry(margin), scores, None), theirs, scores)
