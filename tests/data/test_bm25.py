from pathlib import Path

import ir_measures
import numpy as np
import pytest

from data.bm25 import BM25, bm25_top
from data.formats.beir import read_folder

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


def test_ties_stand_in_the_corpus_order():
    documents = ["heat", "cold", *["wing flutter"] * 50, "wing flutter flutter"]
    best, scores = bm25_top(documents, ["flutter", "nothing", ""], depth=20, k1=0.9, b=0.4)
    assert best[0].tolist() == [52, *range(2, 21)]
    assert (np.diff(scores[0]) <= 0).all()
    assert best[1].tolist() == best[2].tolist() == list(range(20))
    assert not scores[1:].any()


def test_lucene_formula():
    documents = ["wing wing drag", "wing", "lift force acts"]
    _, scores = bm25_top(documents, ["wing"], depth=3, k1=0.9, b=0.4)
    idf, mean = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5)), 7 / 3

    def score(count: int, length: int) -> float:
        return idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * length / mean))

    assert scores[0].tolist() == pytest.approx([score(2, 3), score(1, 1), 0.0])


def test_documents_without_a_word_are_refused():
    with pytest.raises(ValueError, match="BM25: none of the 2 documents has a word to index"):
        bm25_top(["", "the of"], ["wing"], depth=2, k1=0.9, b=0.4)


def test_fewer_documents_than_the_depth():
    assert next(iter(BM25().retrieve({"a": "wing", "b": "heat"}, {"q": "heats"}, 100)["q"])) == "b"
