"""What the evaluated ranker costs to run (`cost=true`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from data.bm25 import BM25
from data.collection import Collection
from data.store.texts import texts_of
from evaluation.cost import Cost, measure_embedder, measure_reranker, measure_retriever
from evaluation.evaluator import Evaluator, Prompts
from inference.runner import Runner
from recipes.evaluate.config import EvaluationConfig


def cost_of_retriever(
    settings: EvaluationConfig, collection: Collection, retriever: BM25, queries: Mapping[str, str]
) -> dict[str, Any]:
    """The entry of a summary with the cost of BM25 over the whole corpus; nothing without `cost`. Call it on all
    ranks."""
    if not settings.cost:
        return {}
    texts, depth = texts_of(collection.documents), settings.eval.retrieval_depth
    return _entry(measure_retriever(retriever, texts, list(queries.values()), depth=depth))


def cost_of_model(
    settings: EvaluationConfig,
    collection: Collection,
    runner: Runner,
    evaluator: Evaluator,
    queries: Mapping[str, str],
) -> dict[str, Any]:
    """The entry of a summary with the cost of a model: of a search of the whole corpus, or of reranking the candidates
    of `evaluator`. Nothing without `cost`. Call it on all ranks."""
    if not settings.cost:
        return {}
    options: Any = settings.eval
    given: dict[str, Any] = {"prompts": Prompts.of(collection), "token_budget": options.token_budget}
    if settings.retrieves:
        given |= {"forms": options.forms, "depth": options.depth, "search": options.search}
        texts = texts_of(collection.documents)
        return _entry(measure_embedder(runner, evaluator.tokenizer, texts, list(queries.values()), **given))
    documents, candidates = evaluator.documents, evaluator.first_stage_run
    lists = [(text, [documents[name] for name in candidates[query]]) for query, text in queries.items()]
    return _entry(measure_reranker(runner, evaluator.tokenizer, lists, **given))


def _entry(cost: Cost) -> dict[str, Any]:
    return {"cost": asdict(cost)}
