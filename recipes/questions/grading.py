"""Labels of written negatives by a teacher: how near each comes to the relevant documents of its query."""

from __future__ import annotations

import gc
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from data.collection import content_hash
from evaluation.evaluator import Prompts
from inference.questions.audit import Sample, WritingAudit
from recipes.negatives.scored_lists import Lists, ScoredLists, score_in_blocks
from recipes.negatives.scoring import build_scorer
from recipes.questions.config import MakeQueriesConfig
from recipes.questions.task import Task

GRADES = 4  # the label of a relevant document of grade 1; those of written texts are below it
FAR = "far_negative"

GRADING = {
    "too_close": "the teacher scores it as high as a relevant document (max_closeness): it may answer the query",
    "disagrees": "the teacher scores a relevant document of the query no higher than a far negative",
}


@dataclass(frozen=True)
class GradedList:
    """The list of a query: labels and scores (None: no teacher) by the id of a document. `written` are those of them
    that a model wrote."""

    query: str
    labels: dict[str, float]
    scores: dict[str, float] | None
    written: dict[str, Sample]


def written_id(sample: Sample) -> str:
    """The id of a written text beside the documents of the data."""
    return f"written {sample.kind} {sample.number} for {sample.name}"


def score_texts(settings: MakeQueriesConfig, task: Task, samples: Sequence[Sample], folder: Path) -> ScoredLists:
    """The teacher's scores of the judged documents and the written texts of each query. All ranks call it together."""
    assert task.split is not None
    collection = task.collection
    own = by_query(samples)
    documents: Mapping[str, str] = ChainMap({written_id(each): each.text for each in samples}, collection.documents)  # type: ignore[arg-type]
    lists = Lists(
        {query: task.split.queries[query] for query in own},
        task.split.prompts,
        documents,
        lambda query: [*task.judged(query), *map(written_id, own[query])],
        Prompts.of(collection),
    )
    runner, tokenizer, key = build_scorer(settings, settings.teacher, collection)
    key["texts"] = content_hash([each.name, written_id(each), each.text] for each in samples)
    scored = score_in_blocks(lists, runner, tokenizer, folder, key, settings.token_budget)
    del runner
    gc.collect()
    return scored


def by_query(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The texts of each query, in their order."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.name, []).append(sample)
    return found


def graded_lists(
    settings: MakeQueriesConfig,
    task: Task,
    samples: Sequence[Sample],
    scores: Mapping[str, Mapping[str, float]] | None,
    audit: WritingAudit,
) -> list[GradedList]:
    """The lists of all queries that keep a written text.

    The closeness of a text is (score - m) / (p - m), with p the lowest score of the query's relevant documents and m
    the median score of all far negatives. From `max_closeness` on it is left out. Graded, relevant documents have
    GRADES times their label, and a text the whole number below GRADES times its closeness (0 at least).
    """
    middle = None if scores is None else _middle(samples, scores)
    lists: list[GradedList] = []
    for query, own in by_query(samples).items():
        labels = task.judged(query)
        values = None if scores is None else scores[query]
        closeness = _closeness(task, query, own, values, middle)
        if settings.is_graded:
            labels = {name: label * GRADES for name, label in labels.items()}
        kept = [sample for sample in own if _is_kept(sample, closeness, settings.max_closeness, audit)]
        if not kept:
            continue
        for sample in kept:
            grade = int(GRADES * max(0.0, closeness[written_id(sample)])) if settings.is_graded and closeness else 0
            labels[written_id(sample)] = float(min(grade, GRADES - 1))
        chosen = None if values is None else {name: values[name] for name in labels}
        lists.append(GradedList(query, labels, chosen, {written_id(sample): sample for sample in kept}))
    return lists


def _middle(samples: Sequence[Sample], scores: Mapping[str, Mapping[str, float]]) -> float:
    """The median score of all far negatives; of all written texts if there are none."""
    far = [scores[sample.name][written_id(sample)] for sample in samples if sample.kind == FAR]
    return median(far or [scores[sample.name][written_id(sample)] for sample in samples])


def _closeness(
    task: Task, query: str, own: Sequence[Sample], values: Mapping[str, float] | None, middle: float | None
) -> dict[str, float] | None:
    """The closeness of each text by its id; empty if the teacher sees no difference, None if there is no teacher."""
    if values is None or middle is None:
        return None
    lowest = min(values[name] for name in task.relevant(query))
    if lowest <= middle:
        return {}
    return {written_id(each): (values[written_id(each)] - middle) / (lowest - middle) for each in own}


def _is_kept(sample: Sample, closeness: Mapping[str, float] | None, most: float, audit: WritingAudit) -> bool:
    reason = ""
    if closeness is not None:
        reason = "disagrees" if not closeness else "too_close" if closeness[written_id(sample)] >= most else ""
    if reason:
        audit.drop(reason, sample)
        return False
    audit.keep(sample)
    return True


def mean_scores(lists: Sequence[GradedList]) -> dict[str, dict[str, float]]:
    """Number and mean of the scores by kind of document, to see whether the teacher tells them apart."""
    found: dict[str, list[float]] = {}
    for each in lists:
        for name, score in (each.scores or {}).items():
            sample = each.written.get(name)
            kind = sample.kind if sample else "relevant" if each.labels[name] > 0 else "judged 0"
            found.setdefault(kind, []).append(score)
    return {kind: {"number": len(own), "mean": round(sum(own) / len(own), 4)} for kind, own in found.items()}
