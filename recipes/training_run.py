"""What a training run does, from its configuration to its report: one loss and one trainer, or stages of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engines.distributed import preemption, process_group
from engines.distributed.collectives import broadcast_object
from engines.distributed.heartbeat import OnLostRank
from engines.memory.allocator import keep_freed_memory
from evaluation.evaluator import EvaluationResult, Evaluator
from recipes.baseline import baseline_folder, read_dev, reuse_final_scores, score_baseline
from recipes.build import Data, build_trainer, dev_evaluator, make_trainer, test_evaluator
from recipes.compatibility import check_data, check_model, check_parts
from recipes.finish import finish, print_results, upload
from recipes.model_card import model_card
from recipes.run_config import RunConfig
from recipes.stages import Stage, gather_results, join_summaries, stages_of, training_data
from runs.directory import RunDirectory
from runs.loggers.logger import Logger, StageLogger
from runs.report.content import print_table
from runs.report.html import write_report
from runs.settings_tree import as_tree
from runs.stage_folders import StageLines, link_checkpoints


@preemption.handled()
def train(
    settings: RunConfig,
    *,
    on_lost_rank: OnLostRank | None = None,
    on_begin: Callable[[], None] = lambda: None,
) -> float | None:
    """Train, evaluate and export; returns the dev metric of the best checkpoint (what a sweep optimises).

    `on_lost_rank` ends this process when another rank has failed; `on_begin` is called once the run directory is this
    process's own.
    """
    stages = stages_of(settings)
    for stage in stages:
        check_parts(stage.settings)
    keep_freed_memory()
    for options in (settings.model, settings.teacher, settings.guide):
        if options is not None:
            options.folder()  # a model that is not found is reported before the data is read
    collection = settings.data.build()  # before the first collective, in which others would wait
    training = [collection]
    if settings.stages:
        training = [training_data(stage, settings.stage[stage.name], collection) for stage in stages]
    for stage, data in zip(stages, training, strict=True):
        check_data(stage.settings, data)
    preemption.defer()
    process_group.start(settings.timeout_s, on_lost_rank)
    # After what a user may have to correct: resume=none moves an older run aside.
    run = RunDirectory.open(as_tree(settings))
    on_begin()
    if run.finished:
        return show_finished(run, settings.push_to_hub)
    run.describe_data(collection.name, collection.fingerprint)
    if settings.stages:
        logger, summary = train_stages(stages, training, settings, collection, run)
    else:
        logger, summary = train_once(settings, collection, run)
    print_results(run, summary)
    logger.finish(summary)
    upload(run.path / "model", settings.push_to_hub)
    process_group.stop()
    return summary["best_dev"]


def train_once(settings: RunConfig, collection: Data, run: RunDirectory) -> tuple[Logger, dict[str, Any]]:
    """A run without stages."""
    model = settings.model.build(settings.seed)
    check_model(settings, model)
    known = baseline_folder(settings, collection, model)
    trainer = make_trainer(settings, collection, run, model)
    test = test_evaluator(settings, collection, model)
    before = score_baseline(trainer, test, run, known)
    trainer.fit()
    summary = finish(
        trainer, test, before, run, collection=collection, training=collection, adapter_only=settings.adapter_only
    )
    return trainer.logger, summary


def train_stages(
    stages: Sequence[Stage],
    training: Sequence[Data],
    settings: RunConfig,
    collection: Data,
    run: RunDirectory,
) -> tuple[Logger, dict[str, Any]]:
    """Each stage in a run directory of its own, from the model that the one before has exported; those that are
    finished are not trained again. Dev and test are tokenised once, and the end of a stage is not measured again as the
    start of the next."""
    logger = settings.logger.build(run, as_tree(settings))
    folders: list[Path] = []
    summaries: list[dict[str, Any]] = []
    evaluators: tuple[Evaluator | None, Evaluator] | None = None
    for stage, data in zip(stages, training, strict=True):
        if folders:
            stage = stage.starting_from(folders[-1] / "model")
        directory = open_stage(stage, run, folders, stages)
        if not directory.finished:
            model = stage.settings.model.build(settings.seed)
            check_model(stage.settings, model)
            evaluators = evaluators or (
                dev_evaluator(settings, collection, model),
                test_evaluator(settings, collection, model),
            )
            known = baseline_folder(settings, collection, model) if not folders else folders[-1] / "runs"
            trainer = build_trainer(
                stage.settings,
                data,
                directory,
                model,
                evaluator=evaluators[0],
                logger=StageLogger(logger, stage.number, stage.first_step),
                start_result=start_from_final_scores(folders[-1], directory.path) if folders else None,
            )
            before = score_baseline(trainer, evaluators[1], directory, known)
            trainer.fit()
            finish(trainer, evaluators[1], before, directory, collection=collection, training=data, earlier=summaries)
            del trainer, model
            free_memory()
        assert directory.summary is not None
        folders.append(directory.path)
        summaries.append(directory.summary)
        say_stage(stage, len(stages), directory.summary)
    summary = join_summaries(summaries)
    if process_group.is_main():
        source = settings.model.name_or_path
        card = model_card(run.name, summary, start=source, seed=settings.seed)
        gather_results(run.path, folders, source=source, card=card)
        write_report(run.path, summary)
    run.write_summary(summary)
    return logger, summary


def open_stage(stage: Stage, run: RunDirectory, earlier: Sequence[Path], stages: Sequence[Stage]) -> RunDirectory:
    """The stage's own directory. The run's metrics.jsonl is made anew of those of all stages until here: whatever
    moment the run was stopped at, it joins what they hold. What `RunDirectory.open` has compared for the whole
    run may differ where only the place of the model that the stage starts from does."""
    directory = RunDirectory.open(as_tree(stage.settings), neutral=["model.name_or_path"] if earlier else [])
    directory.joined = StageLines(run.metrics_file, stage.name, stage.first_step)
    if process_group.is_main():
        run.metrics_file.unlink(missing_ok=True)
        for past, folder in zip(stages, [*earlier, directory.path], strict=False):
            StageLines(run.metrics_file, past.name, past.first_step).copy(folder / "metrics.jsonl")
        link_checkpoints(run.path, directory.path)
    return directory


def start_from_final_scores(earlier: Path, folder: Path) -> EvaluationResult | None:
    """Let the stage in `folder` know what the `earlier` one has ended with: on test, and on dev, which is returned."""
    if not process_group.is_main():
        return broadcast_object(None)
    reuse_final_scores(folder / "runs", earlier / "runs")
    return broadcast_object(read_dev(earlier / "runs"))


def say_stage(stage: Stage, count: int, summary: Mapping[str, Any]) -> None:
    """One line of a finished stage."""
    if process_group.is_main():
        metric, unbeaten = summary["metric"], ", no checkpoint beat its start on dev" * (summary["best_step"] == 0)
        print(
            f"stage {stage.number} of {count}, {stage.name}: test {metric} {summary['before']:.4f} -> "
            f"{summary['after']:.4f}{unbeaten}",
            flush=True,
        )


def free_memory() -> None:
    """Let go of a stage's engine before the next one takes its place."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def show_finished(run: RunDirectory, push_to_hub: str | None) -> float | None:
    """The results of a run that has already ended; it is uploaded where that is asked for."""
    assert run.summary is not None
    if process_group.is_main():
        print(f"{run.path} is finished ({run.summary['steps']} steps); resume=none trains it again")
        print_table(run.summary)
    upload(run.path / "model", push_to_hub)
    process_group.stop()
    return run.summary["best_dev"]
