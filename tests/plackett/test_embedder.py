"""Embeddings by role: those of sentence-transformers, in any batch and order."""

from __future__ import annotations

import random

import numpy as np
import pytest

import plackett

RNG = random.Random(0)
WORDS = "what is the a of to in red green blue apple pear train rank list query document python value".split()  # noqa: SIM905
TEXTS = [" ".join(RNG.choices(WORDS, k=RNG.randint(1, 60))) for _ in range(24)]


@pytest.fixture(scope="module")
def decoder_dir(tiny_models, tmp_path_factory):
    """An embedder with a prompt for queries, which pools the last token."""
    return tiny_models.write_tiny_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def embedder(decoder_dir):
    return plackett.load(decoder_dir)


def test_embeddings_equal_sentence_transformers(embedder, decoder_dir):
    from sentence_transformers import SentenceTransformer

    oracle = SentenceTransformer(str(decoder_dir), device="cpu")
    queries, documents = embedder.encode(TEXTS, role="query"), embedder.encode(TEXTS, role="document")
    assert queries.dtype == np.float32
    assert queries.shape == (24, embedder.dimension) == (24, 32)
    assert np.abs(queries - oracle.encode_query(TEXTS)).max() < 1e-5
    assert np.abs(documents - oracle.encode_document(TEXTS)).max() < 1e-5
    assert np.abs(embedder.encode(TEXTS, role=None) - oracle.encode(TEXTS)).max() < 1e-5
    assert np.abs(queries - documents).max() > 0.1
    expected = oracle.similarity(oracle.encode_query(TEXTS[:3]), oracle.encode_document(TEXTS))
    assert np.abs(embedder.similarity(queries[:3], documents) - expected.numpy()).max() < 1e-5
    prompted = embedder.encode(TEXTS, role=None, prompt="red: ")
    assert np.abs(prompted - oracle.encode(TEXTS, prompt="red: ")).max() < 1e-5
    assert np.abs(embedder.similarity(queries[:, :8], documents[:, :8])).max() <= 1 + 1e-6, "cosine of cut ones too"


def test_embeddings_do_not_depend_on_batch_or_order(embedder):
    vectors = embedder.encode(TEXTS, role="query")
    for batch_size in (1, 5, 1000):
        assert np.abs(embedder.encode(TEXTS, role="query", batch_size=batch_size) - vectors).max() < 1e-5
    order = random.Random(1).sample(range(24), 24)
    shuffled = embedder.encode([TEXTS[index] for index in order], role="query")
    assert (shuffled == vectors[order]).all(), "bit by bit"


def test_none_one_empty_and_long_texts(embedder):
    assert embedder.encode([], role="query").shape == (0, 32)
    assert embedder.encode([], role="query").dtype == np.float32
    assert embedder.encode(["apple"], role="document").shape == (1, 32)
    found = embedder.embed(["", "apple " * 20000, "苹果是红色的"], role="document")
    assert np.isfinite(found.vectors).all()
    assert (found.cut > 0).tolist() == [False, True, False]
    assert embedder.similarity(embedder.encode([], role="query"), found.vectors).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.encode("one text", role="query"), "texts is one text: give a list"),
        (lambda e: e.encode(["a", None], role="query"), r"texts\[1\] must be a text, got NoneType"),
        (lambda e: e.encode(["a"], role="passage"), "role 'passage' of a text: choose query, document or None"),
        (lambda e: e.encode(["a"], role=None, batch_size=0), "batch_size must be at least 1"),
        (lambda e: e.encode(["a"], role=None, prompt="a " * 500), r"prompt .* has \d+ tokens"),
        (
            lambda e: e.similarity(np.zeros(32), np.zeros((1, 32))),
            r"queries must be .* got the shape \[32\]",
        ),
        (lambda e: e.similarity(np.zeros((1, 8)), np.zeros((1, 32))), "have 8 and 32 dimensions: cut them alike"),
    ],
)
def test_a_wrong_argument_is_named(embedder, call, message):
    with pytest.raises(ValueError, match=message):
        call(embedder)


def test_role_must_be_given(embedder):
    with pytest.raises(TypeError, match="role"):
        embedder.encode(["a"])
