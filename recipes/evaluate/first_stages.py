"""Rerank the candidates of several first stages, each pair of query and document scored once, and compare."""

from __future__ import annotations

import logging
from collections.abc import Collection as CollectionOf
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

from data.bm25 import BM25
from data.candidates import bm25_options_of
from data.collection import Collection, Split
from data.formats.trec import read_run
from data.truncation import limits_of, summary_of
from engines.distributed import process_group
from evaluation.evaluator import Prompts, judged_queries, leave_out, most_own_documents
from evaluation.fusion import fuse
from evaluation.metrics import Metrics, Run, measure
from evaluation.reranking_evaluator import RerankingEvaluator, candidate_recall
from evaluation.retrieval_evaluator import RetrievalConfig
from evaluation.significance import corrected, paired_test
from inference.stored_form import StoredForm
from models.capabilities import RankingModel
from models.loading.embedder import embedder_options
from models.loading.kind import declared_kind
from recipes.evaluate.config import EvaluationConfig
from recipes.evaluate.costs import cost_of_model
from recipes.evaluate.depths import depth_sweep
from recipes.evaluate.first_stage_names import BM25_ENTRY, KINDS, VERSUS, is_run_file, names_of
from recipes.evaluate.held_out import merge_splits
from recipes.evaluate.rankers import Measured, fit_fusion, intervals, runner_of, select_queries
from recipes.prompts import expect_prompts

logger = logging.getLogger(__name__)

RERANKERS = ("cross_encoder", "llm_reranker")  # what their folders declare
MOST_ABSENT = 0.1  # share of the queries that a run may lack, since a TREC run has no line for an empty ranking


def check_first_stages(settings: EvaluationConfig) -> None:
    """Compare the folders of embedding models with what is needed, before the data are read. Raises an error in one
    line."""
    for entry in settings.first_stages:
        if entry != BM25_ENTRY and not is_run_file(entry):
            try:
                embedder_options(entry).check()
                kind = declared_kind(entry)
            except (ValueError, OSError) as error:
                raise type(error)(f"first_stages: {error}") from None
            if kind in RERANKERS:
                raise ValueError(f"first_stages: {entry} is a reranker, which finds no documents: {KINDS}")


def compare_first_stages(settings: EvaluationConfig, collection: Collection, model: RankingModel) -> Measured:
    """The results of a reranker behind each of `first_stages`: the first stage, its candidates reranked, both fused,
    and paired tests, with Holm's correction for all of them. A pair of query and document is scored once."""
    queries, dev_queries = _queries(settings, collection)
    merged = merge_splits(collection, queries | dev_queries)
    entries = names_of(settings.first_stages)
    found = {name: _candidates(entry, settings, collection, merged, queries) for name, entry in entries.items()}
    expect_prompts(model, collection)
    evaluators = _evaluators(settings, collection, merged, found, model.tokenizer)
    scorer = copy(next(iter(evaluators.values())))
    runs = [evaluator.first_stage_run for evaluator in evaluators.values()]
    scorer.lists = {query: dict.fromkeys(chain(*(run[query] for run in runs)), 0.0) for query in merged.queries}
    runner = runner_of(settings, model)
    scores = scorer.score(runner, settings.eval.token_budget)
    behind = {name: _behind(settings, own, scores, queries, dev_queries) for name, own in evaluators.items()}
    summary = {
        "name_or_path": settings.model.name_or_path,
        "method": settings.eval.method,
        "metric": settings.eval.metric,
        "model": next(iter(behind.values())).results["model"].mean[settings.eval.metric],
        "first_stages": {name: {"from": entries[name], **own.summary} for name, own in behind.items()},
        "tests": _tests(settings.eval.metric, {name: own.results for name, own in behind.items()}),
        "pairs_scored": sum(len(scorer.lists[query]) for query in queries),
        "pairs_of_all_first_stages": sum(len(run[query]) for run in runs for query in queries),
        "test_queries": len(queries),
        "truncated": summary_of({settings.split: scorer.truncation(queries)}, limits_of(model.tokenizer)),
    }
    summary |= cost_of_model(settings, collection, runner, next(iter(evaluators.values())), queries)
    results = {f"{name}.{key}": value for name, own in behind.items() for key, value in own.results.items()}
    rankings = {f"{name}.{key}": run for name, own in behind.items() for key, run in own.runs.items()}
    return Measured(summary, {query: merged.qrels[query] for query in queries}, results, rankings)


def _reranking(settings: EvaluationConfig) -> Any:
    """The options of the reranking, which is the only evaluation with first stages."""
    return settings.eval


def _queries(settings: EvaluationConfig, collection: Collection) -> tuple[dict[str, str], dict[str, str]]:
    """The evaluated queries, and those of dev that give the weights of the fusion (none without such)."""
    split = collection.split(settings.split)
    dev = collection.splits.get("dev") if "dev" in settings.splits[1:] else None
    queries = judged_queries(split, settings.eval.max_queries)
    return queries, judged_queries(dev, settings.eval.dev_max_queries) if dev and not dev.degrees else {}


def _candidates(
    entry: str, settings: EvaluationConfig, collection: Collection, split: Split, queries: CollectionOf[str]
) -> Run:
    """The ranking of one first stage for the queries of `split`, which are `queries` and those of dev; best first,
    without documents that are the query itself."""
    depth: int = _reranking(settings).depth
    if entry == BM25_ENTRY:
        options = bm25_options_of(getattr(settings.data, "candidates", None))
        bm25 = BM25() if options is None else BM25(options.k1, options.b, options.language, options.tokenizer)
        deep = depth + most_own_documents(split.own_documents, split.queries)
        return leave_out(bm25.retrieve(collection.documents, split.queries, deep), split.own_documents, depth)
    if is_run_file(entry):
        return leave_out(_read(entry, collection, split, queries), split.own_documents, depth)
    model = embedder_options(entry).build(settings.seed).to(process_group.device())
    expect_prompts(model, collection)
    given: dict[str, Any] = {"depth": depth, "token_budget": settings.eval.token_budget, "search": model.search}
    search = RetrievalConfig(metric="nDCG@1", metrics=[], **given)
    prompts = Prompts.of(collection)
    evaluator = search.build(replace(split, candidates={}), collection.documents, model.tokenizer, prompts=prompts)
    return evaluator.retrieve(runner_of(settings, model))[StoredForm()]


def _read(entry: str, collection: Collection, split: Split, queries: CollectionOf[str]) -> Run:
    """The rankings of a file for the queries of `split`, best first, without documents that the corpus lacks. Raises
    ValueError if it ranks none of the corpus for more than a few of `queries`."""
    run = read_run(Path(entry).expanduser())
    known, others = {}, 0
    for query in split.queries:
        scores = {name: score for name, score in run.get(query, {}).items() if name in collection.documents}
        others += len(run.get(query, {})) - len(scores)
        known[query] = dict(sorted(scores.items(), key=lambda pair: -pair[1]))
    absent = [query for query in queries if not known[query]]
    if len(absent) > MOST_ABSENT * len(queries):
        raise ValueError(
            f"first_stages: {entry} ranks no document of the corpus for {len(absent):,} of the "
            f"{len(queries):,} queries ({absent[0]!r} ...): give a run of this split and collection"
        )
    if others and process_group.is_main():
        logger.warning("first_stages: %s: %s documents that the corpus lacks are left out", entry, f"{others:,}")
    if absent and process_group.is_main():
        logger.warning(
            "first_stages: %s ranks no document of the corpus for %s of the %s queries (%r ...): they count as 0",
            entry,
            f"{len(absent):,}",
            f"{len(queries):,}",
            absent[0],
        )
    return known


def _evaluators(
    settings: EvaluationConfig, collection: Collection, split: Split, found: Mapping[str, Run], tokenizer: Any
) -> dict[str, RerankingEvaluator]:
    """The evaluator of each first stage, over the queries of `split`."""
    options, prompts = replace(_reranking(settings), max_queries=None), Prompts.of(collection)
    evaluators = {}
    for name, run in found.items():
        candidates = {query: list(run.get(query, {}).items()) for query in split.queries}
        own = replace(split, candidates=candidates, ranked=True, listed=False)
        evaluators[name] = options.build(own, collection.documents, tokenizer, prompts=prompts)
    return evaluators


def _behind(
    settings: EvaluationConfig,
    evaluator: RerankingEvaluator,
    scores: Run,
    queries: Mapping[str, str],
    dev_queries: Mapping[str, str],
) -> Measured:
    """The results behind one first stage."""
    run = {query: {document: scores[query][document] for document in own} for query, own in evaluator.lists.items()}
    first_stage, ranked = select_queries(evaluator.first_stage_run, queries), select_queries(run, queries)
    ranks_dev = any(evaluator.first_stage_run[query] for query in dev_queries)
    weight = fit_fusion(settings, evaluator, run, dev_queries if ranks_dev else {})
    runs = {"first_stage": first_stage, "model": ranked}
    if weight is not None:
        runs["fused"] = fuse(first_stage, ranked, weight)
    qrels = {query: evaluator.qrels[query] for query in queries}
    results = {key: measure(qrels, own, settings.eval.metrics) for key, own in runs.items()}
    summary = {
        "recall_ceiling": candidate_recall(qrels, first_stage),
        "ceiling": evaluator.oracle.over(queries).mean,
        "fusion_weight": weight,
        "metrics": {key: own.mean for key, own in results.items()},
        "intervals": {key: intervals(own) for key, own in results.items()},
        **depth_sweep(settings, qrels, first_stage, ranked),
    }
    return Measured(summary, qrels, results, runs)


def _tests(metric: str, results: Mapping[str, Mapping[str, Metrics]]) -> dict[str, Any]:
    """Paired tests of the reranked and of the fused ranking against the first stage, and of the rerankings against that
    of the first one named, with Holm's correction for their number."""
    values = {f"{name}.{key}": own.per_query[metric] for name, of in results.items() for key, own in of.items()}
    first = next(iter(results))
    pairs = [(f"{name}.{key}", f"{name}.first_stage") for name in results for key in ("model", "fused")]
    pairs += [(f"{name}.model", f"{first}.model") for name in results if name != first]
    tests = {f"{one}{VERSUS}{two}": paired_test(values[two], values[one]) for one, two in pairs if one in values}
    return {name: asdict(test) for name, test in corrected(tests).items()}
