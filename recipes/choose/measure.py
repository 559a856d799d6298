"""Measure one model, or BM25, on the queries of a split: quality, stored forms, windows, texts, cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from data.bm25 import BM25
from data.candidates import bm25_options_of
from data.collection import Collection, Split
from data.store.texts import texts_of
from engines.distributed import process_group
from engines.distributed.collectives import on_main
from engines.precision import MixedPrecision, autocast_dtype
from evaluation.cost import measure_embedder, measure_reranker, measure_retriever
from evaluation.evaluator import EvaluationResult, Prompts, judged_queries, leave_out, most_own_documents
from evaluation.metrics import Metrics, Run, measure
from evaluation.reranking_evaluator import RerankingEvaluator, candidate_recall
from evaluation.retrieval_evaluator import OVERLAP_DEPTH, RetrievalEvaluator
from evaluation.significance import interval_of, paired_test
from evaluation.windows import WindowLists, best_of, later_windows, search_windows
from inference.stored_form import StoredForm
from recipes.build import read_corpus
from recipes.choose.config import RERANKED, RETRIEVED, ChooseConfig
from recipes.choose.entries import Entry, embeds
from recipes.choose.store import Measurement, PerQuery
from recipes.choose.texts import Sample, read_by
from recipes.prompts import expect_prompts

Built = Any  # a model on its device


@dataclass(frozen=True)
class Bench:
    """What all models are measured on."""

    settings: ChooseConfig
    collection: Collection

    @property
    def split(self) -> Split:
        return self.collection.split(self.settings.split)

    @cached_property
    def queries(self) -> dict[str, str]:
        return judged_queries(self.split, self.settings.eval.max_queries)

    @cached_property
    def qrels(self) -> dict[str, Mapping[str, int]]:
        return {query: self.split.qrels[query] for query in self.queries}

    @cached_property
    def sample(self) -> Sample:
        return Sample.of(texts_of(self.collection.documents), list(self.queries.values()))


def measure_bm25(bench: Bench, *, retrieves: bool) -> Measurement:
    """Measure BM25 over the corpus, or as the first stage whose candidates are reranked. Call it on all ranks."""
    options, split = bench.settings.eval, bench.split
    depth = options.depth or (RETRIEVED if retrieves else RERANKED)
    of_data = bm25_options_of(getattr(bench.settings.data, "candidates", None))
    bm25 = BM25(of_data.k1, of_data.b, of_data.language, of_data.tokenizer) if of_data else BM25()
    if retrieves:
        more = most_own_documents(split.own_documents, bench.queries)
        run: Run = bm25.retrieve(bench.collection.documents, bench.queries, depth + more)
        run = leave_out(run, split.own_documents, depth)
    else:
        run = {query: dict(split.candidates.get(query, [])[:depth]) for query in bench.queries}
    metrics = measure(bench.qrels, run, options.metrics)
    texts = texts_of(bench.collection.documents)
    cost = measure_retriever(bm25, texts, list(bench.queries.values()), depth=min(depth, len(texts)))
    figures = {**quality_of(metrics), "forms": [], "cost": asdict(cost)}
    if not retrieves:
        figures["recall_ceiling"] = candidate_recall(bench.qrels, run)
    return Measurement(figures, metrics.per_query, {"model": run})


def measure_model(bench: Bench, entry: Entry) -> Measurement:
    """Load a model and measure it. Call it on all ranks.

    Raises ValueError, OSError, MemoryError or FloatingPointError in one line if the model does not run.
    """
    settings, device = bench.settings, process_group.device()
    model = entry.options.build(settings.seed).to(device)
    expect_prompts(model, bench.collection)
    read_corpus(model, bench.collection)
    runner = MixedPrecision(model, autocast_dtype(settings.precision, device))
    measurement = (_embedder if embeds(entry) else _reranker)(bench, model, runner)
    measurement.figures.update(
        parameters=sum(part.size for part in model.parts()),
        max_length=model.tokenizer.max_length,
        texts=on_main(lambda: read_by(model.tokenizer, bench.sample)),
    )
    return measurement


def _embedder(bench: Bench, model: Built, runner: MixedPrecision) -> Measurement:
    collection, prompts = bench.collection, Prompts.of(bench.collection)
    config = bench.settings.eval.of_embedder(model.dimension, model.search)
    evaluator = config.build(bench.split, collection.documents, model.tokenizer, prompts=prompts)
    result = evaluator.evaluate(runner)
    documents, queries = texts_of(collection.documents), list(bench.queries.values())
    cost = measure_embedder(
        runner,
        model.tokenizer,
        documents,
        queries,
        prompts=prompts,
        forms=config.forms,
        depth=min(config.depth, len(documents)),
        token_budget=config.token_budget,
        search=config.search,
    )
    figures = {
        **quality_of(result.metrics),
        "dimension": model.dimension,
        "similarity": model.similarity,
        "forms": [_form(form, result, config.metric, model.dimension) for form in config.forms],
        "cost": asdict(cost),
        "truncated": _truncated(evaluator),
    }
    per_query: PerQuery = result.metrics.per_query
    runs: dict[str, Run] = {"model": result.run}
    if wants_windows(bench.settings, figures["truncated"], model.tokenizer):
        windows = later_windows(evaluator)
        found = search_windows(evaluator, runner, windows) if windows else {}
        run = best_of(result.run, found, config.depth, evaluator.own_documents)
        more = sum(map(len, windows.values()))
        figures["windows"] = _windows(bench, result.metrics, run, more, (len(documents) + more) / len(documents))
        runs["windows"] = run
    return Measurement(figures, per_query, runs)


def _reranker(bench: Bench, model: Built, runner: MixedPrecision) -> Measurement:
    collection, prompts = bench.collection, Prompts.of(bench.collection)
    config = bench.settings.eval.of_reranker()
    evaluator = config.build(bench.split, collection.documents, model.tokenizer, prompts=prompts)
    result = evaluator.evaluate(runner)
    lists = [
        (bench.queries[query], [collection.documents[name] for name in own]) for query, own in evaluator.lists.items()
    ]
    cost = measure_reranker(runner, model.tokenizer, lists, prompts=prompts, token_budget=config.token_budget)
    truncated = _truncated(evaluator)
    figures: dict[str, Any] = {**quality_of(result.metrics), "forms": [], "cost": asdict(cost), "truncated": truncated}
    runs: dict[str, Run] = {"model": result.run}
    if wants_windows(bench.settings, truncated, model.tokenizer):
        windows = WindowLists(evaluator)
        found = windows.best_windows(runner, config.token_budget)
        run = best_of(result.run, found, config.depth, {})
        pairs, more = sum(map(len, evaluator.lists.values())), len(windows.documents)
        figures["windows"] = _windows(bench, result.metrics, run, more, (pairs + more) / pairs)
        runs["windows"] = run
    return Measurement(figures, result.metrics.per_query, runs)


def wants_windows(settings: ChooseConfig, truncated: Mapping[str, Any] | None, tokenizer: Any) -> bool:
    """Whether windows are measured: they are asked for, or so many documents are cut. Raises ValueError if they are
    asked for and the tokenizer does not count tokens."""
    counts = truncated is not None and hasattr(tokenizer, "token_ids")
    if settings.windows == "always" and not counts:
        raise ValueError(
            "windows=always: the tokenizer of this model does not count tokens, windows=auto leaves it out"
        )
    share = truncated["documents"] if truncated is not None else 0.0
    return counts and (settings.windows == "always" or (settings.windows == "auto" and share >= settings.windows_from))


def quality_of(metrics: Metrics) -> dict[str, Any]:
    """The means of the plain metrics, and their 95% intervals."""
    plain = {name: values for name, values in metrics.per_query.items() if "/" not in name}
    intervals = {name: interval_of([values]) for name, values in plain.items()}
    return {
        "metrics": {name: metrics.mean[name] for name in plain},
        "intervals": {name: [own.low, own.high] for name, own in intervals.items()},
    }


def _form(form: StoredForm, result: EvaluationResult, metric: str, dimension: int) -> dict[str, Any]:
    """One stored form: its quality with the interval, the overlap with float32, and the bytes of the index."""
    assert result.index is not None
    interval = interval_of([result.metrics.per_query[metric + form.suffix]])
    return {
        "form": form.name,
        "suffix": form.suffix,
        "dim": form.dim or dimension,
        "precision": form.precision,
        "quality": interval.mean,
        "interval": [interval.low, interval.high],
        "overlap": result.metrics.mean.get(f"overlap@{OVERLAP_DEPTH}{form.suffix}"),
        "index_bytes": result.index["bytes"][form.name],
    }


def _truncated(evaluator: RetrievalEvaluator | RerankingEvaluator) -> dict[str, Any] | None:
    """The shares of queries and documents that are cut (of a reranker, in its lists)."""
    count = evaluator.truncation()
    return None if count is None else {"queries": count.query_share, "documents": count.document_share}


def _windows(bench: Bench, whole: Metrics, run: Run, more: int, factor: float) -> dict[str, Any]:
    """The quality with windows, and the paired test against documents cut at the model's length."""
    metric = bench.settings.eval.metric
    metrics = measure(bench.qrels, run, bench.settings.eval.metrics)
    interval = interval_of([metrics.per_query[metric]])
    return {
        "quality": interval.mean,
        "interval": [interval.low, interval.high],
        "metrics": metrics.mean,
        "test": asdict(paired_test(whole.per_query[metric], metrics.per_query[metric])),
        "more_windows": more,
        "texts_factor": factor,
    }
