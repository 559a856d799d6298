"""A listwise cross-encoder: plackett beside sentence-transformers' CrossEncoderTrainer, both with ListNet.

Both train the same model, head included, on the same lists in the same batches, with the same AdamW, learning rates and
clipping, in fp32. plackett puts pairs of similar length into a chunk; sentence-transformers' ListNetLoss runs as many
pairs at a time as there are queries in the batch (its default), each padded to the longest of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.side_by_side import RowFlops
from benchmarks.speed.setting import OURS, Job
from benchmarks.speed.texts import batches_of, prepare, work_of
from benchmarks.speed.training import quality, set_dropout, train_ours, train_with
from benchmarks.speed.turns import Turns

EXPERIMENT = "reranker_contrastive"
LOSS = "loss=list_net"


def prepared(job: Job) -> tuple[Any, Any]:
    """The settings and the data of both sides."""
    return prepare(job, EXPERIMENT, LOSS)


def make_texts(job: Job) -> dict[str, Any]:
    """The batches of plackett's loader, one after the other, in the columns query, docs and labels, and the work of
    each."""
    settings, data = prepared(job)
    lists, batches = batches_of(settings, data, job.setting.num_steps)
    examples = [example for batch in batches for example in batch.examples]
    columns = {
        "query": [lists.queries[example.query_id] for example in examples],
        "docs": [[lists.documents[name] for name in example.document_ids] for example in examples],
        "labels": [example.labels.tolist() for example in examples],
    }
    return {"columns": columns, "steps": work_of(batches, RowFlops.count(settings.model, backward=True))}


def run(job: Job, turns: Turns) -> None:
    """Train on one side."""
    model = train_ours(*prepared(job), turns) if job.side == OURS else train_theirs(job, turns)
    if job.setting.quality_steps:
        metrics = quality(*prepared(job), model) if job.setting.evaluate else {}
        turns.answer(metrics | {"losses": turns.losses})


def train_theirs(job: Job, turns: Turns) -> Any:
    """Train by sentence-transformers. Returns the model as plackett reads it."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    settings, _ = prepared(job)
    settings.model.build(settings.seed).export(job.scratch / "start")  # with the same fresh head
    model = CrossEncoder(str(job.scratch / "start"), num_labels=1, max_length=settings.model.max_length)
    set_dropout(model, settings.model.dropout)
    classes = (CrossEncoderTrainer, CrossEncoderTrainingArguments)
    rows = Dataset.from_dict(job.texts["columns"])
    train_with(classes, settings, turns, job, model=model, loss=ListNetLoss(model), train_dataset=rows)
    model.save_pretrained(str(job.scratch / "trained"), create_model_card=False)
    return dataclasses.replace(settings.model, name_or_path=str(job.scratch / "trained")).build(settings.seed)
