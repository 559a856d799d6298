"""What comes before a training run, or the plan of its memory: read the data and check that everything fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.sampling.share import with_training_share
from losses.contracts import reads_soft_labels
from recipes.build import Data, check_auxiliary_folder
from recipes.checks.compatibility import AUXILIARY_INPUTS, check_parts
from recipes.checks.data_fit import check_data
from recipes.checks.length import check_length
from recipes.chosen_losses import losses_of
from recipes.dev_suite import Sets, check_dev_suite, read_dev_suite, without_suite
from recipes.evaluate.choice import choose_evaluation
from recipes.negatives.mined_training import check_negatives, check_negatives_of
from recipes.other_sets import check_test_suite
from recipes.prompts import check_prompts
from recipes.run_config import RunConfig
from recipes.stages import Stage, stage_prompts, stages_of, training_data


@dataclass(frozen=True)
class Prepared:
    """A run's data, and its settings with the evaluation that fits them."""

    settings: RunConfig
    collection: Data  # the run's data: it is evaluated, and trained on by stages without data of their own
    stages: list[Stage]
    training: list[Data]  # the training data of each stage
    dev_sets: Sets  # those of the dev suite; empty: dev of the collection is used during training


def check_settings(settings: RunConfig) -> list[Stage]:
    """Raise ValueError, before data is read, if parts do not fit each other or a model cannot be found. Returns the
    stages."""
    stages = stages_of(settings)
    for stage in stages:
        check_parts(stage.settings, stage.data_node)
    check_negatives(settings)
    check_dev_suite(settings)
    check_test_suite(settings)
    settings.model.check()
    for role in AUXILIARY_INPUTS:
        if (options := getattr(settings, role)) is not None:
            check_auxiliary_folder(role, options)
    return stages


def prepare(settings: RunConfig) -> Prepared:
    """Read the data of a run.

    Raises ValueError if settings do not fit each other or the data, or if the export would lose a prompt.
    """
    stages = check_settings(settings)
    collection = settings.data.build()
    sets = read_dev_suite(settings, collection)
    collection = take_share(settings, without_suite(collection, sets))
    training = build_training_data(stages, collection, sets)
    check_negatives_of(settings, collection)
    collection.split("test")
    settings = fit_evaluation(settings, stages, collection)
    check_dev_suite(settings)  # the labels may have chosen the evaluation
    check_test_suite(settings)
    return Prepared(settings, collection, stages_of(settings), training, sets)


def take_share(settings: RunConfig, data: Data) -> Data:
    """`data` with the run's share of the training queries of each data set."""
    return data.map_sources(lambda source: with_training_share(source, settings.train_share, settings.seed))


def fit_evaluation(settings: RunConfig, stages: Sequence[Stage], collection: Data) -> RunConfig:
    """The settings with the evaluation that fits the labels of dev and test."""
    soft_labels = any(reads_soft_labels(loss) for stage in stages for loss in losses_of(stage.settings).used)
    return choose_evaluation(
        settings, collection.evaluated, collection.splits, ("test", "dev"), soft_labels=soft_labels
    )


def build_training_data(stages: Sequence[Stage], collection: Data, sets: Sets) -> list[Data]:
    """Build the training data of each stage. Raises ValueError if a loss needs something that the data do not have, or
    if the export would lose a prompt."""
    training = [
        take_share(stage.settings, without_suite(training_data(stage, collection), sets, stage.data_node))
        if stage.has_own_data
        else training_data(stage, collection)
        for stage in stages
    ]
    for stage, data in zip(stages, training, strict=True):
        check_data(stage.settings, data, stage.data_node)
        check_length(stage.settings, data, has_dev=bool(sets) or "dev" in collection.splits)
        settings, prompts = stage.settings, stage_prompts(stage, collection, data)
        check_prompts(settings.model, collection, prompts, may_be_lost=settings.allow_lost_prompts)
    return training
