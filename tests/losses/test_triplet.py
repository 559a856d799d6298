"""Triplet losses against sentence-transformers and a slow loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from loss_samples import PROJECTED

from losses.triplet import Triplet


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.mark.parametrize(
    ("distance", "margin"), [("cosine", 0.4), ("euclidean", 1.0), ("manhattan", 1.0), ("euclidean", 5.0)]
)
def test_sentence_transformers(distance, margin):
    from sentence_transformers.sentence_transformer.losses import TripletLoss
    from sentence_transformers.sentence_transformer.losses.triplet import TripletDistanceMetric

    queries, documents = unit(8, 6).requires_grad_(), unit(8, 2, 6, seed=1)
    labels = torch.tensor([1, 0]).expand(8, 2)
    ours = Triplet(distance=distance, margin=margin, mask_duplicates=False)(queries, documents, labels, labels >= 0)
    metric = getattr(TripletDistanceMetric, distance.upper())
    peer = TripletLoss(torch.nn.Identity(), distance_metric=metric, triplet_margin=margin)
    theirs = peer.compute_loss_from_embeddings([queries, *documents.unbind(1)], None)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("in_batch", ["none", "positives", "all"])
@pytest.mark.parametrize("negatives", ["all", "hardest", "semi_hard"])
@pytest.mark.parametrize("margin", [None, 0.3])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
def test_definition_and_derivative(distance, margin, negatives, in_batch):
    queries, documents = unit(4, 5), unit(4, 4, 5, seed=1)
    labels = torch.tensor([[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    mask = torch.arange(4) < torch.tensor([[4], [3], [2], [1]])
    keys = torch.arange(16).reshape(4, 4)
    keys[1, 0] = keys[0, 1]
    keys[0, 3] = keys[0, 0]  # a copy of the own positive among the negatives
    weights = torch.tensor([1.0, 2.0, 3.0, 0.5]).double()
    metric = {
        "cosine": lambda a, b: 1 - float(a @ b),
        "euclidean": lambda a, b: float((a - b).square().sum().sqrt()),
        "manhattan": lambda a, b: float((a - b).abs().sum()),
    }[distance]
    never = [(0, (3, 0)), (1, (0, 2)), (1, (1, 2)), (2, (0, 0))]
    total = 0.0
    for i in (0, 1, 3):
        own = {int(keys[i, k]) for k in range(4) if mask[i, k] and labels[i, k] > 0}
        own |= {int(keys[cell]) for j, cell in never if i == j}
        values = []
        for positive in (k for k in range(4) if mask[i, k] and labels[i, k] > 0):
            reach = metric(queries[i], documents[i, positive])
            far = [
                metric(queries[i], documents[j, k])
                for j, k in mask.nonzero().tolist()
                if int(keys[j, k]) not in own
                and (j == i or in_batch == "all" or (in_batch == "positives" and labels[j, k] > 0))
            ]
            far = [d for d in far if negatives != "semi_hard" or d > reach]
            far = far if negatives == "all" else sorted(far)[:1]
            terms = [max(0, reach - d + margin) if margin else math.log1p(math.exp(reach - d)) for d in far]
            values.append(sum(terms) / max(1, len(terms)))
        total += float(weights[i]) * sum(values) / len(values)
    loss = Triplet(distance=distance, margin=margin, negatives=negatives, in_batch=in_batch)

    def value(queries, documents):
        inputs = {"query_hashes": torch.arange(4), "document_hashes": keys}
        inputs["never_negatives"] = torch.tensor([(i, int(keys[cell])) for i, cell in never])
        return loss(queries, documents, labels, mask, weights=weights, **inputs)

    assert float(value(queries, documents)) == pytest.approx(total / 3)
    assert torch.autograd.gradcheck(value, (queries.requires_grad_(), documents.requires_grad_()), **PROJECTED)


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "manhattan"])
@pytest.mark.parametrize("negatives", ["all", "hardest", "semi_hard"])
def test_no_negatives_no_documents_and_a_document_equal_to_its_query(distance, negatives):
    queries = unit(3, 4).requires_grad_()
    documents = queries.detach().unsqueeze(1).repeat(1, 2, 1)
    loss = Triplet(distance=distance, negatives=negatives, mask_duplicates=False)
    for labels, mask in (([1, 0], [True, True]), ([1, 1], [True, True]), ([1, 0], [False, False])):
        labels, mask = (torch.tensor(row).expand(3, 2) for row in (labels, mask))
        value = loss(queries, documents, labels, mask)
        (gradient,) = torch.autograd.grad(value, queries)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert value == 0 or (mask.all() and not labels.all())


def test_options():
    assert Triplet().data_requirements == ("relevance",)
    assert Triplet(in_batch="all").data_requirements == ("positive",)
    for options in ({"distance": "chebyshev"}, {"margin": math.inf}, {"negatives": "easy"}, {"in_batch": "yes"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Triplet(**options)
