"""What a training run does, from its configuration to its report: one loss and one trainer, or stages of them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from data.collection import Collection
from data.sampling.mixture import Mixture, make_loader
from engines.distributed import preemption, process_group
from engines.distributed.collectives import broadcast_object
from engines.distributed.heartbeat import OnLostRank
from engines.memory.allocator import keep_freed_memory
from evaluation.evaluator import EvaluationResult, Evaluator, Prompts
from evaluation.metrics import Metrics
from inference.interruptible import Interruptible
from losses.contracts import compares_lists, ignores_shifts, reads_of
from models.bi_encoder import BiEncoder
from models.cross_encoder import CrossEncoder
from models.llm_reranker import LLMReranker
from models.loading.resolve import resolve
from recipes.baseline import adopt_end, before_folder, read_before, read_dev, write_before
from recipes.compatibility import check_data, check_model, check_parts
from recipes.finish import finish, model_card, print_results, record, upload
from recipes.run_config import RunConfig
from recipes.stages import Stage, gather_results, join_summaries, stages_of, training_data
from runs.directory import RunDirectory
from runs.loggers.loggers import Logger, StageLogger
from runs.report.html import print_table, write_report
from runs.settings_tree import as_tree
from runs.stage_folders import StageLines, show_checkpoints
from trainers.trainer import Trainer

Data = Collection | Mixture
Model = CrossEncoder | LLMReranker | BiEncoder


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
            # A model that cannot be had is known before the data is read.
            resolve(options.name_or_path, code=options.trust_remote_code)
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
    known = before_folder(settings, collection, model)
    trainer = make_trainer(settings, collection, run, model)
    test = test_evaluator(settings, collection, model)
    before = score_before(trainer, test, run, known)
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
            known = before_folder(settings, collection, model) if not folders else folders[-1] / "runs"
            trainer = build_trainer(
                stage.settings,
                data,
                directory,
                model,
                evaluator=evaluators[0],
                logger=StageLogger(logger, stage.number, stage.first_step),
                start_result=begin_where_it_ended(folders[-1], directory.path) if folders else None,
            )
            before = score_before(trainer, evaluators[1], directory, known)
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
        show_checkpoints(run.path, directory.path)
    return directory


def begin_where_it_ended(earlier: Path, folder: Path) -> EvaluationResult | None:
    """Let the stage in `folder` know what the `earlier` one has ended with: on test, and on dev, which is returned."""
    if not process_group.is_main():
        return broadcast_object(None)
    adopt_end(folder / "runs", earlier / "runs")
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


def make_trainer(settings: RunConfig, collection: Data, run: RunDirectory, model: Model) -> Trainer:
    """The trainer of a run without stages."""
    evaluator = dev_evaluator(settings, collection, model)
    return build_trainer(
        settings, collection, run, model, evaluator=evaluator, logger=settings.logger.build(run, as_tree(settings))
    )


def dev_evaluator(settings: RunConfig, collection: Data, model: Model) -> Evaluator | None:
    """Of the evaluations during training; None where there is no dev split."""
    dev, prompts = collection.splits.get("dev"), Prompts.of(collection)
    return settings.eval.build(dev, collection.documents, model.tokenizer, dev=True, prompts=prompts) if dev else None


def test_evaluator(settings: RunConfig, collection: Data, model: Model) -> Evaluator:
    prompts = Prompts.of(collection)
    return settings.eval.build(collection.split("test"), collection.documents, model.tokenizer, prompts=prompts)


def build_frozen(role: str, options: Any, seed: int) -> Model:
    """The teacher or the guide; ValueError, under its own name, where it cannot be had or has no score head."""
    try:
        model = options.build(seed)
    except ValueError as error:
        raise ValueError(f"{role}: {error}") from error
    if getattr(model, "fresh_head", False):
        raise ValueError(f"{role} {options.name_or_path} has no score head: train it first")
    return model


def build_trainer(
    settings: RunConfig,
    data: Data,
    run: RunDirectory,
    model: Model,
    *,
    evaluator: Evaluator | None,
    logger: Logger,
    start_result: EvaluationResult | None = None,
) -> Trainer:
    """The trainer of `model` on the training lists of `data`; `start_result`: what is known of it on dev."""
    run.describe_data(data.name, data.fingerprint)
    if "query_layers" in reads_of(settings.loss):
        assert isinstance(model, BiEncoder)
        model.returns_layers = True
    if "logsumexp" in reads_of(settings.loss):
        assert isinstance(model, LLMReranker)
        model.returns_logsumexp = True
    if isinstance(model, CrossEncoder) and ignores_shifts(settings.loss):
        model.hold_level()
    frozen = {
        role: build_frozen(role, options, settings.seed)
        for role, options in (("teacher", settings.teacher), ("guide", settings.guide))
        if options is not None
    }
    options = settings.trainer
    loader = make_loader(
        data,
        model.tokenizer,
        list_size=options.list_size,
        batch_size=options.batch_size,
        seed=settings.seed,
        rank=process_group.rank(),
        world_size=process_group.world_size(),
        workers=options.workers,
        couples_lists=compares_lists(settings.loss),
        frozen={role: other.tokenizer for role, other in frozen.items()},
    )
    return options.build(
        model=model,
        engine_config=settings.engine,
        loader=loader,
        padding=model.tokenizer.padding,
        loss=settings.loss,
        evaluator=evaluator,
        run=run,
        logger=logger,
        seed=settings.seed,
        frozen=frozen,
        start_result=start_result,
    )


def score_before(trainer: Trainer, test: Evaluator, run: RunDirectory, known: Path) -> Metrics:
    """The starting model's metrics on test: this run's own if it was interrupted, those of another run from the same
    weights, or new ones."""
    folder = run.path / "runs"
    metrics = broadcast_object(read_before(folder, known) if process_group.is_main() else None)
    if metrics is None:
        if process_group.is_main():
            print(f"ranking {len(test.queries)} test queries before training", file=sys.stderr, flush=True)
        result = test.evaluate(Interruptible(trainer.engine).forward, trainer.engine.device)
        metrics = result.metrics
        if process_group.is_main():
            write_before(folder, known, result)
    if not run.has_line("test", 0):
        record(run, trainer, 0, "before", metrics)
    return metrics


def show_finished(run: RunDirectory, push_to_hub: str | None) -> float | None:
    """The results of a run that has already ended; it is uploaded where that is asked for."""
    assert run.summary is not None
    if process_group.is_main():
        print(f"{run.path} is finished ({run.summary['steps']} steps); resume=none trains it again")
        print_table(run.summary)
    upload(run.path / "model", push_to_hub)
    process_group.stop()
    return run.summary["best_dev"]
