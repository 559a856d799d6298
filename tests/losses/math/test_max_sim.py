"""MaxSim equals its definition in value and gradient, tile by tile, and holds no product of all tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import losses.math.max_sim
from engines.memory.live_bytes import LiveBytes
from losses.cosent import CoSENT
from losses.info_nce import InfoNCE
from losses.inputs import LossInputs
from losses.math.max_sim import max_sim_matrix, max_sim_pairs
from losses.math.similarity import MaxSim, MeanMaxSim, similarity_named
from losses.siglip import SigLIP
from losses.triplet import Triplet
from tensors.ragged import Ragged, place


def vectors(sizes: list[int], dim: int = 6, seed: int = 0) -> Ragged:
    values = torch.randn(sum(sizes), dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Ragged(values.requires_grad_(), torch.tensor(sizes))


def definition(query: Ragged, document: Ragged) -> Tensor:
    if 0 in (len(query.values), len(document.values)):
        return query.values.sum() * 0
    return (query.values @ document.values.T).max(dim=1).values.sum()


def gradients(scores: Tensor, *rows: Ragged) -> tuple[Tensor, ...]:
    weights = torch.randn(scores.shape, dtype=scores.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((scores * weights).sum(), [each.values for each in rows], retain_graph=True)


TEXTS = (8, 32), (128, 180)  # queries and documents: their number, and the tokens of each
QUERIES, DOCUMENTS = [3, 0, 5, 3, 0], [4, 9, 0, 1, 4, 2, 9]


@pytest.mark.parametrize("limit", [1, 60, 10**9])  # one pair at a time, several tiles, one
def test_values_and_gradients_are_those_of_the_definition(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.math.max_sim.ELEMENTS_PER_TILE, "cpu", limit)
    queries, documents = vectors(QUERIES), vectors(DOCUMENTS, seed=2)
    expected = torch.stack([torch.stack([definition(query, document) for document in documents]) for query in queries])
    owner = torch.tensor([0, 2, 2, 1, 3, 0, 2])
    pairs = expected[owner, torch.arange(len(owner))]
    for found, wanted in (
        (max_sim_matrix(queries, documents), expected),
        (max_sim_pairs(queries, documents, owner), pairs),
    ):
        assert torch.allclose(found, wanted)
        own, other = gradients(found, queries, documents), gradients(wanted, queries, documents)
        assert all(torch.allclose(mine, theirs) for mine, theirs in zip(own, other, strict=True))


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    query = Ragged(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    document = Ragged(torch.tensor([[0.0, 1.0], [2.0, 0.0], [2.0, 5.0]]).requires_grad_(), torch.tensor([3]))
    max_sim_matrix(query, document).sum().backward()
    assert document.values.grad is not None
    assert document.values.grad.tolist() == [[0, 0], [1, 0], [0, 0]]


def test_memory_is_that_of_the_vectors_and_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.math.max_sim.ELEMENTS_PER_TILE, "cpu", 2**16)
    rows = [Ragged(torch.randn(n * length, 128).requires_grad_(), torch.full((n,), length)) for n, length in TEXTS]
    size = sum(each.values.nbytes for each in rows)
    with LiveBytes([each.values for each in rows]) as live:
        scores = max_sim_matrix(*rows).sum()
        forward = live.peak
        scores.backward()
    assert size + forward < 1.1 * size
    assert size + live.peak < 1.3 * 2 * size


def test_no_rows_at_all() -> None:
    queries, documents = vectors([2, 1]), vectors([])
    assert max_sim_matrix(queries, documents).shape == (2, 0)
    assert max_sim_pairs(queries, documents, torch.empty(0, dtype=torch.int64)).shape == (0,)
    assert max_sim_matrix(vectors([]), vectors([3])).shape == (0, 1)


def test_the_similarity() -> None:
    similarity = similarity_named("maxsim")
    assert isinstance(similarity, MaxSim)
    queries, documents = vectors([3, 5]), vectors([4, 9, 1, 2, 0, 3], seed=2)
    lists = Ragged(documents.values, documents.sizes.view(2, 3))
    matrix = similarity.matrix(queries, documents)
    assert torch.allclose(similarity.pairs(queries, lists), torch.stack([matrix[0, :3], matrix[1, 3:]]))
    assert torch.allclose(similarity.pairs(queries[1], documents), matrix[1])
    assert torch.allclose(similarity.aligned(queries, documents[[2, 5]]), matrix[[0, 1], [2, 5]])
    expanded = queries.unsqueeze(1).expand_as(lists)
    assert torch.allclose(similarity.aligned(expanded, lists), similarity.pairs(queries, lists))
    mean = MeanMaxSim()
    assert torch.allclose(mean.matrix(queries, documents), matrix / torch.tensor([[3.0], [5.0]]))
    assert torch.allclose(mean.pairs(queries, lists), similarity.pairs(queries, lists) / torch.tensor([[3.0], [5.0]]))
    cut = similarity.comparable(queries, 2)
    assert cut.shape == (2, 2)
    assert torch.allclose(cut.values.norm(dim=-1), torch.ones(8, dtype=torch.float64))
    raw = similarity.of_cut(normalize=False).comparable(queries, 2)
    assert raw.values.equal(queries.values[:, :2])


BOTH = ("query_to_doc", "doc_to_query")


@pytest.mark.parametrize("loss", [InfoNCE(), InfoNCE(directions=BOTH), SigLIP(), Triplet()])
def test_matrix_losses_compare_token_vectors(loss: InfoNCE | SigLIP | Triplet) -> None:
    """A text of one token is a dense embedding: the losses must agree, in value and gradient, also in tiles."""
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    queries, documents = vectors([1, 1]), vectors([1] * 5, seed=2)
    inputs = {"query_hashes": torch.arange(2), "document_hashes": torch.arange(6).view(2, 3)}
    inputs |= {"scale": torch.tensor(2.0), "bias": torch.tensor(-1.0)}
    chosen = {name: value for name, value in inputs.items() if name in loss.inputs}
    dense = loss(queries.values, place(documents.values, mask), labels, mask, **chosen)
    ragged = loss(queries, place(documents, mask), labels, mask, similarity=MaxSim(), **chosen)
    assert torch.allclose(dense, ragged)
    for mine, theirs in zip(gradients(ragged, queries, documents), gradients(dense, queries, documents), strict=True):
        assert torch.allclose(mine, theirs)


def test_a_document_finds_queries_by_the_score_of_each_query() -> None:
    """Of several tokens on both sides, where MaxSim of exchanged sides is another number."""
    queries, documents = vectors([3, 2]), vectors([4, 7], seed=2)
    loss = InfoNCE(temperature=1.0, directions=("doc_to_query",), mask_duplicates=False)
    ones = torch.ones(2, 1)
    found = loss(queries, place(documents, ones > 0), ones, ones > 0, similarity=MaxSim())
    scores = torch.stack([torch.stack([definition(query, document) for query in queries]) for document in documents])
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(2))
    assert torch.allclose(found, expected)
    for mine, theirs in zip(gradients(found, queries, documents), gradients(expected, queries, documents), strict=True):
        assert torch.allclose(mine, theirs)


@pytest.mark.parametrize("direction", ["query_to_query", "doc_to_doc"])
def test_texts_of_one_role_are_not_compared(direction: str) -> None:
    ones, queries = torch.ones(2, 1), vectors([3, 2])
    loss = InfoNCE(directions=("query_to_doc", direction), mask_duplicates=False)
    with pytest.raises(ValueError, match=rf"^{direction} compares texts of one role, and maxsim .*=\[query_to_doc\]"):
        loss(queries, place(vectors([4, 7]), ones > 0), ones, ones > 0, similarity=MaxSim())


def test_list_scores_and_cosent() -> None:
    labels, mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[True, True], [True, False]])
    queries, documents = vectors([3, 2]), vectors([4, 1, 2], seed=2)
    lists = place(documents, mask)
    inputs = LossInputs(labels=labels, mask=mask, queries=queries, documents=lists, similarity=MaxSim())
    scores = inputs.list_scores()
    assert torch.allclose(scores[0], torch.stack([definition(queries[0], documents[i]) for i in (0, 1)]))
    assert scores[1, 1].item() == 0
    assert torch.isfinite(CoSENT()(queries, lists, labels, mask, similarity=MaxSim()))
