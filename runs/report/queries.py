"""The test queries of a run: all of them with their values, and those on which a model gained and lost most."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluation.evaluator import EvaluationResult, Evaluator
from evaluation.metrics import Metrics, Run, rank
from runs.files import write_atomic

TEXT_LENGTH = 400  # characters of a document that are shown
STORED_LENGTH = 200  # characters of the texts of all queries
STORED_DOCUMENTS = 3  # of each ranking


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
                "text": _shorten(evaluator.documents[document], TEXT_LENGTH),
            }
            for document in shown
        ],
    }


def write_all_queries(
    file: Path, evaluator: Evaluator, results: Mapping[str, Metrics], runs: Mapping[str, Run]
) -> None:
    """Write a JSON line for each test query: {"query_id", "text", "values": {ranker: {metric: value}}, "documents":
    {ranker: [{"id", "grade", "text"}]}}.

    `results` has the values of each ranker; `runs` the scores of those whose first documents are stored, in which a
    query may be absent. Texts are cut.
    """
    lines = _all_queries(evaluator, results, runs)
    write_atomic(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def join_queries(first: Path, last: Path, file: Path) -> None:
    """Write the lines of a run with stages from those of its first and its last stage: `before` is that of the first.
    No file is written unless both stages have theirs."""
    if not (first.is_file() and last.is_file()):
        return
    starts = {line["query_id"]: line for line in map(json.loads, _lines_of(first))}
    joined = []
    for line in map(json.loads, _lines_of(last)):
        start = starts[line["query_id"]]
        for part in ("values", "documents"):
            line[part]["before"] = start[part]["before"]
        joined.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomic(file, "".join(joined))


def _lines_of(file: Path) -> list[str]:
    """The lines; texts may hold other characters at which `splitlines` splits."""
    return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _all_queries(
    evaluator: Evaluator, results: Mapping[str, Metrics], runs: Mapping[str, Run]
) -> Iterator[dict[str, Any]]:
    for query, text in evaluator.queries.items():
        grades = evaluator.qrels[query]
        yield {
            "query_id": query,
            "text": _shorten(text, STORED_LENGTH),
            "values": {
                name: {metric: values[query] for metric, values in result.per_query.items()}
                for name, result in results.items()
            },
            "documents": {
                name: [
                    {
                        "id": document,
                        "grade": grades.get(document, 0),
                        "text": _shorten(evaluator.documents[document], STORED_LENGTH),
                    }
                    for document in rank(query, run.get(query, {}))[:STORED_DOCUMENTS]
                ]
                for name, run in runs.items()
            },
        }


def _shorten(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[:length].rsplit(" ", 1)[0] + " …"
