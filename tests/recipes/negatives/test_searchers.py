"""Searchers: BM25 as data.bm25 searches, vectors as a whole matrix would, both fused as evaluation.fusion does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.bm25 import BM25
from data.sampling.never_rows import CorpusTexts
from engines.distributed.testing import run_ranks
from evaluation.fusion import fuse
from inference import vector_search
from inference.vector_files import block_slices
from losses.math.similarity import COSINE
from recipes.negatives import searchers
from recipes.negatives.searchers import BM25Searcher, HybridSearcher, VectorSearcher
from tensors.ragged import Ragged

WORDS = "red green blue apple pear train rank list query document python returns value".split()  # noqa: SIM905


@pytest.fixture
def texts() -> tuple[dict[str, str], dict[str, str]]:
    rng = np.random.default_rng(0)
    documents = {f"d{i}": " ".join(rng.choice(WORDS, size=rng.integers(3, 12))) for i in range(50)}
    return documents, {f"q{i}": " ".join(rng.choice(WORDS, size=3)) for i in range(7)}


class Vectors:
    """What searchers read of `inference.vectors.StoredVectors`."""

    similarity, precision = "cosine", "fp32"

    def __init__(self, seed: int, rows: int, dim: int = 8) -> None:
        values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
        self.values, self.dim, self.key = COSINE.comparable(values), dim, {"weights": str(seed)}

    def __len__(self) -> int:
        return len(self.values)

    def block(self, start: int, stop: int) -> torch.Tensor:
        return self.values[start:stop]

    def slices(self, rows: int, values: int) -> list[slice]:
        return list(block_slices(len(self), min(rows, values // self.dim)))

    def num_values(self, rows: slice) -> int:
        return self.values[rows].numel()

    def rows(self, rows) -> torch.Tensor:
        return self.values[np.asarray(rows)]


def vector_searcher() -> VectorSearcher:
    return VectorSearcher("model", Vectors(1, 7), Vectors(2, 50), torch.device("cpu"))


def bm25_searcher(texts, cache) -> BM25Searcher:
    documents, queries = texts
    return BM25Searcher(BM25(), documents, queries, cache, CorpusTexts(documents))


WANTED = [np.array([3, 40]), np.array([0]), *[np.empty(0, dtype=np.int64)] * 3]


def test_vectors_are_searched_as_by_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(vector_search, "DOCUMENT_BLOCK", 16)
    monkeypatch.setattr(searchers, "QUERY_BLOCK", 2)
    searcher = vector_searcher()
    found = searcher.search(slice(2, 7), WANTED, 9)
    matrix = (searcher.queries.values[2:7] @ searcher.documents.values.T).numpy()
    order = np.argsort(-matrix, axis=1, kind="stable")[:, :9]
    assert (found.rows == order).all()
    np.testing.assert_allclose(found.scores, np.take_along_axis(matrix, order, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.wanted[0], matrix[0, [3, 40]], rtol=1e-5)
    assert [len(wanted) for wanted in found.wanted] == [2, 1, 0, 0, 0]
    likeness = searcher.likeness(np.array([5, 6]), np.array([6, 7]))
    assert likeness[1] == pytest.approx(1.0)
    assert likeness[0] == pytest.approx(float((searcher.documents.values[5] @ searcher.documents.values[6:8].T).max()))


class TokenVectors(Vectors):
    """What searchers read of `inference.pieces.ragged.RaggedVectors`."""

    similarity = "maxsim"

    def __init__(self, seed: int, rows: int, dim: int = 8) -> None:
        sizes = torch.arange(rows) % 5 + 1
        super().__init__(seed, int(sizes.sum()), dim)
        self.values = Ragged(self.values, sizes)

    def num_values(self, rows: slice) -> int:
        return self.values[rows].values.numel()

    def rows(self, rows) -> Ragged:
        return self.values[torch.as_tensor(rows)]


def test_token_vectors_are_searched_by_their_similarity(monkeypatch):
    monkeypatch.setattr(vector_search, "DOCUMENT_BLOCK", 16)
    monkeypatch.setattr(searchers, "QUERY_BLOCK", 2)
    searcher = VectorSearcher("model", TokenVectors(1, 7), TokenVectors(2, 50), torch.device("cpu"))
    found = searcher.search(slice(2, 7), WANTED, 9)
    queries, documents = searcher.queries.values, searcher.documents.values
    scores = np.array([[pair(query, document) for document in documents] for query in queries[2:7]])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    assert (found.rows == order).all()
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, order, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.wanted[0], scores[0, [3, 40]], rtol=1e-5)
    assert [len(wanted) for wanted in found.wanted] == [2, 1, 0, 0, 0]
    likeness = searcher.likeness(np.array([5, 6]), np.array([6, 7]))
    assert likeness[1] == pytest.approx(1.0)
    assert likeness[0] == pytest.approx(max(both_ways(documents[5], documents[row]) for row in (6, 7)), abs=1e-6)
    elements = max(searcher.documents.num_values(slice(start, start + 16)) for start in range(0, 50, 16))
    assert searcher.rank_bytes(7, 9) == 4 * (2 * elements + queries.values.numel()) + 8 * 2 * 16 + 7 * 9 * 24


def pair(query: Ragged, document: Ragged) -> float:
    """MaxSim in the words of its definition."""
    return float((query.values @ document.values.T).amax(dim=1).sum())


def both_ways(one: Ragged, other: Ragged) -> float:
    return (pair(one, other) / len(one.values) + pair(other, one) / len(other.values)) / 2


def test_bm25_is_that_of_the_first_stage(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(searchers, "BM25_BLOCK", 2)
    documents, queries = texts
    found = bm25_searcher(texts, tmp_path).search(slice(2, 7), WANTED, 9)
    expected = BM25().retrieve(documents, queries, 9)
    names, all_scores = list(documents), BM25().retrieve(documents, queries, 50)
    for number, query in enumerate(list(queries)[2:]):
        some = found.rows[number] >= 0
        pairs = zip(found.rows[number][some].tolist(), found.scores[number][some].tolist(), strict=True)
        ranked = {names[row]: score for row, score in pairs}
        assert list(ranked.items()) == list(expected[query].items())
        assert (found.scores[number][~some] == -np.inf).all()
        assert found.wanted[number].tolist() == [all_scores[query].get(names[row], 0.0) for row in WANTED[number]]


def test_hybrid_scores_are_those_of_fusion(texts, tmp_path):
    first, second = vector_searcher(), bm25_searcher(texts, tmp_path)
    found = HybridSearcher(first, second, 0.3).search(slice(0, 7), [np.empty(0, dtype=np.int64)] * 7, 9)

    def as_run(part):
        return {
            str(number): {str(row): float(score) for row, score in zip(rows, scores, strict=True) if row >= 0}
            for number, (rows, scores) in enumerate(zip(part.rows, part.scores, strict=True))
        }

    parts = [as_run(each.search(slice(0, 7), [np.empty(0, dtype=np.int64)] * 7, 9)) for each in (second, first)]
    expected = fuse(*parts, 0.3)
    for query, ranked in as_run(found).items():
        best = sorted(expected[query].items(), key=lambda item: (-item[1], int(item[0])))[:9]
        assert list(ranked) == [row for row, _ in best]
        np.testing.assert_allclose(list(ranked.values()), [score for _, score in best], rtol=1e-5, atol=1e-6)


def test_a_document_that_is_not_found_scores_as_the_lowest_of_both(texts, tmp_path):
    first, second = vector_searcher(), bm25_searcher(texts, tmp_path)
    hybrid = HybridSearcher(first, second, 0.5)
    every = [np.arange(50)] * 7
    found = hybrid.search(slice(0, 7), every, 9)
    for rows, scores, wanted in zip(found.rows, found.scores, found.wanted, strict=True):
        np.testing.assert_allclose(wanted[rows[rows >= 0]], scores[rows >= 0], rtol=1e-4, atol=1e-4)
        assert wanted.min() >= scores.min() - 3
        assert (wanted <= scores.max() + 1e-4).all()


def _searched(folder) -> list[list[float]]:
    rng = np.random.default_rng(0)
    documents = {f"d{i}": " ".join(rng.choice(WORDS, size=rng.integers(3, 12))) for i in range(50)}
    queries = {f"q{i}": " ".join(rng.choice(WORDS, size=3)) for i in range(7)}
    searchers.BM25_BLOCK = searchers.QUERY_BLOCK = 2
    found = []
    for searcher in (vector_searcher(), bm25_searcher((documents, queries), folder)):
        result = searcher.search(slice(0, 7), [np.array([1, 2])] * 7, 5)
        found += [result.rows.tolist(), result.scores.tolist(), [w.tolist() for w in result.wanted]]
    return found


def test_two_ranks_find_what_one_finds(tmp_path):
    (alone,) = run_ranks(_searched, 1, tmp_path)
    assert run_ranks(_searched, 2, tmp_path) == [alone, alone]


def test_the_key_names_both_parts():
    first, second = vector_searcher(), SimpleNamespace(key={"bm25": "x"}, name="bm25")
    assert HybridSearcher(first, second, 0.5).key == {
        "first queries weights": "1",
        "first documents weights": "2",
        "second bm25": "x",
        "weight": "0.5",
    }
