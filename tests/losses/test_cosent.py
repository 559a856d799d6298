"""CoSENT and AnglE against sentence-transformers and the sum over pairs as it is written."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from loss_samples import PROJECTED

from losses.cosent import AnglE, CoSENT
from losses.math.similarity import DOT

LABELS = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.0, 9.0], [0.3, 1.0, 0.0]])
MASK = torch.arange(3) < torch.tensor([[3], [2], [3]])


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def pairs(queries, documents):
    """[M, dim], [M, dim], [M]"""
    return queries[MASK.nonzero()[:, 0]], documents[MASK], LABELS[MASK]


@pytest.mark.parametrize("dim", [6, 7])
@pytest.mark.parametrize(("ours", "theirs"), [(CoSENT, "CoSENTLoss"), (AnglE, "AnglELoss")])
def test_sentence_transformers(ours, theirs, dim):
    from sentence_transformers.sentence_transformer import losses

    queries, documents = unit(3, dim).requires_grad_(), unit(3, 3, dim, seed=1).requires_grad_()
    value = ours(temperature=0.05)(queries, documents, LABELS, MASK)
    columns = pairs(queries, documents)
    peer = getattr(losses, theirs)(torch.nn.Identity()).compute_loss_from_embeddings(list(columns[:2]), columns[2])
    torch.testing.assert_close(value, peer, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", [CoSENT(temperature=0.3), AnglE(temperature=None)], ids=["cosent", "angle"])
def test_definition_and_derivative(loss):
    queries, documents = unit(3, 4), unit(3, 3, 4, seed=1)
    weights = torch.tensor([1.0, 0.5, 3.0]).double()
    inputs = {"scale": torch.tensor(2.0).double()} if "scale" in loss.inputs else {}
    scores = loss.compare(*pairs(queries, documents)[:2], DOT) * (2.0 if inputs else 1 / 0.3)
    labels, pair_weights = LABELS[MASK].tolist(), weights[MASK.nonzero()[:, 0]].tolist()
    total = sum(
        pair_weights[a] * pair_weights[b] * math.exp(scores[b] - scores[a])
        for a in range(8)
        for b in range(8)
        if labels[a] > labels[b]
    )

    def value(queries, documents, *scale):
        return loss(queries, documents, LABELS, MASK, weights=weights, **dict(zip(inputs, scale, strict=True)))

    tensors = tuple(tensor.clone().requires_grad_() for tensor in (queries, documents, *inputs.values()))
    assert value(*tensors).item() == pytest.approx(math.log1p(total))
    assert torch.autograd.gradcheck(value, tensors, **PROJECTED)


def test_a_weight_of_zero_removes_a_query():
    queries, documents = unit(3, 4), unit(3, 3, 4, seed=1)
    light = CoSENT()(queries, documents, LABELS, MASK, weights=torch.tensor([1.0, 0.0, 1.0]))
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(light, CoSENT()(queries[kept], documents[kept], LABELS[kept], MASK[kept]))


@pytest.mark.parametrize("labels", [torch.ones(3, 3), torch.zeros(3, 3)])
def test_labels_that_do_not_differ_are_zero(labels):
    queries = unit(3, 4).requires_grad_()
    for mask in (MASK, MASK & False):
        value = CoSENT()(queries, unit(3, 3, 4), labels, mask)
        assert value == 0
        assert not torch.autograd.grad(value, queries)[0].any()


def test_options():
    assert CoSENT(temperature=None).inputs == ("similarity", "scale")
    assert AnglE(temperature=None).inputs == ("scale",)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        AnglE(temperature=0.0)
