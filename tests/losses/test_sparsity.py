"""The sparsity penalties: their definition, what they count, sentence-transformers' FLOPS."""

from __future__ import annotations

import pytest
import torch

from losses.sparsity import Sparsity


@pytest.fixture
def texts():
    queries = torch.randn(3, 7).relu()
    documents = torch.randn(3, 2, 7).relu()
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    documents[~mask] = torch.nan
    return queries, documents, torch.zeros(3, 2), mask


@pytest.mark.parametrize("weights", [None, torch.tensor([2.0, 0.5, 7.0])])
def test_flops_and_l1_of_the_texts_of_each_role(texts, weights):
    queries, documents, _, mask = texts
    one = torch.ones(3) if weights is None else weights
    of_role = {
        "query": (queries[:2], one[:2]),  # the third list is padding
        "document": (documents[mask], one[torch.tensor([0, 0, 1])]),
    }
    for roles in (["query"], ["document"], ["query", "document"]):
        weighted = [rows * factor.unsqueeze(1) for rows, factor in (of_role[role] for role in roles)]
        flops = sum(rows.mean(0).square().sum() for rows in weighted)
        l1 = sum(rows.sum(1).mean() for rows in weighted)
        nonzeros = torch.stack([(of_role[role][0] > 0).sum(1).float().mean() for role in roles]).mean()
        for form, expected in (("flops", flops), ("l1", l1)):
            value, found = Sparsity(form, tuple(roles))(*texts, weights=weights)
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(found["nonzeros"], nonzeros)


def test_flops_are_those_of_sentence_transformers(texts):
    losses = pytest.importorskip("sentence_transformers.sparse_encoder.losses")
    queries, documents, labels, mask = texts
    value, _ = Sparsity(roles=("document",))(queries, documents, labels, mask)
    expected = losses.FlopsLoss(model=None).compute_loss_from_embeddings(documents[mask])
    torch.testing.assert_close(value, expected)


def test_a_zero_gets_no_gradient(texts):
    queries = texts[0].requires_grad_()
    for form in ("flops", "l1"):
        value, _ = Sparsity(form, ("query",))(queries, *texts[1:])
        (gradient,) = torch.autograd.grad(value, queries)
        assert ((gradient != 0) == (queries > 0))[:2].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "l0"}, "form='l0' is not known; choose one of: flops, l1"),
        ({"roles": ()}, r"roles=\[\] must be one or more of: query, document"),
        ({"roles": ("title",)}, "roles='title' is not known"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sparsity(**options)


def test_flops_are_of_all_texts_and_not_a_mean_over_parts_of_a_step(texts):
    """Lists of a step that were penalised part by part would have another gradient."""
    queries, *_ = texts
    given = torch.zeros(3, 1, 7), torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool)
    rows = queries.requires_grad_()
    penalty = Sparsity(roles=("query",))
    (whole,) = torch.autograd.grad(penalty(rows, *given)[0], rows)
    parts = [penalty(row, *(part[:1] for part in given))[0] for row in rows.split(1)]
    (mean,) = torch.autograd.grad(torch.stack(parts).mean(), rows)
    assert (whole - mean).norm() > 0.1 * whole.norm()
