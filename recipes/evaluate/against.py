"""Compare an evaluation with another run on the same queries."""

from __future__ import annotations

import logging
from collections.abc import Collection, Container
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from data.formats.trec import read_run
from engines.distributed import process_group
from evaluation.metrics import Run, measure
from evaluation.significance import corrected, paired_test
from recipes.evaluate.against_files import check_part, other_texts, queries_of, rankings_of
from recipes.evaluate.config import EvaluationConfig
from recipes.evaluate.rankers import Measured, intervals, own_ranker

logger = logging.getLogger(__name__)

MOST_ABSENT = 0.1  # share of the queries that a TREC run may lack, since it has no line for an empty ranking
BEST = 10  # documents of a query that are looked up in the corpus


def compare_with(
    settings: EvaluationConfig, measured: Measured, documents: Container[str], texts_hash: str
) -> Measured:
    """`measured` with the metrics of the run `against`, by the judgements of this evaluation, and a paired test of each
    metric, with Holm's correction for their number. `documents`: those of the corpus; `texts_hash`: that of this
    evaluation's queries and documents."""
    assert settings.against is not None
    path = Path(settings.against).expanduser()
    check_part(path, measured.summary.get("partial"))
    run = read_run(rankings_of(path))
    check_queries(path, run, measured.qrels)
    check_texts(path, run, measured.qrels, documents, texts_hash)
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


def check_texts(path: Path, run: Run, queries: Collection[str], documents: Container[str], texts_hash: str) -> None:
    """Raise ValueError if the other run's best documents are none of this corpus; warn if some are not, or if its
    queries and documents had other texts: ids such as 1, 2, 3 are those of many collections."""
    best = {document for query in queries for document in islice(run.get(query, {}), BEST)}
    unknown = [document for document in best if document not in documents]
    if best and len(unknown) == len(best):
        raise ValueError(
            f"against={path} ranks no document of this corpus (but {min(unknown)!r} ...): evaluate both on the same"
            " data"
        )
    if not process_group.is_main():
        return
    if unknown:
        logger.warning(
            "against=%s: of its best documents %s of %s are not in this corpus (%r ...): they count as not relevant",
            path,
            f"{len(unknown):,}",
            f"{len(best):,}",
            min(unknown),
        )
    if name := other_texts(path, texts_hash):
        logger.warning(
            "against=%s was measured on other texts (data %s): its values can be compared with these only if the ids "
            "of queries and documents mean the same in both",
            path,
            name,
        )
