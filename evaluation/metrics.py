"""Ranking metrics, computed by `ir_measures`, under their usual names."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import ir_measures

from data.hashing import stable_hash
from data.progress import show_progress

Qrels = Mapping[str, Mapping[str, int]]  # query -> document -> grade
Run = Mapping[str, Mapping[str, float]]  # query -> document -> score

# family -> (the spelling shown, ir_measures' name, whether a cutoff is needed)
FAMILIES = {
    "ndcg": ("nDCG", "nDCG", True),
    "mrr": ("MRR", "RR", True),
    "map": ("MAP", "AP", False),
    "recall": ("recall", "R", True),
    "precision": ("precision", "P", True),
    "accuracy": ("accuracy", "Success", True),  # 1 if there is a relevant document among the first k, else 0
}
EXAMPLES = ("nDCG@10", "MRR@10", "MAP", "recall@100")


@dataclass(frozen=True)
class Metric:
    """One metric: its displayed name (`MRR@10`) and its expression in `ir_measures` (`RR@10`)."""

    name: str
    expression: str

    @property
    def cutoff(self) -> int | None:
        """The k of `MRR@k`; None for `MAP`."""
        cutoff = self.name.partition("@")[2]
        return int(cutoff) if cutoff else None

    @cached_property
    def measure(self) -> ir_measures.measures.Measure:
        return ir_measures.parse_measure(self.expression)


def parse_metric(name: str) -> Metric:
    """Parse `nDCG@10`, `MRR@10`, `MAP`, `recall@100`, ... in upper or lower case. nDCG has linear gains.

    Raises ValueError, with the nearest names, if there is no such metric.

    >>> parse_metric("mrr@5")
    Metric(name='MRR@5', expression='RR@5')
    """
    found = re.fullmatch(r"([a-z]+)(?:@([1-9]\d*))?", name.strip().lower())
    family, cutoff = found.groups() if found else (name.lower().split("@")[0], None)
    if found and family in FAMILIES:
        shown, expression, needs_cutoff = FAMILIES[family]
        suffix = f"@{cutoff}" if cutoff else ""
        if suffix or not needs_cutoff:
            return Metric(shown + suffix, expression + suffix)
    if family in ("spearman", "pearson", "ap"):
        raise ValueError(f"{name!r} is no metric of rankings: choose eval=similarity")
    near = difflib.get_close_matches(family, FAMILIES, n=1, cutoff=0.5)
    hint = f"did you mean {FAMILIES[near[0]][0]}{'@10' if FAMILIES[near[0]][2] else ''}? " if near else ""
    valid = "nDCG@k, MRR@k, MAP, MAP@k, recall@k, precision@k and accuracy@k"
    raise ValueError(f"no metric {name!r}: {hint}valid are {valid}, e.g. {EXAMPLES[0]}")


@dataclass(frozen=True)
class Metrics:
    """The means over all judged queries, and the values of each query: `per_query[metric][query]`."""

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]

    def __getitem__(self, name: str) -> float:
        return self.mean[name if name in self.mean else parse_metric(name).name]

    def over(self, queries: Collection[str]) -> Metrics:
        """The means over some of the queries."""
        per_query = {name: {query: values[query] for query in queries} for name, values in self.per_query.items()}
        return Metrics({name: math.fsum(v.values()) / len(v) for name, v in per_query.items()}, per_query)


def measure(qrels: Qrels, run: Run, metrics: Iterable[str]) -> Metrics:
    """Measure `run` by `qrels`. The mean is over *all* queries of `qrels`; one that is absent from the run counts as 0.

    Raises ValueError if a score is not finite or nothing is judged.
    """
    if not qrels:
        raise ValueError("no judged queries to evaluate: the split's qrels are empty")
    parsed = list({metric.name: metric for metric in map(parse_metric, metrics)}.values())
    per_query = {metric.name: dict.fromkeys(qrels, 0.0) for metric in parsed}
    names = {metric.measure: metric.name for metric in parsed}
    queries = show_progress(qrels, "ranking", len(qrels), "queries")
    ranks = {query: rank_scores(query, run[query]) for query in queries if query in run}
    for value in ir_measures.iter_calc(list(names), {query: dict(grades) for query, grades in qrels.items()}, ranks):
        per_query[names[value.measure]][value.query_id] = float(value.value)
    return Metrics({name: math.fsum(v.values()) / len(v) for name, v in per_query.items()}, per_query)


def rank(query: str, scores: Mapping[str, float]) -> list[str]:
    """Sort documents by falling score, and ties by a hash of query and document, which does not depend on relevance.

    The backends of `ir_measures` break ties in opposite ways (trec_eval by falling document id, MS MARCO's by rising
    id) and compare in float32, so the result of a model that gives equal scores would depend on the documents' ids.
    """
    if not all(map(math.isfinite, scores.values())):
        raise ValueError(f"query {query!r} has a score that is not finite: the model has diverged or overflows")
    number = Counter(scores.values())  # a hash costs more than all else, and few scores are equal
    return sorted(
        scores,
        key=lambda document: (
            -scores[document],
            stable_hash("tie", query, document) if number[scores[document]] > 1 else 0,
        ),
    )


def rank_scores(query: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Distinct scores that are exact in float32 and give the order of `rank`, for `ir_measures`."""
    return {document: -float(position) for position, document in enumerate(rank(query, scores))}
