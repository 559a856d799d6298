"""A run that writes queries or negatives by a language model: write, clean, search or grade, output with an audit."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from data.collection import Collection, content_hash
from engines.distributed import process_group
from engines.distributed.collectives import broadcast_object, on_main
from engines.distributed.heartbeat import OnLostRank
from engines.precision import uses_bf16
from inference.fingerprint import model_key
from inference.questions.audit import Sample, WritingAudit
from inference.questions.cleaning import REASONS
from inference.questions.writer import Writer
from recipes.negatives.output import Output
from recipes.questions.blocks import read_blocks, write_blocks
from recipes.questions.candidates import clean_all
from recipes.questions.config import MakeQueriesConfig
from recipes.questions.grading import GRADING, GradedList, graded_lists, score_texts
from recipes.questions.report import WritingReport
from recipes.questions.round_trip import ranks_of
from recipes.questions.rows import write_rows
from recipes.questions.task import Task, read_data, task_of
from runs.places import contents_of
from runs.settings_tree import as_tree

logger = logging.getLogger(__name__)

FOLDER = "written"  # of the cache
NO_RESULT = ("output", "overwrite", "timeout_s", "token_budget")  # settings that do not change the output


@dataclass(frozen=True)
class Outcome:
    """What is written to the output: texts of their own, or lists with negatives."""

    samples: Sequence[Sample]
    lists: Sequence[GradedList]


def make_queries(settings: MakeQueriesConfig, *, on_lost_rank: OnLostRank | None = None) -> float:
    """Write the output and its audit, print a summary. Returns the share of the written texts that are kept."""
    process_group.start(settings.timeout_s, on_lost_rank)
    started = perf_counter()
    check_models(settings)
    collection = read_data(settings.data, settings.make)
    task = task_of(settings, collection)
    output = Output(settings.path, output_key(settings, collection), settings.overwrite)
    if output.is_made():
        logger.warning("output=%s is there already, made by these settings from these data", settings.path)
        process_group.stop()
        return float("nan")
    share = 0.0
    with output.locked():
        folder = write_texts(settings, task)
        audit, outcome = choose(settings, task, folder)
        if process_group.is_main():
            report = WritingReport(settings, task, audit, outcome.lists, perf_counter() - started)
            with output.writing({"model": settings.model.name_or_path, "data": collection.name}) as stream:
                report.num_rows = write_rows(stream, settings, task, outcome.samples, outcome.lists)
            report.write()
            print("\n".join(report.lines()))
            share = audit.share_kept
    process_group.stop()
    return share


def check_models(settings: MakeQueriesConfig) -> None:
    """Raise ValueError or FileNotFoundError if a model is not found or does not fit, before data are read."""
    settings.model.generator.check()
    for options in (settings.retriever if settings.searches else None, settings.teacher):
        if options is not None and not options.retrieves_by_itself:
            options.check(needs_head=True)


def output_key(settings: MakeQueriesConfig, collection: Collection) -> dict[str, str]:
    """What the output depends on, by name, each with its value or a fingerprint."""
    tree = {name: value for name, value in as_tree(settings).items() if name not in (*NO_RESULT, "data", "prompts")}
    contents = contents_of(
        {"model": settings.model.generator, "retriever": settings.retriever, "teacher": settings.teacher}
    )
    key = {name: content_hash([value]) if isinstance(value, dict) else str(value) for name, value in tree.items()}
    files = {f"files of {name}": content_hash(content) for name, content in contents.items()}
    prompts = content_hash(settings.templates(), [collection.query_prompt, collection.document_prompt])
    return {**key, **files, "prompts": prompts, "data": collection.fingerprint}


def write_texts(settings: MakeQueriesConfig, task: Task) -> Path:
    """Write what the cache lacks of the texts. Returns their folder."""
    device = process_group.device()
    generator = settings.model.generator.build(settings.seed).to(device)
    generator.check_length(settings.max_new_tokens)
    bf16 = uses_bf16(settings.precision, device)
    writer = Writer(
        generator=generator,
        prompts=settings.templates(),
        num_texts=settings.num_texts,
        max_new_tokens=settings.max_new_tokens,
        options=settings.generate,
        seed=settings.seed,
        bf16=bf16,
    )
    split = None if task.split is None else settings.split
    parts: dict[str, Any] = {
        **model_key(generator, precision="bf16" if bf16 else "fp32"),
        "data": task.collection.fingerprint,
        "prompts": content_hash(writer.prompts),
        "texts": [settings.make, split, settings.num_texts, settings.max_new_tokens, settings.seed, task.ids_hash],
        "sampling": as_tree(settings.generate),
    }
    folder = settings.data.cache / FOLDER / f"{task.collection.name}-{settings.make}-{content_hash(parts)}"
    if process_group.is_main():
        unit = "documents" if task.split is None else f"{settings.split} queries"
        logger.warning(
            "writing %s about %s %s; texts are kept in %s", settings.make, f"{len(task.ids):,}", unit, folder
        )
    write_blocks(task, writer, folder)
    del writer, generator
    gc.collect()
    return folder


def choose(settings: MakeQueriesConfig, task: Task, folder: Path) -> tuple[WritingAudit, Outcome]:
    """What is kept of the texts. The audit and the outcome are those of rank 0.

    Raises ValueError, on all ranks, if nothing is left.
    """
    audit = WritingAudit(settings.seed, left_out=task.left_out)
    cleaned = on_main(lambda: clean_all(settings, task, read_blocks(task, folder), audit).samples)
    outcome = Outcome(cleaned, [])
    if settings.make == "negatives":
        outcome = Outcome([], _graded(settings, task, cleaned, audit))
    elif settings.searches and cleaned:
        outcome = Outcome(_found(settings, task, cleaned, audit), [])
    else:
        for sample in cleaned:
            audit.keep(sample)
    if not broadcast_object(bool(outcome.samples or outcome.lists)):
        raise ValueError(broadcast_object(nothing_left(audit)))
    return audit, outcome


def _found(settings: MakeQueriesConfig, task: Task, samples: Sequence[Sample], audit: WritingAudit) -> list[Sample]:
    """The texts that pass the round trip."""
    ranks = ranks_of(
        settings, task.collection, [each.text for each in samples], [task.relevant(each.name) for each in samples]
    )
    kept: list[Sample] = []
    for sample, rank in zip(samples, ranks, strict=True):
        audit.look_up(rank)
        placed = Sample(sample.kind, sample.name, sample.number, sample.text, sample.raw, rank)
        if rank:
            audit.keep(placed)
            kept.append(placed)
        else:
            audit.drop("not_found", placed)
    return kept


def _graded(
    settings: MakeQueriesConfig, task: Task, samples: Sequence[Sample], audit: WritingAudit
) -> list[GradedList]:
    """The lists with negatives; on other ranks than the first they are empty."""
    folder = Output(settings.path, {}).folder
    scored = None
    if settings.teacher is not None and samples:
        scored = score_texts(settings, task, samples, folder)
    if not process_group.is_main():
        return []
    lists = graded_lists(settings, task, samples, None if scored is None else dict(scored), audit)
    shutil.rmtree(folder, ignore_errors=True)
    return lists


def nothing_left(audit: WritingAudit) -> str:
    """The message for a run that keeps no text."""
    words = {**REASONS, **GRADING}
    reasons = "; ".join(f"{number:,} {words[name]}" for name, number in audit.dropped.most_common(3))
    return (
        f"none of {sum(audit.written.values()):,} texts is kept ({reasons}): choose a larger model, another prompt "
        "(prompts.NAME), or let more pass (round_trip, clean), for which nothing is written again"
    )
