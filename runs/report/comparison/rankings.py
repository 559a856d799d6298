"""The stored rankings of runs, and which of their test queries can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runs.report.comparison.content import Ranking
from runs.report.comparison.selection import ShownRun
from runs.report.content import RANKERS
from runs.report.searched import about_searched
from runs.stage_folders import stage_folder
from runs.stored_run import StoredRun

FINAL = ("after", "model", "BM25")  # the ranking that a run stands for, the first of these that it has


def rankings_of(run: ShownRun, metric: str) -> list[Ranking]:
    """The rankings whose values of `metric` the run has stored for single queries, in the order of the results. In a
    run with stages, those after each stage too."""
    found = list(_rankings(run.queries, metric))
    place = next((place for place, ranking in enumerate(found) if ranking.label == "after"), len(found))
    return [*found[:place], *_after_stages(run, metric), *found[place:]]


def final_of(rankings: Sequence[Ranking]) -> Ranking | None:
    """The ranking that a run stands for; None if it has stored none."""
    by_label = {ranking.label: ranking for ranking in rankings}
    return next((by_label[label] for label in FINAL if label in by_label), rankings[0] if rankings else None)


def data_of(run: ShownRun) -> tuple[str, str]:
    """The name and the hash of the data; empty if the run's files do not say."""
    data = run.stored.environment.get("data") or {}
    name, fingerprint = run.summary.get("data"), run.summary.get("data_hash")
    return str(name or data.get("name") or ""), str(fingerprint or data.get("fingerprint") or "")


def common_queries(first: ShownRun, second: ShownRun) -> tuple[list[str], str]:
    """The test queries that both runs have, in the order of the first, and why there are none. A query is the same if
    its id and its text are; where no text is stored, if the data are the same."""
    if about_searched([("the first", first.summary), ("the second", second.summary)]):
        return [], "they searched different documents (eval.max_documents, data.path)"
    both = [query for query in first.queries if query in second.queries]
    texts = [(first.queries[query]["text"], second.queries[query]["text"]) for query in both]
    if any(not all(pair) for pair in texts) and not set(data_of(first)) & set(data_of(second)) - {""}:
        return [], "an evaluation stores no texts of queries, and the names and hashes of the data differ"
    same = [query for query, (own, other) in zip(both, texts, strict=True) if own == other or not (own and other)]
    return same, "" if same else "they have no test query in common"


def _rankings(queries: Mapping[str, Mapping[str, Any]], metric: str) -> Iterator[Ranking]:
    names = dict.fromkeys(name for query in queries.values() for name in query["values"])
    order = list(RANKERS)
    for name in sorted(names, key=lambda name: order.index(name) if name in order else len(order)):
        values = {
            query: line["values"][name][metric]
            for query, line in queries.items()
            if metric in line["values"].get(name, {})
        }
        if values:
            documents = {query: line["documents"].get(name, ()) for query, line in queries.items()}
            yield Ranking(RANKERS.get(name, name), values, documents)


def _after_stages(run: ShownRun, metric: str) -> Iterator[Ranking]:
    """The rankings after each stage but the last."""
    for number, stage in enumerate((run.summary.get("stages") or ())[:-1], 1):
        folder = stage_folder(run.stored.path, number, stage["name"])
        stored = StoredRun.read(folder).queries() if folder.is_dir() else {}
        for ranking in _rankings(stored, metric):
            if ranking.label == "after":
                yield Ranking(f"after {stage['name']}", ranking.values, ranking.documents)
