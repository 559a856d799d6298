"""Similarities: what they compare with what, unit length, names; losses use the one in their inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from losses.contracts import LossInputs, compute_loss
from losses.cosent import CoSENT
from losses.info_nce import InfoNCE
from losses.math.similarity import COSINE, DOT, DotProduct, MaxSim, MeanMaxSim, similarity_named
from losses.matryoshka import Matryoshka
from losses.siglip import SigLIP
from losses.softmax_cross_entropy import SoftmaxCrossEntropy
from losses.triplet import Triplet
from tensors.ragged import Ragged

QUERIES = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
DOCUMENTS = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [6.0, 8.0]], [[1.0, 1.0], [-1.0, 0.5], [0.0, 0.0]]])


@pytest.mark.parametrize("similarity", [DOT, COSINE])
def test_pairs_aligned_and_matrix_are_the_same_dot_products(similarity):
    pairs = [[3.0, 4.0, 50.0], [2.0, 1.0, 0.0]]
    assert similarity.pairs(QUERIES, DOCUMENTS).tolist() == pairs
    assert [similarity.pairs(query, own).tolist() for query, own in zip(QUERIES, DOCUMENTS, strict=True)] == pairs
    assert similarity.aligned(QUERIES, DOCUMENTS[:, 0]).tolist() == [3.0, 2.0]
    assert similarity.matrix(QUERIES, DOCUMENTS.flatten(0, 1)).diagonal(3).tolist() == [7.0, 1.0]
    assert similarity.pairs(QUERIES[0], DOCUMENTS[0, []]).shape == (0,)


def test_cosine_makes_unit_length_of_what_is_cut():
    cut = COSINE.comparable(torch.tensor([[3.0, 4.0, 12.0]]).bfloat16(), dim=2)
    assert cut.dtype == torch.float32
    assert torch.allclose(cut, torch.tensor([[0.6, 0.8]]))
    assert torch.allclose(COSINE.comparable(DOCUMENTS[0, 2:]).norm(dim=-1), torch.ones(1))
    assert DOT.comparable(DOCUMENTS, dim=1).equal(DOCUMENTS[..., :1])
    assert DOT.comparable(DOCUMENTS).equal(DOCUMENTS)


def test_names():
    assert (similarity_named("cosine"), similarity_named("dot")) == (COSINE, DOT)
    with pytest.raises(ValueError, match="'euclidean' is not known; choose one of: dot, cosine, maxsim, meanmaxsim"):
        similarity_named("euclidean")


@dataclass(frozen=True)
class Negated(DotProduct):
    """-q.d"""

    def pairs(self, queries: Tensor, documents: Tensor) -> Tensor:
        return -super().pairs(queries, documents)

    def aligned(self, queries: Tensor, documents: Tensor) -> Tensor:
        return -super().aligned(queries, documents)

    def matrix(self, queries: Tensor, documents: Tensor) -> Tensor:
        return -super().matrix(queries, documents)


@pytest.mark.parametrize(
    "loss",
    [
        InfoNCE(mask_duplicates=False),
        SigLIP(mask_duplicates=False),
        Triplet(mask_duplicates=False),
        CoSENT(),
        SoftmaxCrossEntropy(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_losses_compare_by_the_similarity_that_they_are_given(loss):
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    queries, documents = COSINE.comparable(QUERIES), COSINE.comparable(DOCUMENTS)
    lists = LossInputs(labels=labels, mask=labels >= 0, queries=queries, documents=documents)
    by_dot_product, by_other = compute_loss(loss, lists)[0], compute_loss(loss, replace(lists, similarity=Negated()))[0]
    assert by_other == compute_loss(loss, replace(lists, queries=-queries))[0]
    assert by_other != by_dot_product


def test_likeness_of_documents_is_the_same_in_both_directions():
    values = COSINE.comparable(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))
    rows = Ragged(2 * values, torch.tensor([2, 3, 0, 4]))
    for similarity in (MaxSim(), MeanMaxSim()):
        found = similarity.likeness(rows, rows)
        torch.testing.assert_close(found, found.T)
        torch.testing.assert_close(found.diagonal(), torch.tensor([1.0, 1.0, 0.0, 1.0]))
        products = values[:2] @ values[2:5].T
        mean = (products.amax(dim=1).mean() + products.amax(dim=0).mean()) / 2
        torch.testing.assert_close(found[0, 1], mean)
    torch.testing.assert_close(DOT.likeness(3 * values, values), values @ values.T)


def test_matryoshka_cuts_by_the_similarity_that_it_trains():
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    lists = LossInputs(labels=labels, mask=labels >= 0, queries=QUERIES, documents=DOCUMENTS)
    cosine, dot = (
        Matryoshka(CoSENT(), dims=(1,), normalize=normalize).truncate(lists, 1) for normalize in (True, False)
    )
    assert cosine.list_scores().tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert dot.list_scores().tolist() == [[3.0, 0.0, 18.0], [0.0, 0.0, 0.0]]
