"""An evaluation run: rank held-out queries, measure, fuse with the first stage, test significance, print."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.collection import Collection, content_hash
from data.formats.suite import in_suite
from data.progress import show_progress
from data.store.texts import texts_digest
from engines.distributed import process_group
from engines.distributed.heartbeat import OnLostRank
from recipes.evaluate.against import compare_with
from recipes.evaluate.choice import choose_evaluation, ranking_refused
from recipes.evaluate.config import EvaluationConfig
from recipes.evaluate.first_stages import check_first_stages, compare_first_stages
from recipes.evaluate.held_out import build_data, check_split
from recipes.evaluate.output import write_output, write_suite
from recipes.evaluate.rankers import Measured, check_fusion, compare, correlate, evaluate_retriever
from recipes.evaluate.suite import MeasuredSet, check_one, check_suite, of_set, over_sets
from runs.report.content import print_table
from runs.report.suite_table import print_suite


def evaluate(settings: EvaluationConfig, *, on_lost_rank: OnLostRank | None = None) -> float:
    """Evaluate, print the results and write `output`. Returns the model's `eval.metric`, of a suite the mean over its
    data sets."""
    process_group.start(settings.timeout_s, on_lost_rank)
    if not settings.model.retrieves_by_itself:
        settings.model.check(needs_head=True)  # before the data are read
        check_first_stages(settings)
    sets = settings.data.evaluated_sets()
    if set(sets) == {""}:
        check_one(settings)
        settings, collection = prepare(settings)
        measured = measure_set(settings, collection, build_model(settings))
        show(settings, collection, measured)
        summary = measured.summary
    else:
        summary = evaluate_suite(settings, sets)
    process_group.stop()
    return summary[settings.model.name if settings.model.retrieves_by_itself else "model"]


def evaluate_suite(settings: EvaluationConfig, sets: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate each data set of a suite, and the mean over them, with one model. All are checked before it is built."""
    check_suite(settings, sets)
    for name in sets:
        with in_suite(name, settings.data, sets[name]), quiet():
            prepare(of_set(settings, name, sets[name]), search=False)
    if settings.output is not None and process_group.is_main():
        Path(settings.output).unlink(missing_ok=True)  # of an earlier run, whose sets are replaced now
    model = build_model(settings)
    measured: dict[str, MeasuredSet] = {}
    for name, options in show_progress(sets.items(), "data set", len(sets), "data sets"):
        with in_suite(name, settings.data, options):
            own, collection = prepare(of_set(settings, name, options))
        result = measure_set(own, collection, model)
        measured[name] = MeasuredSet(result.summary, result.results)
        if process_group.is_main() and own.output is not None:
            write_output(own.output, result)  # kept if a later set fails
    summary = over_sets(settings, measured)
    if process_group.is_main():
        print_suite(summary)
        if settings.output is not None:
            write_suite(settings.output, summary)
    mean: dict[str, Any] = summary["mean"]
    return mean


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out warnings, of what is read once more later."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def prepare(settings: EvaluationConfig, *, search: bool = True) -> tuple[EvaluationConfig, Collection]:
    """Read one data set. Returns the settings with the evaluation that fits it, and the collection. Raises ValueError
    if they do not fit each other. `search`: whether the first stage searches for candidates."""
    collection = build_data(settings, search=search)
    check_split(settings.split, collection)
    settings = fit_evaluation(settings, collection)
    check_fusion(settings, collection.split(settings.split))
    return settings, collection


def build_model(settings: EvaluationConfig) -> Any:
    """The model on its device; a retriever that needs none as it is."""
    if settings.model.retrieves_by_itself:
        return settings.model
    return settings.model.build(settings.seed).to(process_group.device())


def measure_set(settings: EvaluationConfig, collection: Collection, model: Any) -> Measured:
    """Measure one data set, and compare it with the run `against`."""
    is_retriever = settings.model.retrieves_by_itself
    measure_model = evaluate_retriever if is_retriever else compare if settings.eval.ranks else correlate
    measure_model = compare_first_stages if settings.first_stages else measure_model
    measured = measure_model(settings, collection, model)
    documents, queries = collection.documents, collection.split(settings.split).queries
    texts_hash = content_hash([texts_digest(documents)], queries)
    if settings.against is not None:
        measured = compare_with(settings, measured, documents, texts_hash)
    place = {"data": collection.evaluated.name, "data_hash": collection.fingerprint, "texts_hash": texts_hash}
    place |= {"split": settings.split}
    skipped = {"skipped": list(collection.skipped)} if collection.skipped else {}
    return replace(measured, summary=place | measured.summary | skipped)


def show(settings: EvaluationConfig, collection: Collection, measured: Measured) -> None:
    """Print the results of one data set, and write `output`."""
    if not process_group.is_main():
        return
    summary = measured.summary
    print(f"{collection.evaluated.name}, {settings.split}: {summary['name_or_path']}, {summary['method']}\n")
    print_table(summary)
    if settings.output is not None:
        write_output(settings.output, measured)


def fit_evaluation(settings: EvaluationConfig, collection: Collection) -> EvaluationConfig:
    """The settings with the evaluation that fits the labels of the evaluated split."""
    split = collection.split(settings.split)
    if settings.model.retrieves_by_itself and split.degrees:
        raise ValueError(ranking_refused(collection.evaluated, split.degrees, ""))
    return choose_evaluation(settings, collection.evaluated, {settings.split: split}, (settings.split,))
