"""Metrics against those of other libraries, on small random rankings.

The same: nDCG@k (linear gains, ideal over all judged documents), MRR@k, MAP, recall@k, precision@k (divided by k),
accuracy@k. Where another library differs, the test says so: sentence-transformers cuts average precision at k and
divides it by min(k, relevant); it and ranx know ties by other rules, so scores here are distinct.
"""

from __future__ import annotations

import random
from unittest.mock import Mock

import ir_measures
import numpy as np
import pytest

from evaluation.metrics import measure

METRICS = ["nDCG@5", "nDCG@10", "MRR@10", "MAP", "recall@5", "recall@10", "precision@5", "accuracy@3", "accuracy@10"]
EXACT = {"rel": 0, "abs": 1e-6}


@pytest.fixture(scope="module")
def graded() -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Judgements (0 to 3; every query has a relevant document) of 40 queries, and rankings of 0 to 30 of 60
    documents."""
    rng = random.Random(7)
    documents = [f"d{i}" for i in range(60)]
    qrels, run = {}, {}
    for number in range(40):
        judged = rng.sample(documents, k=rng.randint(1, 8))
        qrels[f"q{number}"] = {judged[0]: rng.randint(1, 3), **{d: rng.randint(0, 3) for d in judged[1:]}}
        ranked = rng.sample(documents, k=(number * 7) % 31)
        scores = rng.sample(range(1000), k=len(ranked))
        run[f"q{number}"] = {d: float(score) for d, score in zip(ranked, scores, strict=True)}
    return qrels, run


def binary(qrels: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {query: {d: int(grade > 0) for d, grade in judged.items()} for query, judged in qrels.items()}


def test_ir_measures(graded):
    qrels, run = graded
    names = {"nDCG": "nDCG", "MRR": "RR", "MAP": "AP", "recall": "R", "precision": "P", "accuracy": "Success"}
    for name in METRICS:
        family, _, cutoff = name.partition("@")
        other = ir_measures.parse_measure(names[family] + (f"@{cutoff}" if cutoff else ""))
        values = {value.query_id: value.value for value in ir_measures.iter_calc([other], qrels, run)}
        own = measure(qrels, run, [name]).per_query[name]
        assert own == pytest.approx({query: values.get(query, 0.0) for query in qrels}, **EXACT)


@pytest.mark.timeout(900)  # ranx is compiled at its first use
def test_ranx(graded):
    ranx = pytest.importorskip("ranx", reason="compares with ranx: pip install ranx")
    qrels, run = graded
    ranked = {query: scores or {"none": 0.0} for query, scores in run.items()}  # it refuses empty rankings
    own = measure(qrels, run, METRICS)
    names = {"nDCG": "ndcg", "MRR": "mrr", "MAP": "map", "recall": "recall", "precision": "precision"}
    names["accuracy"] = "hit_rate"
    asked = {f"{names[name.partition('@')[0]]}{name[len(name.partition('@')[0]) :]}": name for name in METRICS}
    # ranx counts every judged document as relevant in ideal rankings and recall, so those judged 0 are left out
    positive = {query: {d: grade for d, grade in judged.items() if grade} for query, judged in qrels.items()}
    found = ranx.evaluate(ranx.Qrels(positive), ranx.Run(ranked), list(asked), make_comparable=True)
    assert {asked[key]: value for key, value in found.items()} == pytest.approx(own.mean, **EXACT)


def _vectors(number: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(number, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_retrieval_evaluator_of_sentence_transformers(graded):
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    qrels = binary(graded[0])
    documents = {f"d{i}": f"document {i}" for i in range(60)}
    queries = {query: f"query {query}" for query in qrels}
    relevant = {query: {d for d, grade in judged.items() if grade} for query, judged in qrels.items()}
    of_documents, of_queries = _vectors(len(documents), 1), _vectors(len(queries), 2)
    table = dict(zip([*documents.values(), *queries.values()], [*of_documents, *of_queries], strict=True))
    other = evaluation.InformationRetrievalEvaluator(
        queries,
        documents,
        relevant,
        accuracy_at_k=[3, 10],
        precision_recall_at_k=[5, 10],
        mrr_at_k=[10],
        ndcg_at_k=[5, 10],
        map_at_k=[60],
        write_csv=False,
    )
    other.embed_inputs = lambda model, sentences, **options: np.stack([table[sentence] for sentence in sentences])
    from sentence_transformers.util import cos_sim

    other.score_functions = {"cosine": cos_sim}
    other.score_function_names = ["cosine"]
    found = other.compute_metrices(object())["cosine"]
    run = {
        query: dict(zip(documents, map(float, scores), strict=True))
        for query, scores in zip(queries, of_queries @ of_documents.T, strict=True)
    }
    own = measure(qrels, run, METRICS).mean
    expected = {
        "nDCG@5": found["ndcg@k"][5],
        "nDCG@10": found["ndcg@k"][10],
        "MRR@10": found["mrr@k"][10],
        "MAP": found["map@k"][60],
        "recall@5": found["recall@k"][5],
        "recall@10": found["recall@k"][10],
        "precision@5": found["precision@k"][5],
        "accuracy@3": found["accuracy@k"][3],
        "accuracy@10": found["accuracy@k"][10],
    }
    assert own == pytest.approx(expected, **EXACT)


def test_reranking_evaluator_of_sentence_transformers(graded):
    """It divides by the relevant documents that were listed (always_rerank_positives adds those), has binary gains, and
    its MAP is over the whole list."""
    evaluation = pytest.importorskip("sentence_transformers.cross_encoder.evaluation")
    rng = random.Random(3)
    samples, qrels, run = [], {}, {}
    scores: dict[tuple[str, str], float] = {}
    for query, judged in binary(graded[0]).items():
        positive = [d for d, grade in judged.items() if grade]
        documents = [*positive, *(f"n{i}" for i in range(12))]
        values = rng.sample(range(1000), k=len(documents))
        samples.append({"query": query, "positive": positive, "documents": documents})
        scores |= {(query, d): value / 1000 for d, value in zip(documents, values, strict=True)}
        qrels[query] = dict.fromkeys(positive, 1)
        run[query] = {d: scores[query, d] for d in documents}

    def predict(pairs, **options):
        return np.array([scores[tuple(pair)] for pair in pairs])

    other = evaluation.CrossEncoderRerankingEvaluator(samples, at_k=10, write_csv=False, show_progress_bar=False)
    found = other(Mock(predict=predict))
    own = measure(qrels, run, ["nDCG@10", "MRR@10", "MAP"]).mean
    expected = {"nDCG@10": found["ndcg@10"], "MRR@10": found["mrr@10"], "MAP": found["map"]}
    assert own == pytest.approx(expected, **EXACT)
