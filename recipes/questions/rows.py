"""Rows of the output, which data=file reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import IO

from inference.questions.audit import Sample
from recipes.negatives.rows import shortest, write_list
from recipes.questions.config import MakeQueriesConfig
from recipes.questions.grading import GradedList
from recipes.questions.task import Task


def write_rows(
    stream: IO[str],
    settings: MakeQueriesConfig,
    task: Task,
    samples: Sequence[Sample],
    lists: Sequence[GradedList],
) -> int:
    """Write all rows, and return how many. Questions are pairs of query and positive; paraphrases have the judged
    documents of their query, with its prompt and weight; lists of negatives have the texts too."""
    if settings.make == "questions":
        for sample in samples:
            row = {"query": sample.text, "positive": task.collection.documents[sample.name]}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return len(samples)
    if settings.make == "paraphrases":
        for sample in samples:
            _write_paraphrase(stream, task, sample)
        return len(samples)
    _write_lists(stream, task, lists)
    return len(lists)


def _write_paraphrase(stream: IO[str], task: Task, sample: Sample) -> None:
    split = task.split
    assert split is not None
    own = replace(split, queries={sample.name: sample.text}, candidates={sample.name: []})
    labels = task.judged(sample.name)
    write_list(stream, task.collection, own, sample.name, list(labels), labels)


def _write_lists(stream: IO[str], task: Task, lists: Sequence[GradedList]) -> None:
    assert task.split is not None
    for each in lists:
        written = {name: sample.text for name, sample in each.written.items()}
        texts = {name: written.get(name) or task.collection.documents[name] for name in each.labels}
        collection = replace(task.collection, documents=texts, splits={}, is_checked=True)
        scores = None if each.scores is None else [shortest(score) for score in each.scores.values()]
        write_list(stream, collection, task.split, each.query, list(each.labels), each.labels, scores)
