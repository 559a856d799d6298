"""InfoNCE of an embedding model: plackett beside sentence-transformers' SentenceTransformerTrainer.

Both train on the same lists (a query, its relevant document, hard negatives) in the same batches, with the same AdamW,
learning rates and clipping, in fp32, from the same weights. With `token_budget` both keep no graph and run chunks of so
many tokens twice (CachedMultipleNegativesRankingLoss with `mini_batch_num_tokens`).

plackett puts texts of similar length into a chunk; sentence-transformers pads the queries to the longest query, and the
documents together to the longest of them. plackett sets glibc to keep freed memory. plackett masks duplicates.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.side_by_side import RowFlops
from benchmarks.speed.setting import OURS, RANDOM, Job, Setting
from benchmarks.speed.texts import batches_of, one_relevant, prepare, work_of
from benchmarks.speed.training import quality, set_dropout, train_ours, train_with
from benchmarks.speed.turns import Turns

EXPERIMENT = "embedder_infonce"


def prepared(job: Job) -> tuple[Any, Any]:
    """The settings and the data of both sides."""
    setting = job.setting
    cached = (f"trainer.token_budget={setting.token_budget}", "trainer.kept_chunks=0") if setting.token_budget else ()
    settings, data = prepare(job, EXPERIMENT, *cached)
    return settings, data if setting.data == RANDOM else one_relevant(data)


def make_texts(job: Job) -> dict[str, Any]:
    """The batches of plackett's loader, one after the other, as columns of texts, and the work of each."""
    settings, data = prepared(job)
    lists, batches = batches_of(settings, data, job.setting.num_steps)
    columns: dict[str, list[str]] = {name: [] for name in columns_of(job.setting)}
    for example in (example for batch in batches for example in batch.examples):
        names = [name for _, name in sorted(zip(-example.labels, example.document_ids, strict=True))]
        assert (example.labels > 0).sum() == 1
        texts = [lists.queries[example.query_id], *(lists.documents[name] for name in names)]
        for column, text in zip(columns.values(), texts, strict=True):
            column.append(text)
    duplicates = sum(batch.num_duplicates for batch in batches)
    work = work_of(batches, RowFlops.count(settings.model, backward=True))
    return {"columns": columns, "duplicates": duplicates, "steps": work}


def columns_of(setting: Setting) -> list[str]:
    """The columns that sentence-transformers gets, in its order."""
    return ["anchor", "positive", *(f"negative_{number}" for number in range(1, setting.list_size))]


def run(job: Job, turns: Turns) -> None:
    """Train on one side."""
    if job.side == OURS:
        model = train_ours(*prepared(job), turns)
    else:
        model = train_theirs(job, turns)
    if job.setting.quality_steps:
        metrics = quality(*prepared(job), model) if job.setting.evaluate else {}
        turns.answer(metrics | {"losses": turns.losses})


def train_theirs(job: Job, turns: Turns) -> Any:
    """Train by sentence-transformers. Returns the model as plackett reads it."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    from models.loading.resolve import resolve

    settings, _ = prepared(job)
    model = SentenceTransformer(str(resolve(settings.model.name_or_path)))
    model.max_seq_length = settings.model.max_length
    set_dropout(model, settings.model.dropout)
    scale = 1 / settings.loss.temperature
    budget = job.setting.token_budget
    loss = (
        CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_num_tokens=budget)
        if budget
        else MultipleNegativesRankingLoss(model, scale=scale)
    )
    columns = {name: job.texts["columns"][name] for name in columns_of(job.setting)}
    classes = (SentenceTransformerTrainer, SentenceTransformerTrainingArguments)
    train_with(classes, settings, turns, job, model=model, loss=loss, train_dataset=Dataset.from_dict(columns))
    model.save_pretrained(str(job.scratch / "trained"), create_model_card=False)
    return dataclasses.replace(settings.model, name_or_path=str(job.scratch / "trained")).build(settings.seed)
