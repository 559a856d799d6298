"""What an evaluation measures: a retriever, a model beside and fused with the first stage, or scores of pairs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from data.bm25 import BM25
from data.candidates import bm25_options_of
from data.collection import Collection, Split
from data.truncation import limits_of, summary_of
from engines.distributed import process_group
from engines.precision import MixedPrecision, autocast_dtype
from evaluation.evaluator import Evaluator, Prompts, judged_queries, leave_out, most_own_documents
from evaluation.fusion import fit_weight, fuse
from evaluation.metrics import Metrics, Qrels, Run, measure
from evaluation.reranking_evaluator import candidate_recall, check_candidates
from evaluation.retrieval_evaluator import part_of, reduced_corpus
from evaluation.significance import interval_of, paired_test
from models.capabilities import RankingModel
from recipes.build import read_corpus
from recipes.evaluate.config import EvaluationConfig
from recipes.evaluate.costs import cost_of_model, cost_of_retriever
from recipes.evaluate.depths import check_has_first_stage, depth_sweep
from recipes.evaluate.held_out import merge_splits
from recipes.prompts import expect_prompts
from recipes.results import partial_entry, source_of_first_stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What was measured: `summary` in JSON types, the metrics and the scores of each ranker by its key there."""

    summary: dict[str, Any]
    qrels: Qrels = field(default_factory=dict)
    results: dict[str, Metrics] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)


def evaluate_retriever(settings: EvaluationConfig, collection: Collection, model: BM25) -> Measured:
    """The results of a retriever that needs no model (BM25)."""
    split = collection.split(settings.split)
    queries = judged_queries(split, settings.eval.max_queries)
    depth, own = settings.eval.retrieval_depth, split.own_documents
    found = model.retrieve(collection.documents, queries, depth + most_own_documents(own, queries))
    run = leave_out(found, own, depth)
    name = model.name
    qrels = {query: split.qrels[query] for query in queries}
    part = reduced_corpus(collection.documents, qrels, run, getattr(settings.eval, "max_documents", None))
    run = {query: {name: score for name, score in of.items() if name in part} for query, of in run.items()}
    results = {name: measure(qrels, run, settings.eval.metrics)}
    summary = {
        "name_or_path": name,
        **describe(settings, results),
        "test_queries": len(queries),
        **partial_entry(part_of(part, collection.documents)),
        **cost_of_retriever(settings, collection, model, queries),
    }
    return Measured(summary, qrels, results, {name: run})


def check_fusion(settings: EvaluationConfig, split: Split) -> None:
    """Raise ValueError if a fusion weight or depths are set, and the split has no first stage for them."""
    if settings.first_stages:
        return
    check_has_first_stage(settings, settings.eval.has_first_stage(split))
    if settings.fusion_weight is None or settings.eval.has_first_stage(split):
        return
    listed = "what the data list with each query"
    why = f"the candidates are {listed}, in random order"
    why = f"the whole corpus is searched, not {listed}" if settings.retrieves else why
    raise ValueError(
        f"fusion_weight={settings.fusion_weight}: {why}, so there is no first stage to fuse with: leave it out"
    )


def dev_to_fit_on(settings: EvaluationConfig, collection: Collection) -> Split | None:
    """The dev split on which the fusion weight is fitted; None if there is none, or nothing to fuse with."""
    dev = collection.splits.get("dev") if "dev" in settings.splits[1:] else None
    if dev is None:
        return None
    if dev.degrees:
        logger.warning(
            "data %s: %s in dev, which gives no fusion weight: fusion_weight=0.5 chooses one",
            collection.evaluated.name,
            dev.degrees,
        )
    return dev if all(map(settings.eval.has_first_stage, (dev, collection.split(settings.split)))) else None


def compare(settings: EvaluationConfig, collection: Collection, model: RankingModel) -> Measured:
    """The results of a model, of the first stage, and of both fused."""
    split = collection.split(settings.split)
    dev = dev_to_fit_on(settings, collection)
    queries = judged_queries(split, settings.eval.max_queries)
    dev_queries = judged_queries(dev, settings.eval.dev_max_queries) if dev else {}
    expect_prompts(model, collection)
    read_corpus(model, collection)
    # The queries of both splits are evaluated together, so that a corpus is embedded once.
    options = replace(settings.eval, max_queries=None)
    merged = replace(merge_splits(collection, queries | dev_queries), ranked=split.ranked, listed=split.listed)
    prompts = Prompts.of(collection)
    evaluator = options.build(merged, collection.documents, model.tokenizer, prompts=prompts)
    first_stage = select_queries(evaluator.first_stage_run, queries)
    if not settings.retrieves:
        check_candidates(first_stage)  # those of dev do not count
    runner = runner_of(settings, model)
    result = evaluator.evaluate(runner)
    qrels = {query: evaluator.qrels[query] for query in queries}
    ranked = select_queries(result.run, queries)
    results, runs = {"model": result.metrics.over(queries)}, {"model": ranked}
    if evaluator.has_first_stage:
        key = first_stage_key(settings)
        results, runs = {key: evaluator.first_stage.over(queries), **results}, {key: first_stage, **runs}
    weight = fit_fusion(settings, evaluator, result.run, dev_queries)
    if weight is not None:
        runs["fused"] = fuse(first_stage, ranked, weight)
        results["fused"] = measure(qrels, runs["fused"], settings.eval.metrics)
    summary = {
        "name_or_path": settings.model.name_or_path,
        **({} if evaluator.has_first_stage else {"first_stage": None}),
        **source_of_first_stage(evaluator),
        **describe(settings, results),
        **depth_sweep(settings, qrels, first_stage, ranked),
        "recall_ceiling": None if settings.retrieves else candidate_recall(qrels, first_stage),
        "ceiling": evaluator.oracle.over(queries).mean or None,
        "fusion_weight": weight,
        "test_queries": len(queries),
        **partial_entry(evaluator.partial),
        **({} if result.index is None else {"index": result.index}),
        "truncated": summary_of({settings.split: evaluator.truncation(queries)}, limits_of(model.tokenizer)),
        **cost_of_model(settings, collection, runner, evaluator, queries),
    }
    return Measured(summary, qrels, results, runs)


def correlate(settings: EvaluationConfig, collection: Collection, model: RankingModel) -> Measured:
    """The results of a model by the labels of pairs. There is no first stage and nothing to fuse."""
    expect_prompts(model, collection)
    split, prompts = collection.split(settings.split), Prompts.of(collection)
    evaluator = settings.eval.build(split, collection.documents, model.tokenizer, prompts=prompts)
    metrics = evaluator.evaluate(runner_of(settings, model)).metrics
    summary = {
        "name_or_path": settings.model.name_or_path,
        "method": settings.eval.method,
        "metric": settings.eval.metric,
        "model": metrics.mean[settings.eval.metric],
        "metrics": {"model": metrics.mean},
        "tests": {},
        "recall_ceiling": None,
        "ceiling": None,
        "fusion_weight": None,
        "test_queries": len(evaluator.queries),
        "test_pairs": evaluator.num_pairs,
        "truncated": summary_of({settings.split: evaluator.truncation()}, limits_of(model.tokenizer)),
    }
    return Measured(summary)


def runner_of(settings: EvaluationConfig, model: RankingModel) -> MixedPrecision:
    """The model as evaluators run it, on its device."""
    return MixedPrecision(model, autocast_dtype(settings.precision, process_group.device()))


def first_stage_key(settings: EvaluationConfig) -> str:
    """The first stage's key in the results: "bm25" if a model that retrieves is compared with BM25, else
    "first_stage"."""
    is_bm25 = bm25_options_of(getattr(settings.data, "candidates", None)) is not None
    return "bm25" if settings.retrieves and is_bm25 else "first_stage"


def fit_fusion(settings: EvaluationConfig, evaluator: Evaluator, run: Run, queries: Mapping[str, str]) -> float | None:
    """The best weight on `queries`, which are those of dev; without any, the weight in the settings (None if not
    set)."""
    if not queries:
        return settings.fusion_weight
    qrels = {query: evaluator.qrels[query] for query in queries}
    return fit_weight(
        select_queries(evaluator.first_stage_run, queries), select_queries(run, queries), qrels, settings.eval.metric
    )


def describe(settings: EvaluationConfig, results: dict[str, Metrics]) -> dict[str, Any]:
    """Metrics of all rankers and paired tests against the first of them, with the keys of summary.json."""
    metric = settings.eval.metric
    first = next(iter(results))
    values = {name: result.per_query[metric] for name, result in results.items()}
    return {
        "method": settings.eval.method,
        "metric": metric,
        **{name: result.mean[metric] for name, result in results.items()},
        "metrics": {name: result.mean for name, result in results.items()},
        "intervals": {name: intervals(result) for name, result in results.items()},
        "tests": {
            f"{name}_vs_{first}": asdict(paired_test(values[first], values[name]))
            for name in ("model", "fused")
            if name in results and name != first
        },
    }


def own_ranker(results: Mapping[str, Metrics]) -> str:
    """The ranker that is evaluated: the model, or a retriever without one."""
    return "model" if "model" in results else next(iter(results))


def intervals(result: Metrics) -> dict[str, list[float]]:
    """The 95% interval of each metric over queries."""
    found = {name: interval_of([values]) for name, values in result.per_query.items()}
    return {name: [interval.low, interval.high] for name, interval in found.items()}


def select_queries(run: Run, queries: Mapping[str, str]) -> Run:
    """The part of a run that belongs to `queries`."""
    return {query: run[query] for query in queries}
