"""InfoNCE of an embedding model of any kind: plackett beside the trainers of sentence-transformers.

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
from benchmarks.speed.peers import PEERS
from benchmarks.speed.setting import OURS, RANDOM, Job, Setting
from benchmarks.speed.texts import batches_of, one_relevant, prepare, work_of
from benchmarks.speed.training import quality, set_dropout, train_ours, train_with
from benchmarks.speed.turns import TEXTS, Turns

DENSE = "embedder_infonce"  # the experiment of a model that has all its layers


def prepared(job: Job) -> tuple[Any, Any]:
    """The settings and the data of both sides."""
    setting = job.setting
    cached = (f"trainer.token_budget={setting.token_budget}", "trainer.kept_chunks=0") if setting.token_budget else ()
    settings, data = prepare(job, setting.experiment, *cached)
    if setting.experiment != DENSE:
        settings = dataclasses.replace(settings, model=start_of(job, settings.model))
    return settings, data if setting.data == RANDOM else one_relevant(data)


def start_of(job: Job, options: Any) -> Any:
    """The options of the model with a new last layer, which the job of the texts makes and exports."""
    if job.side == TEXTS and not job.start_folder.is_dir():
        options.build(job.setting.seed).export(job.start_folder)
    return options.starting_from(job.start_folder)


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

    from models.loading.resolve import resolve

    settings, _ = prepared(job)
    peer = PEERS[job.setting.experiment](str(resolve(settings.model.name_or_path)), settings, job.setting)
    peer.model.max_seq_length = settings.model.max_length or peer.model.max_seq_length
    set_dropout(peer.model, settings.model.dropout)
    columns = {name: job.texts["columns"][name] for name in columns_of(job.setting)}
    rows = Dataset.from_dict(columns)
    train_with(peer.classes, settings, turns, job, model=peer.model, loss=peer.loss, train_dataset=rows)
    peer.model.save_pretrained(str(job.scratch / "trained"), create_model_card=False)
    return dataclasses.replace(settings.model, name_or_path=str(job.scratch / "trained")).build(settings.seed)
