"""Late interaction in the Python API: a list of token vectors, MaxSim, and the error of a server for single vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import plackett
from launch.serve import main as serve
from models.late_interaction.options import LateInteractionConfig
from plackett.arguments import checked_rows

QUERIES = ["what is python?", "x", ""]
DOCUMENTS = ["python returns the value of a list. " * 9, "Green, (blue) apple!", "rank", "the a of"]


@pytest.fixture(scope="module")
def folder(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "model"
    LateInteractionConfig(str(tiny_bert_dir), dimension=16, query_expansion="none").build(seed=1).export(folder)
    return folder


@pytest.fixture(scope="module")
def embedder(folder: Path) -> plackett.Embedder:
    return plackett.load(folder)


def test_vectors_and_scores_are_those_of_sentence_transformers(embedder: plackett.Embedder, folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    theirs = library.MultiVectorEncoder(str(folder), device="cpu")
    queries, documents = embedder.encode(QUERIES, role="query"), embedder.encode(DOCUMENTS, role="document")
    expected = theirs.encode_query(QUERIES), theirs.encode_document(DOCUMENTS)
    for found, other in zip((queries, documents), expected, strict=True):
        assert [own.shape for own in found] == [tuple(vectors.shape) for vectors in other]
        assert max(np.abs(own - vectors.numpy()).max() for own, vectors in zip(found, other, strict=True)) < 1e-5
    scores = embedder.similarity(queries, documents)
    assert scores.shape == (3, 4)
    assert np.abs(scores - theirs.similarity(*expected).numpy()).max() < 1e-5
    assert scores.max() > 1.5, "a sum over the tokens of a query, no cosine"
    assert (embedder.dimension, embedder.pooling) == (16, "")


def test_any_number_of_texts_in_any_order(embedder: plackett.Embedder) -> None:
    documents = embedder.encode(DOCUMENTS, role="document")
    assert embedder.encode([], role="document") == []
    assert embedder.similarity([], documents).shape == (0, 4)
    assert embedder.similarity(documents[:1], []).shape == (1, 0)
    turned = embedder.encode(DOCUMENTS[::-1] + DOCUMENTS[:1], role="document", batch_size=2)
    for own, vectors in zip(turned, [*documents[::-1], documents[0]], strict=True):
        assert np.abs(own - vectors).max() < 1e-6
    cut = [vectors[:, :4] for vectors in documents]
    assert np.abs(np.diag(embedder.similarity(cut, cut)) - [len(vectors) for vectors in cut]).max() < 1e-5


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones(3), r"queries\[0\] must be embeddings"),
        ("text", "queries must be a list of token vectors"),
        ([np.ones((2, 3)), np.ones((1, 4))], "queries have 3 and 4 dimensions: cut them alike"),
        ([np.ones((2, 3))], "queries and documents have 3 and 16 dimensions"),
    ],
)
def test_what_are_no_token_vectors(vectors: object, message: str, embedder: plackett.Embedder) -> None:
    with pytest.raises(ValueError, match=message):
        embedder.similarity(vectors, embedder.encode(DOCUMENTS, role="document"))


def test_rows_of_no_texts() -> None:
    assert checked_rows("queries", [], 5).shape == (0, 5)


def test_a_server_says_that_it_answers_one_vector_per_text(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"gives a vector per token, and /embed answers with one per text: plackett"):
        serve([str(folder), "--port", "0"])
