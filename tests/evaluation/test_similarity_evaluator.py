"""Correlation with the labels of pairs against scipy, scikit-learn and sentence-transformers; one rank = two."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn

from data.collection import Split
from engines.distributed.testing import run_ranks
from evaluation.correlation import average_precision, correlate, parse_correlation
from evaluation.evaluator import EvaluationResult
from evaluation.reranking_evaluator import RerankingConfig
from evaluation.similarity_evaluator import SimilarityConfig
from inference.runner import ModuleRunner

CPU = torch.device("cpu")
DEGREES = "the label 4.8 is no integer"
RNG = np.random.default_rng(0)


class Tokenizer:
    """One token for each character. Layout "pairs": those of the query, then those of the document."""

    padding = {"input_ids": 0}  # noqa: RUF012

    def __init__(self, layout: str):
        self.layout = layout

    def __call__(self, first: list[str], second: list[str] | None = None, role: str = "") -> dict[str, list[list[int]]]:
        texts = first if second is None else [a + b for a, b in zip(first, second, strict=True)]
        return {"input_ids": [[ord(sign) for sign in text] for text in texts]}


class Embedder(nn.Module):
    """Embeds a text by sums of functions of its characters."""

    def __init__(self, similarity: str):
        super().__init__()
        self.similarity = similarity

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        phases = input_ids[..., None] * torch.tensor([0.3, 1.1, 2.7, 0.05])
        return {"embedding": (phases.sin() * attention_mask[..., None]).sum(1)}


class Reranker(nn.Module):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": ((input_ids * 0.7).sin() * attention_mask).sum(1)}


class Constant(nn.Module):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": torch.ones(len(input_ids))}


def pairs(labels: list[float], per_query: int = 1, degrees: str = DEGREES) -> tuple[Split, dict[str, str]]:
    """A split with these labels, `per_query` of them to a query, and its documents."""
    documents = {f"d{i}": "".join(map(chr, RNG.integers(97, 122, size=3 + i % 5))) for i in range(len(labels))}
    judged: dict[str, dict[str, float]] = {}
    for i, label in enumerate(labels):
        judged.setdefault(f"q{i // per_query}", {})[f"d{i}"] = label
    queries = {query: "".join(map(chr, RNG.integers(97, 122, size=4))) for query in judged}
    return Split(queries, {}, {query: [] for query in judged}, labels=judged, degrees=degrees), documents


def evaluate(split: Split, documents: dict[str, str], model: nn.Module, **options: Any) -> EvaluationResult:
    layout = "texts" if hasattr(model, "similarity") else "pairs"
    evaluator = SimilarityConfig(**options).build(split, documents, Tokenizer(layout))
    return evaluator.evaluate(ModuleRunner(model, CPU))


@pytest.mark.parametrize("model", [Embedder("cosine"), Embedder("dot"), Reranker()])
@pytest.mark.parametrize("per_query", [1, 3])
def test_correlations_are_scipys_over_all_pairs(model: nn.Module, per_query: int):
    labels = RNG.choice([0.0, 1.2, 2.6, 4.8], size=31).tolist()  # with ties
    split, documents = pairs(labels, per_query)
    result = evaluate(split, documents, model, token_budget=64)
    scores = [score for found in result.run.values() for score in found.values()]
    assert result.metrics.mean == {
        "Spearman": pytest.approx(spearmanr(labels, scores).statistic, abs=1e-12),
        "Pearson": pytest.approx(pearsonr(labels, scores).statistic, abs=1e-12),
    }
    if per_query == 1 and model.__class__ is Embedder:
        texts = [(split.queries[f"q{i}"], documents[f"d{i}"]) for i in range(31)]
        sides = [_embed(model, [pair[side] for pair in texts]) for side in (0, 1)]
        compare = torch.cosine_similarity if model.similarity == "cosine" else lambda a, b: (a * b).sum(-1)
        torch.testing.assert_close(torch.tensor(scores), compare(*sides), rtol=1e-5, atol=1e-5)


def _embed(model: nn.Module, texts: list[str]) -> torch.Tensor:
    rows = [torch.tensor([[ord(sign) for sign in text]]) for text in texts]
    return torch.cat([model(row, torch.ones_like(row))["embedding"] for row in rows])


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_is_scikit_learns(levels: int):
    sklearn = pytest.importorskip("sklearn.metrics")
    labels = RNG.integers(0, 2, size=200).astype(float)
    scores = RNG.integers(0, levels, size=200).astype(float) + 0.5 * labels  # 3: many ties
    expected = sklearn.average_precision_score(labels, scores)
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)
    split, documents = pairs(labels.tolist(), degrees="")
    assert set(evaluate(split, documents, Reranker()).metrics.mean) == {"Spearman", "Pearson", "AP"}


def test_the_values_are_those_of_sentence_transformers():
    evaluators = pytest.importorskip("sentence_transformers.evaluation")

    class Model:  # what the evaluator reads of a SentenceTransformer
        similarity_fn_name, model_card_data = "cosine", type("Card", (), {"set_evaluation_metrics": lambda *_: None})()

        def encode(self, texts: list[str], **_: Any) -> np.ndarray:
            return _embed(Embedder("cosine"), texts).numpy()

    labels = (RNG.integers(0, 6, size=40) / 5).tolist()
    split, documents = pairs(labels)
    ours = evaluate(split, documents, Embedder("cosine")).metrics.mean
    theirs = evaluators.EmbeddingSimilarityEvaluator(
        list(split.queries.values()), list(documents.values()), labels, main_similarity="cosine", write_csv=False
    )
    found = theirs.compute_metrices(Model()) if hasattr(theirs, "compute_metrices") else theirs(Model())
    assert ours["Spearman"] == pytest.approx(found["spearman_cosine"], abs=1e-6)
    assert ours["Pearson"] == pytest.approx(found["pearson_cosine"], abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "there is no dev pair: hold out more"),
        ([3.0], "there is one dev pair: hold out more"),
        ([0.5, 0.5], "all 2 dev pairs have the label 0.5: hold out more"),
        ([1.0] * 9, r"all 9 dev pairs have the label 1: .* if labels are relevance, choose eval=retrieval"),
    ],
)
def test_an_undefined_correlation_is_refused(labels: list[float], message: str):
    with pytest.raises(ValueError, match=message):
        SimilarityConfig().build(*pairs(labels), Tokenizer("pairs"), dev=True)


def test_two_pairs_correlate():
    split, documents = pairs([1.0, 5.0])
    assert abs(evaluate(split, documents, Reranker()).metrics["Spearman"]) == pytest.approx(1)


def test_equal_scores_are_0_with_a_line_and_infinite_ones_an_error(caplog: pytest.LogCaptureFixture):
    split, documents = pairs([0.0, 1.0, 1.0], degrees="")
    with caplog.at_level(logging.WARNING):
        assert evaluate(split, documents, Constant()).metrics.mean == {"Spearman": 0, "Pearson": 0, "AP": 2 / 3}
    assert "the model gives all 3 pairs the same score" in caplog.text
    with pytest.raises(ValueError, match="not finite: the model has diverged"):
        correlate(np.array([0.0, 1.0]), np.array([np.nan, 1.0]), ["Spearman"])


def test_options():
    assert SimilarityConfig(metric="pearson").metrics == ["Pearson", "Spearman", "AP"]
    assert parse_correlation("ap") == "AP"
    with pytest.raises(ValueError, match="no metric 'spearmen': did you mean Spearman"):
        SimilarityConfig(metric="spearmen")
    with pytest.raises(ValueError, match="'Spearman' is no metric of rankings: choose eval=similarity"):
        RerankingConfig(metric="Spearman")
    with pytest.raises(ValueError, match=r"eval.metric=AP needs labels of relevance, and the label 4.8 is no integer"):
        SimilarityConfig(metric="AP").check_split(pairs([0.0, 4.8])[0], "test")


def test_a_limit_is_one_of_queries_with_all_of_their_pairs():
    split, documents = pairs(list(map(float, range(12))), per_query=3)
    evaluator = SimilarityConfig(dev_max_queries=2).build(split, documents, Tokenizer("pairs"), dev=True)
    assert (len(evaluator.queries), evaluator.num_pairs) == (2, 6)
    assert SimilarityConfig(dev_max_queries=2).build(split, documents, Tokenizer("pairs")).num_pairs == 12


def on_this_rank(count: int) -> list[dict[str, float]]:
    split, documents = pairs([i / 2 for i in range(count)])
    return [evaluate(split, documents, model, token_budget=16).metrics.mean for model in (Reranker(), Embedder("dot"))]


@pytest.mark.parametrize("count", [2, 3, 17])
def test_two_ranks_measure_what_one_does(count: int):
    first, second = run_ranks(on_this_rank, 2, count)
    assert first == second == run_ranks(on_this_rank, 1, count)[0]
