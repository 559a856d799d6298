"""The queries on which a model gained and lost most, with their texts, for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluation.evaluator import EvaluationResult, Evaluator
from evaluation.metrics import Metrics, rank

TEXT_LENGTH = 400  # characters of a document that are shown


def write_queries(file: Path, evaluator: Evaluator, before: Metrics, after: EvaluationResult, count: int = 5) -> None:
    """Write `extreme_queries` as JSON: the `queries.json` that `write_report` shows."""
    file.write_text(
        json.dumps(extreme_queries(evaluator, before, after, count), ensure_ascii=False, indent=1), encoding="utf-8"
    )


def extreme_queries(evaluator: Evaluator, before: Metrics, after: EvaluationResult, count: int) -> dict[str, Any]:
    """The queries with the largest gains over the first stage and the largest losses: {"metric", "best": [query, ...],
    "worst": [query, ...]}. If there is no first stage, they are compared with the starting model, `before`.

    A query is {"id", "text", "first_stage", "after", "documents": [{"id", "grade", "rank", "first_stage_rank",
    "text"}]} with the model's first three documents and the relevant one that it ranks highest; `first_stage_rank` is
    None if the first stage did not return the document. Without a first stage, "before" is in the place of
    "first_stage".
    """
    metric = evaluator.config.metric
    name = "first_stage" if evaluator.has_first_stage else "before"
    other = evaluator.first_stage if evaluator.has_first_stage else before
    first, last = other.per_query[metric], after.metrics.per_query[metric]
    ordered = sorted(last, key=lambda query: (first[query] - last[query], query))
    best = [query for query in ordered[:count] if last[query] > first[query]]
    worst = [query for query in reversed(ordered[-count:]) if last[query] < first[query]]
    return {
        "metric": metric,
        "best": [{**_describe(query, evaluator, after), name: first[query]} for query in best],
        "worst": [{**_describe(query, evaluator, after), name: first[query]} for query in worst],
    }


def _describe(query: str, evaluator: Evaluator, after: EvaluationResult) -> dict[str, Any]:
    metric, grades = evaluator.config.metric, evaluator.qrels[query]
    ranking = rank(query, after.run[query])
    first_stage_ranks = {
        document: position for position, document in enumerate(rank(query, evaluator.first_stage_run[query]), 1)
    }
    relevant = [document for document in ranking if grades.get(document, 0) > 0]
    shown = [document for document in ranking if document in ranking[:3] or document in relevant[:1]]
    return {
        "id": query,
        "text": evaluator.queries[query],
        "after": after.metrics.per_query[metric][query],
        "documents": [
            {
                "id": document,
                "grade": grades.get(document, 0),
                "rank": ranking.index(document) + 1,
                **({"first_stage_rank": first_stage_ranks.get(document)} if evaluator.has_first_stage else {}),
                "text": _shorten(evaluator.documents[document]),
            }
            for document in shown
        ],
    }


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= TEXT_LENGTH else text[:TEXT_LENGTH].rsplit(" ", 1)[0] + " …"
