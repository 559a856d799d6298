"""Compare an evaluation with another run on the same queries."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

from data.formats.trec import read_run
from engines.distributed import process_group
from evaluation.metrics import Run, measure
from evaluation.significance import corrected, paired_test
from recipes.evaluate.against_files import check_part, queries_of, rankings_of
from recipes.evaluate.config import EvaluationConfig
from recipes.evaluate.rankers import Measured, intervals, own_ranker

logger = logging.getLogger(__name__)

MOST_ABSENT = 0.1  # share of the queries that a TREC run may lack, since it has no line for an empty ranking


def compare_with(settings: EvaluationConfig, measured: Measured) -> Measured:
    """`measured` with the metrics of the run `against`, by the judgements of this evaluation, and a paired test of each
    metric, with Holm's correction for their number."""
    assert settings.against is not None
    path = Path(settings.against).expanduser()
    check_part(path, measured.summary.get("partial"))
    run = read_run(rankings_of(path))
    check_queries(path, run, measured.qrels)
    other = measure(measured.qrels, {query: run.get(query, {}) for query in measured.qrels}, settings.eval.metrics)
    own = measured.results[own_ranker(measured.results)]
    tests = corrected({metric: paired_test(other.per_query[metric], own.per_query[metric]) for metric in other.mean})
    summary = {
        **measured.summary,
        "against": other.mean[settings.eval.metric],
        "against_path": str(path),
        "metrics": {**measured.summary["metrics"], "against": other.mean},
        "intervals": {**measured.summary["intervals"], "against": intervals(other)},
        "tests_against": {metric: asdict(test) for metric, test in tests.items()},
    }
    return replace(measured, summary=summary, results={**measured.results, "against": other})


def check_queries(path: Path, run: Run, queries: Collection[str]) -> None:
    """Raise ValueError if the other run has not ranked these queries: its missing values are not zeros."""
    ranked = queries_of(path)
    absent = [query for query in queries if query not in (run.keys() if ranked is None else ranked)]
    if not absent:
        return
    if ranked is not None or len(absent) > MOST_ABSENT * len(queries):
        raise ValueError(
            f"against={path} has not ranked {len(absent):,} of the {len(queries):,} queries ({absent[0]!r} ...): "
            "evaluate both with the same data, split and eval.max_queries"
        )
    if process_group.is_main():
        logger.warning(
            "against=%s ranks no document for %s of the %s queries (%r ...): they count as 0",
            path,
            f"{len(absent):,}",
            f"{len(queries):,}",
            absent[0],
        )
