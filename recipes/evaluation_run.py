"""An evaluation run: rank held-out queries, measure, fuse with the first stage, test significance, print."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.candidates import NOTHING, CandidateSource, LeftOut, Queries, bm25_options_of
from data.collection import Candidates, Collection, Split
from data.truncation import summary_of
from engines.distributed import process_group
from engines.distributed.heartbeat import OnLostRank
from engines.precision import MixedPrecision, check_precision, uses_bf16
from evaluation.evaluator import Evaluator, EvaluatorConfig, Prompts, judged_queries, leave_out, most_own_documents
from evaluation.fusion import fit_weight, fuse
from evaluation.metrics import Metrics, Run, measure
from evaluation.reranking_evaluator import candidate_recall, check_candidates
from evaluation.significance import paired_test
from recipes.checks.compatibility import check_is_data, check_is_model, check_outputs
from recipes.evaluation_choice import choose_evaluation, ranking_refused
from recipes.prompts import expect_prompts
from recipes.results import source_of_first_stage
from recipes.run_config import check_timeout
from runs.report.content import print_table

logger = logging.getLogger(__name__)

# Names of splits elsewhere -> the names here.
SPLITS_OF_OTHERS = {
    **dict.fromkeys(("validation", "valid", "val", "eval", "development"), "dev"),
    **dict.fromkeys(("training", "fit"), "train"),
    **dict.fromkeys(("testing", "held_out"), "test"),
}


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The root of conf/evaluate.yaml."""

    model: Any  # models.capabilities.ModelOptions, or a retriever such as data.bm25.BM25
    data: Any
    eval: EvaluatorConfig
    eval_of_degrees: EvaluatorConfig | None = None  # instead of `eval` for pairs labelled with degrees; None: refused
    split: str = "test"
    fusion_weight: float | None = None
    precision: str = "auto"
    seed: int = 42
    output: str | None = None
    timeout_s: float = 1800.0  # seconds without progress of a rank or collective after which the run is ended

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_timeout(self.timeout_s)
        check_is_model("model", self.model)
        check_is_data(self.data)
        if own := [name for name, loss in self.data.own_losses.items() if loss is not None]:
            raise ValueError(f"data.sources.{own[0]}.loss is read in training only: leave it out")
        if not self.model.retrieves_by_itself:
            check_outputs("this evaluation", self.eval.required_outputs, self.model, "eval=reranking")
        elif not self.retrieves:
            reason = (
                "finds the candidates that eval=reranking reorders"
                if self.eval.ranks
                else "gives no scores of pairs, which eval=similarity compares with labels"
            )
            raise ValueError(f"model={self.model.name} {reason}: choose eval=retrieval")
        elif self.fusion_weight is not None:
            raise ValueError(
                f"fusion_weight={self.fusion_weight}: model={self.model.name} is fused with nothing, leave it out"
            )
        if self.fusion_weight is not None and not 0 <= self.fusion_weight <= 1:
            raise ValueError(f"fusion_weight={self.fusion_weight} must lie in [0, 1] (1: the model alone)")
        if self.fusion_weight is not None and not self.eval.ranks:
            raise ValueError(f"fusion_weight={self.fusion_weight}: eval=similarity fuses with nothing, leave it out")
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise FileNotFoundError(f"output={self.output}: the folder {Path(self.output).parent} does not exist")

    @property
    def retrieves(self) -> bool:
        return self.eval.searches_corpus

    @property
    def splits(self) -> list[str]:
        """The evaluated split, and dev if the fusion weight is fitted on it (no weight is given, dev is not
        evaluated)."""
        is_fused = self.eval.ranks and not self.model.retrieves_by_itself
        fits_weight = is_fused and self.fusion_weight is None and self.split != "dev"
        return [self.split, "dev"] if fits_weight else [self.split]


@dataclass(frozen=True)
class CandidatesOfSplits:
    """Candidates for the queries of some splits; the queries of other splits get empty lists."""

    source: CandidateSource
    splits: tuple[str, ...]

    def build(
        self, documents: Mapping[str, str], queries: Queries, cache_dir: Path, left_out: LeftOut = NOTHING
    ) -> dict[str, Candidates]:
        wanted = {name: texts for name, texts in queries.items() if name in self.splits}
        empty: dict[str, Candidates] = {
            name: {query: [] for query in texts} for name, texts in queries.items() if name not in wanted
        }
        return empty | (self.source.build(documents, wanted, cache_dir, left_out) if wanted else {})


def evaluate(settings: EvaluationConfig, *, on_lost_rank: OnLostRank | None = None) -> float:
    """Evaluate, print the results and write `output`. Returns the model's `eval.metric`."""
    process_group.start(settings.timeout_s, on_lost_rank)
    is_retriever = settings.model.retrieves_by_itself
    if not is_retriever:
        settings.model.check(needs_head=True)  # before the data is read
    collection = build_data(settings)
    check_split(settings.split, collection)
    settings = fit_evaluation(settings, collection)
    measure_model = evaluate_retriever if is_retriever else compare if settings.eval.ranks else correlate
    summary = measure_model(settings, collection)
    summary = {"data": collection.name, "data_hash": collection.fingerprint, "split": settings.split} | summary
    if process_group.is_main():
        print(f"{collection.name}, {settings.split}: {summary['name_or_path']}, {summary['method']}\n")
        print_table(summary)
        if settings.output is not None:
            summary |= {"skipped": list(collection.skipped)} if collection.skipped else {}
            Path(settings.output).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    process_group.stop()
    return summary[settings.model.name if is_retriever else "model"]


def build_data(settings: EvaluationConfig) -> Collection:
    """Build the collection. For retrieval, BM25 returns as many documents as the model does, for evaluated queries
    only; for labels of pairs it searches for none."""
    data = settings.data.map_sources(lambda source: source.for_evaluation(settings.split))
    bm25 = bm25_options_of(getattr(data, "candidates", None))
    if bm25 is None or (settings.eval.ranks and not settings.retrieves):
        return data.build()
    source = replace(bm25, depth=max(bm25.depth, settings.eval.retrieval_depth))
    splits = tuple(settings.splits) if settings.eval.ranks and not settings.model.retrieves_by_itself else ()
    return replace(data, candidates=CandidatesOfSplits(source, splits)).build()


def check_split(split: str, collection: Collection) -> None:
    """Raise ValueError if the data have no such split; it names those that there are."""
    data = collection.evaluated
    if split not in data.splits and split not in data.missing:
        found = " or ".join(f"split={name}" for name in data.splits)
        meant = SPLITS_OF_OTHERS.get(split)
        close = [meant] if meant in data.splits else difflib.get_close_matches(split, list(data.splits), n=1)
        raise ValueError(
            f"data {data.name} has no {split} split: {''.join(f'did you mean {name}? ' for name in close)}add "
            f"its judgements, or choose {found or 'other data'}"
        )
    collection.split(split)


def fit_evaluation(settings: EvaluationConfig, collection: Collection) -> EvaluationConfig:
    """The settings with the evaluation that fits the labels of the evaluated split."""
    split = collection.split(settings.split)
    if settings.model.retrieves_by_itself and split.degrees:
        raise ValueError(ranking_refused(collection.evaluated, split.degrees, ""))
    return choose_evaluation(settings, collection.evaluated, {settings.split: split}, (settings.split,))


def evaluate_retriever(settings: EvaluationConfig, collection: Collection) -> dict[str, Any]:
    """The results of a retriever that needs no model (BM25), in JSON types."""
    split = collection.split(settings.split)
    queries = judged_queries(split, settings.eval.max_queries)
    depth, own = settings.eval.retrieval_depth, split.own_documents
    run = settings.model.retrieve(collection.documents, queries, depth + most_own_documents(own, queries))
    run = leave_out(run, own, depth)
    name = settings.model.name
    results = {name: measure({query: split.qrels[query] for query in queries}, run, settings.eval.metrics)}
    return {"name_or_path": name, **describe(settings, results), "test_queries": len(queries)}


def compare(settings: EvaluationConfig, collection: Collection) -> dict[str, Any]:
    """The results of a model, of the first stage, and of both fused, in JSON types."""
    split = collection.split(settings.split)
    dev = collection.splits.get("dev") if "dev" in settings.splits[1:] else None
    if dev is not None and dev.degrees:
        logger.warning(
            "data %s: %s in dev, which gives no fusion weight: fusion_weight=0.5 chooses one",
            collection.evaluated.name,
            dev.degrees,
        )
    has_first_stage = settings.eval.has_first_stage
    dev = dev if dev is not None and has_first_stage(dev) and has_first_stage(split) else None
    if settings.fusion_weight is not None and not has_first_stage(split):
        listed = "what the data list with each query"
        why = f"the candidates are {listed}, in random order"
        why = f"the whole corpus is searched, not {listed}" if settings.retrieves else why
        raise ValueError(
            f"fusion_weight={settings.fusion_weight}: {why}, so there is no first stage to fuse with: leave it out"
        )
    queries = judged_queries(split, settings.eval.max_queries)
    dev_queries = judged_queries(dev, settings.eval.dev_max_queries) if dev else {}
    device = process_group.device()
    model = settings.model.build(settings.seed).to(device)
    expect_prompts(model, collection)
    # The queries of both splits are evaluated together, so that a corpus is embedded once.
    options = replace(settings.eval, max_queries=None)
    merged = replace(merge_splits(collection, queries | dev_queries), ranked=split.ranked, listed=split.listed)
    prompts = Prompts.of(collection)
    evaluator = options.build(merged, collection.documents, model.tokenizer, prompts=prompts)
    first_stage = select_queries(evaluator.first_stage_run, queries)
    if not settings.retrieves:
        check_candidates(first_stage)  # those of dev do not count
    result = evaluator.evaluate(MixedPrecision(model, uses_bf16(settings.precision, device)))

    qrels = {query: evaluator.qrels[query] for query in queries}
    ranked = select_queries(result.run, queries)
    results = {"model": result.metrics.over(queries)}
    if evaluator.has_first_stage:
        results = {first_stage_key(settings): evaluator.first_stage.over(queries), **results}
    weight = fit_fusion(settings, evaluator, result.run, dev_queries)
    if weight is not None:
        results["fused"] = measure(qrels, fuse(first_stage, ranked, weight), settings.eval.metrics)
    source = settings.model.name_or_path
    return {
        "name_or_path": source,
        **({} if evaluator.has_first_stage else {"first_stage": None}),
        **source_of_first_stage(evaluator),
        **describe(settings, results),
        "recall_ceiling": None if settings.retrieves else candidate_recall(qrels, first_stage),
        "ceiling": evaluator.oracle.over(queries).mean or None,
        "fusion_weight": weight,
        "test_queries": len(queries),
        "truncated": summary_of({settings.split: evaluator.truncation(queries)}, model.tokenizer.max_length),
    }


def correlate(settings: EvaluationConfig, collection: Collection) -> dict[str, Any]:
    """The results of a model by the labels of pairs, in JSON types. There is no first stage and nothing to fuse."""
    device = process_group.device()
    model = settings.model.build(settings.seed).to(device)
    expect_prompts(model, collection)
    split, prompts = collection.split(settings.split), Prompts.of(collection)
    evaluator = settings.eval.build(split, collection.documents, model.tokenizer, prompts=prompts)
    metrics = evaluator.evaluate(MixedPrecision(model, uses_bf16(settings.precision, device))).metrics
    return {
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
        "truncated": summary_of({settings.split: evaluator.truncation()}, model.tokenizer.max_length),
    }


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
        "tests": {
            f"{name}_vs_{first}": asdict(paired_test(values[first], values[name]))
            for name in ("model", "fused")
            if name in results and name != first
        },
    }


def merge_splits(collection: Collection, queries: Mapping[str, str]) -> Split:
    """A split that holds `queries`, which may come from several splits."""

    def select(name: str) -> dict[str, Any]:
        values = (getattr(split, name).items() for split in collection.splits.values())
        return {query: value for items in values for query, value in items if query in queries}

    return Split(
        dict(queries),
        select("qrels"),
        select("candidates"),
        prompts=select("prompts"),
        own_documents=select("own_documents"),
    )


def select_queries(run: Run, queries: Mapping[str, str]) -> Run:
    """The part of a run that belongs to `queries`."""
    return {query: run[query] for query in queries}
