"""A training run from its settings to its summary, with one loss and one trainer or with stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engines.distributed import preemption, process_group
from engines.distributed.heartbeat import OnLostRank
from engines.memory.allocator import keep_freed_memory
from recipes.baseline import baseline_folder
from recipes.build import Data, make_trainer, read_corpus, test_evaluator
from recipes.checks.compatibility import check_model
from recipes.dev_suite import Sets
from recipes.finish import print_results, show_finished, upload
from recipes.negatives.mined_training import with_mined_negatives
from recipes.other_sets import OtherSets, read_other_sets
from recipes.preparation import prepare
from recipes.prompts import expect_prompts, lost_in_words, run_prompts
from recipes.run_config import RunConfig
from recipes.stage_sequence import train_stages
from recipes.start import join_ranks, open_run, tracked
from recipes.train_model import make_evaluate, train_model
from runs.directory import RunDirectory
from runs.loggers.logger import Logger
from runs.stored_run import TEST_SUITE


@preemption.handle_signals()
def train(
    settings: RunConfig,
    *,
    on_lost_rank: OnLostRank | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> float | None:
    """Train, evaluate and export. Returns the dev metric of the best checkpoint, which a sweep optimises.

    `on_lost_rank` is called to end this process when another rank has failed. `on_start` is called once this process
    has the run directory's lock.
    """
    keep_freed_memory()
    prepared = prepare(settings)
    settings, collection = prepared.settings, prepared.collection
    other_sets = read_other_sets(settings, collection, prepared.training, prepared.dev_sets)
    join_ranks(settings.timeout_s, on_lost_rank)
    run = open_run(settings, collection, on_start)
    if run.finished:
        summary = show_finished(run)
    else:
        others = OtherSets(settings, other_sets, run.path / TEST_SUITE)
        with tracked(settings, run) as logger:
            if settings.stages:
                summary = train_stages(
                    settings, prepared.stages, prepared.training, collection, run, prepared.dev_sets, others, logger
                )
            else:
                mined = with_mined_negatives(settings, collection, run.path)
                summary = train_once(settings, mined, run, prepared.dev_sets, others, logger)
            print_results(run, summary)
        logger.finish(summary)
    upload(run.path / "model", settings.push_to_hub)
    process_group.stop()
    return summary["best_dev"]


def train_once(
    settings: RunConfig, collection: Data, run: RunDirectory, sets: Sets, others: OtherSets, logger: Logger
) -> dict[str, Any]:
    """Train a run without stages. Returns the summary. `sets`: those of the dev suite; `others`: of the test suite."""
    model = settings.model.build(settings.seed)
    check_model(settings, model)
    expect_prompts(model, collection)
    read_corpus(model, collection)
    shared_baseline = baseline_folder(settings, collection, model)
    prompts = run_prompts(collection, collection)
    trainer = make_trainer(settings, collection, run, model, sets, logger)
    test = test_evaluator(settings, collection, model)
    others.score_start(model, make_evaluate(trainer.engine), logger, shared_baseline)
    return train_model(
        trainer,
        test,
        run,
        training=collection,
        prompts=prompts,
        remarks=lost_in_words(settings.model, prompts),
        shared_baseline=shared_baseline,
        others=others,
        adapter_only=settings.adapter_only,
    )
