"""The data sets on which training chooses its best checkpoint, if a run has such (`dev_suite`), instead of its dev."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from data.collection import Collection, Split
from data.formats.suite import in_suite
from data.option_names import ROOT
from data.overlap import find_overlap, held_out_queries, without_held_out
from data.sampling.mixture import Mixture
from evaluation.evaluator import Prompts
from evaluation.suite_evaluator import SuiteEvaluator
from models.capabilities import RankingModel
from recipes.checks.compatibility import check_is_data
from recipes.evaluate.choice import ranking_refused
from recipes.prompts import expect_prompts
from recipes.run_config import RunConfig

logger = logging.getLogger(__name__)

Data = Collection | Mixture
Sets = Mapping[str, Collection]  # each has the split that is measured alone, called dev


def check_dev_suite(settings: RunConfig) -> None:
    """Raise ValueError, before data are read, if the run cannot be measured by a suite."""
    if settings.dev_suite is None:
        if settings.dev_suite_uses_test:
            raise ValueError("dev_suite_uses_test=true is for the sets of dev_suite, and there are none: leave it out")
        return
    check_is_data(settings.dev_suite)
    if not settings.eval.ranks:
        raise ValueError("dev_suite ranks, and eval=similarity does not: leave one of them out")


def read_dev_suite(settings: RunConfig, collection: Data) -> Sets:
    """The data sets of the run's `dev_suite`; none if it has no such.

    Each is measured on its dev split; one that has only test, on test if `dev_suite_uses_test`, with a warning. Raises
    ValueError if it is not set then, if labels are degrees of similarity, or if queries of the run's own test would
    choose the checkpoint that is then measured on them.
    """
    if settings.dev_suite is None:
        return {}
    sets: dict[str, Collection] = {}
    for name, options in settings.dev_suite.evaluated_sets().items():
        with in_suite(name, settings.dev_suite, options):
            own = options.build()
            sets[name or own.name] = _measured(settings, own)
    test = held_out_queries(collection.evaluated, collection.evaluated.name)
    for name, own in sets.items():
        found = [split for split in find_overlap(own.splits["dev"].queries, test).values() if split == "test"]
        if found:
            raise ValueError(
                f"dev_suite: {len(found)} of the {len(own.splits['dev'].queries)} queries of {name} are in the run's "
                "own test, which would be no test then: leave the set out"
            )
    return sets


def _measured(settings: RunConfig, own: Collection) -> Collection:
    """The collection with the split that is measured alone, called dev."""
    name = "dev" if "dev" in own.splits else "test"
    if name == "test" and not settings.dev_suite_uses_test:
        raise ValueError(
            f"data {own.name} has no dev split: give it dev judgements, leave it out, or set dev_suite_uses_test=true, "
            "which chooses the checkpoint on its test (figures on that test are no result then)"
        )
    split: Split = own.split(name)
    if split.degrees:
        raise ValueError(ranking_refused(own, split.degrees, ""))
    if name == "test":
        logger.warning("dev_suite: %s is measured on test: figures of this run on that test are no result", own.name)
    return replace(own, splits={"dev": split}, missing={})


def without_suite(data: Data, sets: Sets, node: str = ROOT) -> Data:
    """The training data without the queries by which the suite chooses the checkpoint."""
    remedy = f"give {node} other training queries, or leave the set out of dev_suite"
    for name, own in sets.items():
        held_out = held_out_queries(own, f"dev_suite ({name})")
        data = data.map_sources(partial(without_held_out, held_out=held_out, where=node, remedy=remedy))
    return data


def suite_evaluator(settings: RunConfig, sets: Sets, model: RankingModel) -> SuiteEvaluator:
    """The evaluator of a suite during training, limited as that of dev."""
    expect_prompts(model, *sets.values())
    return SuiteEvaluator(
        {
            name: settings.eval.build(
                own.splits["dev"], own.documents, model.tokenizer, dev=True, prompts=Prompts.of(own)
            )
            for name, own in sets.items()
        }
    )
