from pathlib import Path

import ir_measures
import numpy as np
import pytest

from data.bm25 import BM25, _top, bm25_top
from data.formats.beir import read_folder
from data.words import TextAnalyzer

ENGLISH = TextAnalyzer("english", "auto")
SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "ndcg", "recall"), [("scifact", 0.676, 0.913), ("cranfield", 0.343, 0.722), ("vaswani", 0.445, 0.623)]
)
def test_figures_of_the_real_collections(name: str, ndcg: float, recall: float):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is absent")
    texts = read_folder(SHARED / name)
    qrels = texts.qrels["test"]
    queries = {query: texts.queries[query] for query in qrels}
    run = BM25().retrieve(texts.documents, queries, 100)
    measures = [ir_measures.nDCG @ 10, ir_measures.R @ 100]
    values = ir_measures.calc_aggregate(measures, qrels, run)
    assert [values[measure] for measure in measures] == pytest.approx([ndcg, recall], abs=0.002)


def test_ties_stand_in_the_corpus_order_and_documents_of_score_0_are_not_found():
    documents = ["heat", "cold", *["wing flutter"] * 50, "wing flutter flutter"]
    queries = ["flutter", "nothing", "", "cold flutter", "heat"]
    found = bm25_top(documents, queries, depth=20, k1=0.9, b=0.4, analyzer=ENGLISH)
    best, scores = found[0]
    assert best.tolist() == [52, *range(2, 21)]
    assert (np.diff(scores) <= 0).all()
    assert [len(best) for best, _ in found] == [20, 0, 0, 20, 1]
    assert all((scores > 0).all() for _, scores in found)


def test_documents_that_are_left_out_give_their_place_to_the_next():
    documents = ["wing wing", "wing", "wing lift drag", "heat"]
    options = {"depth": 2, "k1": 0.9, "b": 0.4, "analyzer": ENGLISH}
    found = bm25_top(documents, ["wing", "wing"], left_out={1: [0]}, **options)
    assert [best.tolist() for best, _ in found] == [[0, 1], [1, 2]]
    assert not len(bm25_top(documents, ["heat"], left_out={0: [3]}, **options)[0][0])


def test_lucene_formula():
    documents = ["wing wing drag", "wing", "lift force acts"]
    [(_, scores)] = bm25_top(documents, ["wing"], depth=3, k1=0.9, b=0.4, analyzer=ENGLISH)
    idf, mean = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5)), 7 / 3

    def score(count: int, length: int) -> float:
        return idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * length / mean))

    assert scores.tolist() == pytest.approx([score(2, 3), score(1, 1)])


def test_documents_without_a_word_are_refused():
    with pytest.raises(ValueError, match="BM25: none of the 2 documents has a word to index"):
        bm25_top(["", "the of"], ["wing"], depth=2, k1=0.9, b=0.4, analyzer=ENGLISH)


def test_fewer_documents_than_the_depth():
    assert list(BM25().retrieve({"a": "wing", "b": "heat"}, {"q": "heats", "none": "x"}, 100)["q"]) == ["b"]


@pytest.mark.parametrize("size", [0, 1, 300, 5000])
@pytest.mark.parametrize("levels", [1, 3, 10_000])
def test_the_best_of_many_scores_are_those_of_a_stable_sort(size: int, levels: int):
    rng = np.random.default_rng(size + levels)
    for depth in (1, 7, 25, size + 1):
        scores = rng.integers(0, levels + 1, size=size).astype(np.float32) * (rng.random(size) < 0.3)
        order = np.argsort(-scores, kind="stable")
        np.testing.assert_array_equal(_top(scores, depth), order[scores[order] > 0][:depth])
