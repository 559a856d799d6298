"""An evaluation run: rank held-out queries, measure, fuse with the first stage, test significance, print."""

from __future__ import annotations

from data.collection import Collection
from engines.distributed import process_group
from engines.distributed.heartbeat import OnLostRank
from recipes.evaluate.against import compare_with
from recipes.evaluate.choice import choose_evaluation, ranking_refused
from recipes.evaluate.config import EvaluationConfig
from recipes.evaluate.first_stages import check_first_stages, compare_first_stages
from recipes.evaluate.held_out import build_data, check_split
from recipes.evaluate.output import write_output
from recipes.evaluate.rankers import check_fusion, compare, correlate, evaluate_retriever
from runs.report.content import print_table


def evaluate(settings: EvaluationConfig, *, on_lost_rank: OnLostRank | None = None) -> float:
    """Evaluate, print the results and write `output`. Returns the model's `eval.metric`."""
    process_group.start(settings.timeout_s, on_lost_rank)
    is_retriever = settings.model.retrieves_by_itself
    if not is_retriever:
        settings.model.check(needs_head=True)  # before the data is read
        check_first_stages(settings)
    collection = build_data(settings)
    check_split(settings.split, collection)
    settings = fit_evaluation(settings, collection)
    check_fusion(settings, collection.split(settings.split))
    model = settings.model if is_retriever else settings.model.build(settings.seed).to(process_group.device())
    measure_model = evaluate_retriever if is_retriever else compare if settings.eval.ranks else correlate
    measure_model = compare_first_stages if settings.first_stages else measure_model
    measured = measure_model(settings, collection, model)
    if settings.against is not None:
        measured = compare_with(settings, measured)
    place = {"data": collection.name, "data_hash": collection.fingerprint, "split": settings.split}
    summary = place | measured.summary
    if process_group.is_main():
        print(f"{collection.name}, {settings.split}: {summary['name_or_path']}, {summary['method']}\n")
        print_table(summary)
        if settings.output is not None:
            summary |= {"skipped": list(collection.skipped)} if collection.skipped else {}
            write_output(settings.output, summary, measured)
    process_group.stop()
    return summary[settings.model.name if is_retriever else "model"]


def fit_evaluation(settings: EvaluationConfig, collection: Collection) -> EvaluationConfig:
    """The settings with the evaluation that fits the labels of the evaluated split."""
    split = collection.split(settings.split)
    if settings.model.retrieves_by_itself and split.degrees:
        raise ValueError(ranking_refused(collection.evaluated, split.degrees, ""))
    return choose_evaluation(settings, collection.evaluated, {settings.split: split}, (settings.split,))
