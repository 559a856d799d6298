"""Search of stored vectors: that of faiss and of sentence-transformers in every precision, equal on two ranks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers.util.quantization import semantic_search_faiss
from torch import Tensor, nn

from engines.distributed.testing import run_ranks
from inference.quantize import dequantize
from inference.runner import ModuleRunner
from inference.vector_search import block_size, documents_at_once, search_stored
from inference.vectors import StoredVectors, encode_texts
from losses.math.similarity import DOT, similarity_named

faiss = pytest.importorskip("faiss")
DIM = 40
PRECISIONS = ("fp32", "fp16", "int8", "binary")


class Tokenizer:
    """The number that a text is, as its only token."""

    padding = {"input_ids": 0}  # noqa: RUF012

    def __call__(self, texts, role):
        return {"input_ids": [[int(text)] for text in texts]}


class Table(nn.Module):
    """A random vector for each number."""

    similarity = "cosine"

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.randn(700, DIM, generator=torch.Generator().manual_seed(1))

    def forward(self, input_ids, attention_mask):
        return {"embedding": self.table[input_ids[:, 0]]}


QUERIES = torch.nn.functional.normalize(torch.randn(9, DIM, generator=torch.Generator().manual_seed(2)), dim=-1)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredVectors]:
    folder, texts = tmp_path_factory.mktemp("vectors"), {f"d{i}": str(i) for i in range(700)}
    runner = ModuleRunner(Table(), torch.device("cpu"))
    options = {"role": "document", "token_budget": 100, "key": {}}
    return {p: encode_texts(runner, Tokenizer(), texts, folder / p, precision=p, **options) for p in PRECISIONS}


def floats(stored: StoredVectors) -> np.ndarray:
    """The vectors, from the files by numpy alone."""
    vectors = np.load(stored.folder / "vectors.npy")
    return dequantize(vectors, stored.precision, stored.dim, stored.ranges)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_rows_are_those_of_faiss(stored: dict[str, StoredVectors], precision: str):
    index = faiss.IndexFlatIP(DIM)
    index.add(floats(stored[precision]))
    expected_scores, expected = index.search(QUERIES.numpy(), 20)
    scores, rows = search_stored(QUERIES, stored[precision], 20)
    assert np.array_equal(rows.numpy(), expected)
    assert np.allclose(scores.numpy(), expected_scores, atol=1e-5)


@pytest.mark.parametrize("precision", ["binary", "fp32"])
def test_hamming_distances_are_those_of_faiss_and_ties_are_in_the_order_of_the_rows(
    stored: dict[str, StoredVectors], precision: str
):
    index = faiss.IndexBinaryFlat(DIM)
    index.add(np.load(stored["binary"].folder / "vectors.npy"))
    distances, _ = index.search(np.packbits(QUERIES.numpy() > 0, axis=1), 50)
    scores, rows = search_stored(QUERIES, stored[precision], 50, hamming=True)
    assert np.array_equal(scores.numpy(), DIM - 2.0 * distances)
    signs = np.where(floats(stored["fp32"]) > 0, 1, -1)
    every = np.where(QUERIES.numpy() > 0, 1, -1) @ signs.T
    assert np.array_equal(rows.numpy(), np.argsort(-every, axis=1, kind="stable")[:, :50])


@pytest.mark.parametrize("multiple", [1, 3, 1000])
def test_rescored_rows_are_those_of_sentence_transformers(stored: dict[str, StoredVectors], multiple: int):
    """faiss keeps other documents of equal distance at the cutoff, so it gets those that ours keeps first."""
    candidates = search_stored(QUERIES, stored["binary"], 8 * multiple, hamming=True)[1].numpy()
    vectors = np.load(stored["binary"].folder / "vectors.npy")
    scores, rows = search_stored(QUERIES, stored["binary"], 8, rescore=multiple)
    for number, own in enumerate(np.sort(candidates, axis=1)):
        options = {"corpus_precision": "ubinary", "top_k": 8, "rescore_multiplier": len(own)}
        [hits], _ = semantic_search_faiss(QUERIES[number : number + 1].numpy(), vectors[own], **options)
        assert [int(own[hit["corpus_id"]]) for hit in hits] == rows[number].tolist()
        assert np.allclose(
            [2 * hit["score"] - float(QUERIES[number].sum()) for hit in hits], scores[number], atol=1e-5
        ), "bits of 0 and 1 there, signs here"


def test_int8_vectors_are_read_by_sentence_transformers(stored: dict[str, StoredVectors]):
    vectors = np.load(stored["int8"].folder / "vectors.npy").view(np.uint8) ^ 0x80
    ranges = np.array(stored["int8"].meta["ranges"], dtype=np.float32)
    options = {"corpus_precision": "uint8", "ranges": ranges, "top_k": 7, "rescore_multiplier": 100}
    found, _ = semantic_search_faiss(QUERIES.numpy(), vectors, **options)
    rows = search_stored(QUERIES, stored["int8"], 7)[1]
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == rows.tolist()


@pytest.mark.skipif(importlib.util.find_spec("usearch") is None, reason="usearch is not installed")
@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_usearch_reads_them(stored: dict[str, StoredVectors], precision: str):
    from sentence_transformers.util.quantization import semantic_search_usearch

    vectors = np.load(stored[precision].folder / "vectors.npy")
    name = {"int8": "int8", "binary": "ubinary"}[precision]
    options = {"corpus_precision": name, "ranges": stored[precision].ranges, "top_k": 7, "rescore_multiplier": 100}
    found, _ = semantic_search_usearch(QUERIES.numpy(), vectors, **options)
    rows = search_stored(QUERIES, stored[precision], 7)[1]
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == rows.tolist()


def search_all(folder: Path) -> list[tuple[list, list]]:
    return [
        tuple(part.tolist() for part in search_stored(QUERIES, StoredVectors(folder / precision), 30, **options))
        for precision in PRECISIONS
        for options in ({"query_block": 4}, {"hamming": True, "query_block": 2}, {"rescore": 2})
    ]


def test_two_ranks_agree_with_one_to_the_last_bit(stored: dict[str, StoredVectors]):
    folder = stored["fp32"].folder.parent
    assert run_ranks(search_all, 2, folder) == [search_all(folder)] * 2


def test_queries_are_made_comparable(stored: dict[str, StoredVectors]):
    longer: Tensor = torch.cat([3 * QUERIES, torch.ones(9, 5)], dim=1)
    assert search_stored(longer, stored["fp32"], 5)[1].equal(search_stored(QUERIES, stored["fp32"], 5)[1])


def test_vectors_of_many_dimensions_are_searched_few_at_once():
    assert [block_size(dim) for dim in (384, 4096, 30522, 2**27)] == [16384, 16384, 2198, 1]


def test_documents_of_many_vectors_are_searched_few_at_once():
    texts = SimpleNamespace(max_length=180)
    assert [documents_at_once(DOT, dim, texts) for dim in (128, 30522)] == [16384, 2198]
    size = documents_at_once(similarity_named("maxsim"), 128, texts)
    assert size == 2912
    assert size * 180 * 128 * 4 <= 2**28
