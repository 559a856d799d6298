"""Rankings and scores of pairs: those of sentence-transformers, in any batch and order, with stable ties."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import plackett
from models.llm_reranker import LLMRerankerConfig

QUERY = "what is the apple"
RNG = random.Random(0)
WORDS = "what is the a of to in red green blue apple pear train rank list query document python value".split()  # noqa: SIM905
DOCUMENTS = [" ".join(RNG.choices(WORDS, k=RNG.randint(1, 60))) for _ in range(24)]


@pytest.fixture(scope="module", params=["cross_encoder", "llm_reranker"])
def reranker(request, tiny_reranker_dir, tiny_causal_dir, tmp_path_factory):
    if request.param == "cross_encoder":
        return plackett.load(tiny_reranker_dir)
    folder = tmp_path_factory.mktemp("llm") / "model"
    LLMRerankerConfig(str(tiny_causal_dir), template="qwen3", max_length=400).build(0).export(folder)
    return plackett.load(folder)


def test_scores_equal_sentence_transformers(reranker):
    from sentence_transformers import CrossEncoder

    oracle = CrossEncoder(reranker.model.source, device="cpu")
    ranking = oracle.rank(QUERY, DOCUMENTS, show_progress_bar=False)
    found = reranker.rank(QUERY, DOCUMENTS)
    assert [row.index for row in found] == [row["corpus_id"] for row in ranking]
    assert [row.score for row in found] == pytest.approx([row["score"] for row in ranking], rel=1e-5, abs=1e-5)
    pairs = [(text, QUERY) for text in DOCUMENTS]
    expected = oracle.predict(pairs, show_progress_bar=False)
    scores = reranker.predict(pairs)
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-5)


def test_scores_do_not_depend_on_batch_or_order(reranker):
    pairs = [(query, text) for query in (QUERY, "green train") for text in DOCUMENTS]
    scores = reranker.predict(pairs, raw=True)
    for batch_size in (1, 2, 7, 1000):
        assert np.abs(reranker.predict(pairs, raw=True, batch_size=batch_size) - scores).max() < 1e-5
    order = random.Random(1).sample(range(len(pairs)), len(pairs))
    assert (reranker.predict([pairs[index] for index in order], raw=True) == scores[order]).all(), "bit by bit"
    alone = [reranker.predict([pair], raw=True)[0] for pair in pairs[:5]]
    assert np.abs(np.array(alone) - scores[:5]).max() < 1e-5
    assert np.ptp(scores) > 0.1


def test_ties_keep_the_given_order(reranker):
    documents = [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[2], DOCUMENTS[1], DOCUMENTS[0]]
    for batch_size in (None, 1, 2):
        ranking = [row.index for row in reranker.rank(QUERY, documents, batch_size=batch_size)]
        for equal in ([0, 2, 5], [1, 4]):
            assert [index for index in ranking if index in equal] == equal


def test_the_best_are_returned_with_or_without_their_text(reranker):
    every = reranker.rank(QUERY, DOCUMENTS)
    assert [row.document for row in every] == [DOCUMENTS[row.index] for row in every]
    assert reranker.rank(QUERY, iter(DOCUMENTS), top_k=3) == every[:3]
    assert reranker.rank(QUERY, DOCUMENTS, top_k=100) == every
    assert {row.document for row in reranker.rank(QUERY, DOCUMENTS, return_documents=False)} == {None}


def test_none_one_empty_and_long_texts(reranker):
    assert reranker.rank(QUERY, []) == []
    assert reranker.predict([]).shape == (0,)
    assert len(reranker.rank(QUERY, ["apple"])) == 1
    assert len(reranker.rank("", ["", "apple"])) == 2
    found = reranker.score([(QUERY, "apple " * 20000), ("apple " * 20000, "pear"), (QUERY, "苹果是红色的"), ("", "")])
    assert np.isfinite(found.scores).all()
    assert (found.cut > 0).any(axis=1).tolist() == [True, True, False, False]
    assert found.cut[0, 0] == 0
    assert found.cut[0, 1] > 19000


def test_several_threads_get_their_own_scores(reranker):
    queries = ["red apple", "green", "train list", "python value"]
    expected = [reranker.predict([(query, text) for text in DOCUMENTS[:6]]) for query in queries]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda q: reranker.predict([(q, text) for text in DOCUMENTS[:6]]), queries * 5)
    assert all((one == other).all() for one, other in zip(found, expected * 5, strict=True))


def test_an_instruction_replaces_the_models_own(reranker):
    pairs = [(QUERY, text) for text in DOCUMENTS[:4]]
    own = reranker.predict(pairs)
    instructed = reranker.predict(pairs, instruction="rank red fruit")
    assert np.abs(instructed - own).min() > 1e-6
    marked = reranker.predict([(QUERY, "a <think> b")], instruction="<think> rank")
    assert np.isfinite(marked).all()
    assert (reranker.predict(pairs) == own).all(), "a call leaves nothing behind"
    assert reranker.model.tokenizer.prompt_tokens == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.rank(QUERY, "one text"), "documents is one text: give a list"),
        (lambda r: r.rank(QUERY, ["a", 3]), r"documents\[1\] must be a text, got int"),
        (lambda r: r.rank(None, ["a"]), "query must be a text, got NoneType"),
        (lambda r: r.rank(QUERY, ["a", "b\ud800"]), r"documents\[1\]: no text, it has a lone surrogate at character 2"),
        (lambda r: r.rank(QUERY, ["a"], top_k=0), "top_k must be at least 1, got 0"),
        (lambda r: r.rank(QUERY, ["a"], batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda r: r.predict(["ab"]), r"pairs\[0\] must be a query and a document, got str"),
        (lambda r: r.predict([("a", "b"), ("a",)]), r"pairs\[1\] must be a query and a document"),
        (lambda r: r.predict([("a", "b")], instruction="long " * 400), r"has \d+ tokens|takes \d+ tokens"),
    ],
)
def test_a_wrong_argument_is_named(reranker, call, message):
    with pytest.raises(ValueError, match=message):
        call(reranker)
