"""What an evaluation does: rank held-out queries, measure, fuse with the first stage, test, print."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data.collection import Collection, Split
from engines import process_group
from engines.precision import MixedPrecision, check_precision, uses_bf16
from evaluation.fusion import fit_weight, fuse
from evaluation.metrics import Run, measure
from evaluation.report import print_table
from evaluation.reranking import RerankingConfig, RerankingEvaluator, judged_queries
from evaluation.retrieval import BM25, DEPTH, DenseRetriever
from evaluation.significance import paired_test
from launch.compose import instantiate
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.resolve import resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The root of conf/evaluate.yaml."""

    model: BM25 | BiEncoderConfig | CrossEncoderConfig
    data: Any
    eval: RerankingConfig
    split: str = "test"
    fusion_weight: float | None = None
    precision: str = "auto"
    seed: int = 42
    output: str | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.fusion_weight is not None and not 0 <= self.fusion_weight <= 1:
            raise ValueError(f"fusion_weight={self.fusion_weight} must lie in [0, 1] (1: the model alone)")
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise FileNotFoundError(f"output={self.output}: the folder {Path(self.output).parent} does not exist")


@dataclass(frozen=True)
class Rankings:
    """Runs over the evaluated queries and those of dev together."""

    baseline: str  # "first_stage" of a reranker, or "bm25"
    baseline_run: Run
    model_run: Run | None  # None: the baseline is what is evaluated
    evaluator: RerankingEvaluator | None = None  # of a reranker: its ceilings
    note: str = ""


def evaluate(config: DictConfig) -> float:
    """Print the table and write `output`; returns the model's `eval.metric`."""
    settings: EvaluationConfig = instantiate(config)
    process_group.start()
    if not isinstance(settings.model, BM25):
        resolve(settings.model.name_or_path)  # a model that cannot be had is known before the data is read
    warn_of_ignored(settings)
    collection = settings.data.build()
    split, dev = collection.split(settings.split), dev_split(settings, collection)
    method = rerank if isinstance(settings.model, CrossEncoderConfig) else retrieve
    rankings = method(settings, collection, split, dev)
    summary = {"data": collection.name, "data_hash": collection.fingerprint, "split": settings.split}
    summary |= summarise(settings, split, dev, rankings)
    if process_group.is_main():
        print(f"{collection.name}, {settings.split}: {summary['name_or_path']}, {summary['method']}\n")
        print_table(summary)
        if rankings.note:
            print(rankings.note)
        if settings.output is not None:
            Path(settings.output).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    process_group.stop()
    return summary["model" if rankings.model_run is not None else rankings.baseline]


def warn_of_ignored(settings: EvaluationConfig) -> None:
    """One line about options that were changed and that this kind of model does not read."""
    if isinstance(settings.model, CrossEncoderConfig) or not process_group.is_main():
        return
    default = RerankingConfig()
    ignored = [
        f"eval.{name}"
        for name in ("depth", "always_rerank_positives")
        if getattr(settings.eval, name) != getattr(default, name)
    ]
    if isinstance(settings.model, BM25) and settings.fusion_weight is not None:
        ignored.append("fusion_weight")
    if ignored:
        logger.warning("%s ignored: this model ranks the whole corpus, without a first stage", ", ".join(ignored))


def dev_split(settings: EvaluationConfig, collection: Collection) -> Split | None:
    """Where the fusion weight is fitted: nowhere if it is given, if nothing is fused, or if dev itself is evaluated."""
    if settings.fusion_weight is not None or settings.split == "dev" or isinstance(settings.model, BM25):
        return None
    return collection.splits.get("dev")


def rerank(settings: EvaluationConfig, collection: Collection, split: Split, dev: Split | None) -> Rankings:
    """The first stage's candidates in its order and in that of a cross-encoder."""
    assert isinstance(settings.model, CrossEncoderConfig)
    device = process_group.device()
    model = settings.model.build(settings.seed).to(device)
    evaluator = settings.eval.build(split, collection.documents, model.tokenizer)
    forward = MixedPrecision(model, uses_bf16(settings.precision, device)).forward
    model_run, first_stage_run = dict(evaluator.evaluate(forward, device).run), dict(evaluator.first_stage_run)
    if dev is not None:
        fitted = settings.eval.build(dev, collection.documents, model.tokenizer, dev=True)
        model_run |= fitted.evaluate(forward, device).run
        first_stage_run |= fitted.first_stage_run
    note = f"warning: {model.source} has no score head: an untrained one was drawn" if model.fresh_head else ""
    return Rankings("first_stage", first_stage_run, model_run, evaluator, note)


def retrieve(settings: EvaluationConfig, collection: Collection, split: Split, dev: Split | None) -> Rankings:
    """The best documents of the whole corpus by BM25, and by a bi-encoder if that is the model."""
    queries = judged_queries(split, settings.eval.max_queries)
    if dev is not None:
        queries |= judged_queries(dev, settings.eval.dev_max_queries)
    bm25 = settings.model if isinstance(settings.model, BM25) else BM25()
    bm25_run = bm25.retrieve(collection.documents, queries, DEPTH)
    if not isinstance(settings.model, BiEncoderConfig):
        return Rankings("bm25", bm25_run, None)
    device = process_group.device()
    model = settings.model.build(settings.seed).to(device)
    forward = MixedPrecision(model, uses_bf16(settings.precision, device)).forward
    retriever = DenseRetriever(forward, model.tokenizer, device, settings.eval.token_budget)
    return Rankings("bm25", bm25_run, retriever.retrieve(collection.documents, queries, DEPTH))


def summarise(settings: EvaluationConfig, split: Split, dev: Split | None, rankings: Rankings) -> dict[str, Any]:
    """The results as JSON types, with the keys of a training run's summary.json where they mean the same."""
    metric, evaluator = settings.eval.metric, rankings.evaluator
    runs, weight = {rankings.baseline: rankings.baseline_run}, settings.fusion_weight
    if rankings.model_run is not None:
        runs["model"] = rankings.model_run
        if dev is not None:
            fitted = {query: dev.qrels[query] for query in judged_queries(dev, settings.eval.dev_max_queries)}
            weight = fit_weight(rankings.baseline_run, rankings.model_run, fitted, metric)
        if weight is not None:
            runs["fused"] = fuse(rankings.baseline_run, rankings.model_run, weight)
    qrels = {query: split.qrels[query] for query in judged_queries(split, settings.eval.max_queries)}
    names = settings.eval.metrics if evaluator else [*settings.eval.metrics, "recall@100"]
    results = {name: measure(qrels, run, names) for name, run in runs.items()}
    before = results[rankings.baseline].per_query[metric]
    return {
        "name_or_path": getattr(settings.model, "name_or_path", "bm25"),
        "method": f"reranked to depth {settings.eval.depth}" if evaluator else "retrieved from the whole corpus",
        "metric": metric,
        **{name: result.mean[metric] for name, result in results.items()},
        "metrics": {name: result.mean for name, result in results.items()},
        "recall_ceiling": evaluator.recall_ceiling if evaluator else None,
        "ceiling": evaluator.ceiling.mean if evaluator else None,
        "fusion_weight": weight if "fused" in runs else None,
        "tests": {
            f"{name}_vs_{rankings.baseline}": asdict(paired_test(before, results[name].per_query[metric]))
            for name in ("model", "fused")
            if name in runs
        },
        "test_queries": len(qrels),
    }
