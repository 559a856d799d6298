"""Search: exact whatever the blocks, ties by the order of the documents, faiss alike, equal on two ranks."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from engines.distributed.testing import run_ranks
from inference.search import (
    BlockSearch,
    ExactIndex,
    FaissIndex,
    InvertedIndex,
    PlaidIndex,
    check_fit,
    check_search,
    index_for,
    pack,
    unpack,
)
from losses.math.similarity import COSINE, DOT, MaxSim, MeanMaxSim, Similarity
from tensors.ragged import Ragged


def _vectors(count: int, seed: int, dim: int = 8) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def _search(queries, documents, depth, *, query_block=2, document_block=7, index=ExactIndex):
    search = BlockSearch(queries, depth, query_block=query_block, similarity=DOT, index=index)
    for block in documents.split(document_block):
        search.add(block)
    return search.result()


@pytest.mark.parametrize("document_block", [1, 3, 7, 1000])
@pytest.mark.parametrize("query_block", [1, 2, 1000])
def test_search_in_blocks_is_exact(query_block, document_block):
    queries, documents = _vectors(5, 0), _vectors(20, 1)
    expected = (queries.double() @ documents.double().T).sort(dim=1, descending=True)
    scores, indices = _search(queries, documents, 6, query_block=query_block, document_block=document_block)
    assert indices.equal(expected.indices[:, :6])
    assert torch.allclose(scores.double(), expected.values[:, :6], atol=1e-5)
    assert _search(queries, documents, 50)[1].shape == (5, 20)


@pytest.mark.parametrize("document_block", [1, 4, 1000])
def test_equal_scores_stand_in_the_order_of_the_documents(document_block):
    documents = torch.tensor([[1.0], [2.0], [1.0], [2.0], [-1.0], [1.0], [-1.0], [2.0]])
    queries = torch.tensor([[1.0], [-1.0], [0.0]])
    _, indices = _search(queries, documents, 5, document_block=document_block)
    assert indices.tolist() == [[1, 3, 7, 0, 2], [4, 6, 0, 2, 5], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("levels", [3, 10**6])
def test_the_best_of_many_documents_are_those_of_a_stable_sort(levels):
    """With few levels of scores more documents are equal to the last of the best than there are places for."""
    documents = _vectors(200, 1, dim=1).mul(levels).round().div(levels)
    queries = torch.tensor([[1.0], [-0.5], [0.0]])
    expected = (queries @ documents.T).sort(dim=1, descending=True, stable=True)
    scores, indices = _search(queries, documents, 6, query_block=3, document_block=100)
    assert indices.equal(expected.indices[:, :6])
    assert scores.equal(expected.values[:, :6])
    nearest, _ = ExactIndex(DOT, documents).nearest(queries[:2], 6)
    assert (nearest.shape[1] == 6) == (levels == 10**6), "the others are dropped if there is no tie"


def test_keys_sort_like_scores_and_give_them_back():
    extremes = torch.tensor([float("-inf"), -3e38, -1.5, -1e-40, 0.0, 1e-40, 0.25, 3e38, float("inf")])
    indices = torch.tensor([0, 2**32 - 1, 5, 6, 7, 8, 2**31, 9, 1])
    keys = pack(extremes, indices)
    assert keys.sort().values.equal(keys)
    scores, back = unpack(keys)
    assert scores.equal(extremes)
    assert back.equal(indices)
    assert pack(torch.tensor([-0.0]), torch.tensor([3])) == pack(torch.tensor([0.0]), torch.tensor([3]))


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss is not installed")
def test_faiss_finds_the_same():
    queries, documents = _vectors(5, 0), _vectors(50, 1)
    scores, indices = _search(queries, documents, 9, index=FaissIndex)
    expected_scores, expected = _search(queries, documents, 9)
    assert indices.equal(expected)
    assert torch.allclose(scores, expected_scores, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is not None, reason="faiss is installed")
def test_missing_faiss_is_said():
    with pytest.raises(ValueError, match=r"eval\.search=faiss needs the package faiss: pip install faiss-cpu"):
        check_search("faiss")


class FastPlaid:
    """In the place of the package, with the arguments and results that it documents: exact, but it finds only documents
    with a positive score."""

    def __init__(self, index: str, device: str):
        self.folder = Path(index)

    def create(self, documents_embeddings, *, kmeans_niters, nbits, seed, start_from_scratch):
        (self.folder / "codes.npy").write_bytes(b"x" * sum(each.numel() * nbits // 8 for each in documents_embeddings))
        assert all(len(each) for each in documents_embeddings), "the package fails on a text without vectors"
        self.documents = documents_embeddings

    def search(self, queries_embeddings, top_k, n_full_scores, show_progress):
        found = []
        for query in queries_embeddings:
            scores = [(query @ each.T).amax(dim=1).sum().item() for each in self.documents]
            order = sorted(range(len(scores)), key=lambda place: -scores[place])
            found.append([(place, scores[place]) for place in order if scores[place] > 0][:top_k])
        return found


@pytest.fixture
def plaid(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("fast_plaid"), ModuleType("fast_plaid.search")
    package.__spec__ = ModuleSpec("fast_plaid", None)
    package.search, module.FastPlaid = module, FastPlaid
    monkeypatch.setitem(sys.modules, "fast_plaid", package)
    monkeypatch.setitem(sys.modules, "fast_plaid.search", module)

    def no_package(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("inference.search.metadata.requires", no_package)


def _token_vectors(sizes: list[int], seed: int) -> Ragged:
    return Ragged(torch.nn.functional.normalize(_vectors(sum(sizes), seed), dim=-1), torch.tensor(sizes))


def test_plaid_ranks_what_it_finds_before_the_rest(plaid: None) -> None:
    queries, documents = _token_vectors([3, 0, 2], 0), _token_vectors([4, 0, 1, 2, 1, 5], 1)
    search = BlockSearch(queries, 6, query_block=2, similarity=MaxSim(), index=index_for("plaid", MaxSim()))
    for part in documents.split([4, 2]):
        search.add(part)
    scores, indices = search.result()
    expected = MaxSim().matrix(queries, documents)
    least = torch.tensor([-3.0, 0.0, -2.0])
    for row in range(3):
        values = expected[row].where(expected[row] > 0, least[row])
        torch.testing.assert_close(scores[row], values[indices[row]])
        torch.testing.assert_close(scores[row], values.sort(descending=True).values)
        assert scores[row].equal(scores[row].sort(descending=True).values), "in order, not only nearly"
    assert (scores == least.unsqueeze(1)).any(), "a document that is not found"
    assert search.facts() == {"bytes": 13 * documents.values.shape[1] // 2}
    with pytest.raises(ValueError, match=r"does not search by meanmaxsim: choose eval\.search=exact"):
        index_for("plaid", MeanMaxSim())


def test_without_plaid_the_search_is_exact(plaid: None, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    check_fit("plaid", [MaxSim()])
    assert not caplog.messages
    monkeypatch.setattr("inference.search.metadata.requires", lambda _: ["joblib>=1", "torch==1.0.0"])
    check_fit("plaid", [MaxSim()])
    monkeypatch.setattr(PlaidIndex, "package", "no_such_package")
    check_fit("plaid", [MaxSim()])
    assert index_for("plaid", MaxSim()) is ExactIndex
    wrong, missing = caplog.messages
    assert "fast-plaid needs torch==1.0.0, and torch is " in wrong
    assert "not installed" in missing
    assert missing.endswith("the search is exact, every document is scored")


def test_an_index_searches_by_the_similarities_that_it_can():
    class Other(Similarity):
        name = "other"
        comparable = pairs = aligned = matrix = likeness = None

    assert [index_for("exact", similarity) for similarity in (COSINE, Other())] == [ExactIndex, ExactIndex]
    assert index_for("faiss", COSINE) is FaissIndex
    with pytest.raises(ValueError, match=r"eval\.search=faiss does not search by other: choose eval\.search=exact"):
        index_for("faiss", Other())


def _on_a_rank(num_queries: int) -> tuple[list, list]:
    scores, indices = _search(_vectors(num_queries, 0), _vectors(40, 1), 9)
    return scores.tolist(), indices.tolist()


@pytest.mark.parametrize("num_queries", [7, 2])
def test_two_ranks_agree_with_one_to_the_last_bit(num_queries):
    """With 2 queries, one block, the second rank has none to search."""
    assert run_ranks(_on_a_rank, 2, num_queries) == [_on_a_rank(num_queries)] * 2


def _sparse_vectors(count: int, seed: int) -> Tensor:
    values = _vectors(count, seed, dim=40)
    return values.where(values > 1.0, torch.zeros_like(values))


@pytest.mark.parametrize("document_block", [3, 1000])
def test_the_inverted_index_finds_what_all_products_find(document_block):
    queries, documents = _sparse_vectors(5, 0), _sparse_vectors(20, 1)
    queries[2], documents[4] = 0, 0
    search = BlockSearch(queries, 6, query_block=2, similarity=DOT, index=InvertedIndex)
    for block in documents.split(document_block):
        search.add(block)
    expected = _search(queries, documents, 6)
    torch.testing.assert_close(search.result()[0], expected[0])
    positive = expected[0] > 0
    assert search.result()[1][positive].equal(expected[1][positive])
    facts = search.facts()
    present = (queries != 0).float() @ (documents != 0).float().T
    assert facts["document_nonzeros"] == (documents != 0).sum(1).float().mean()
    assert facts["query_nonzeros"] == (queries != 0).sum(1).float().mean()
    assert facts["products"] == pytest.approx(present.mean().item())
    assert facts["bytes"] > 8 * (documents != 0).sum()
    assert BlockSearch(queries, 6, query_block=2, similarity=DOT, index=ExactIndex).facts() == {}


def _facts_on_a_rank() -> dict[str, float]:
    search = BlockSearch(_sparse_vectors(5, 0), 6, query_block=2, similarity=DOT, index=InvertedIndex)
    search.add(_sparse_vectors(20, 1))
    return search.facts()


def test_ranks_count_the_same():
    assert run_ranks(_facts_on_a_rank, 2) == [_facts_on_a_rank()] * 2
