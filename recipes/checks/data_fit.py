"""Check that the training lists of the data give what the losses need, once the data are read."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from itertools import islice
from math import isfinite
from typing import Any

from data.collection import JUDGED_LISTS
from data.option_names import ROOT, rename_options
from losses.contracts import (
    MissingRequirements,
    all_losses,
    has_in_batch_negatives,
    is_policy,
    missing_requirements,
    reads_raw_scores,
)
from recipes.checks.refresh import check_refreshed_lists
from recipes.chosen_losses import chosen_losses
from recipes.run_config import RunConfig

logger = logging.getLogger(__name__)

FIRST_LISTS = 200  # lists whose scores are looked at
ADD_NEGATIVES = (  # settings that give negatives to lists of relevant documents
    "data/candidates=bm25 (BM25 adds similar documents of the data as negatives) or data.lists.random_fraction=0.5 "
    "(random ones)"
)


def check_data(settings: RunConfig, collection: Any, node: str = ROOT) -> None:
    """Raise `MissingRequirements` if training lists lack something that their loss needs, and ValueError if there are
    none, they hold weights that the loss does not read, or documents are added to lists of degrees. `node`: of the
    training data in the settings, for messages."""
    for source in collection.sources.values():
        check_added_documents(source)
    own = [name for name, loss in settings.data.own_losses.items() if loss is not None]
    for chosen in chosen_losses(settings, node):
        trained = {
            name: source
            for name, source in collection.sources.items()
            if (name == chosen.source if chosen.source is not None else name not in own)
        }
        with chosen.named_in_errors():
            check_lists(settings, chosen.loss, trained)


def check_lists(settings: RunConfig, loss: Any, sources: Mapping[str, Any]) -> None:
    """Raise ValueError if the lists of these data sets do not fit the loss that is trained on them."""
    name, name_of_loss = " + ".join(sources), type(loss).__name__
    if is_policy(loss) and any(source.split("train").weights for source in sources.values()):
        raise ValueError(f"data {name} has weights, which trainer=grpo does not use: remove them")
    for source in sources.values():
        check_soft_labels(source, loss)
        if settings.teacher is None and reads_raw_scores(loss):
            warn_about_probabilities(source, name_of_loss)
        check_isolated(settings, source, loss)
        check_refreshed_lists(settings, source)
    list_size = settings.trainer.list_size
    available = set(frozenset.intersection(*(source.available_with(list_size) for source in sources.values())))
    if settings.teacher is not None:
        available.add("teacher_scores")
    if not missing_requirements(loss, available):
        return
    degrees = remedy_of_degrees(sources)
    possible = frozenset.intersection(*(source.available for source in sources.values()))
    if (
        list_size == 1
        and not missing_requirements(loss, JUDGED_LISTS)
        and not (degrees and missing_requirements(loss, possible))
    ):
        raise ValueError(f"trainer.list_size=1: loss {type(loss).__name__} needs several documents per query: raise it")
    remedy = degrees or remedy_of_positives(settings, loss, sources, available)
    raise MissingRequirements(loss, available, name, outputs=settings.model.outputs, remedy=remedy)


def check_soft_labels(source: Any, loss: Any) -> None:
    """Raise ValueError if a label is above `largest_label`, by which a loss divides soft labels."""
    limits = [each.largest_label for each in all_losses(loss) if getattr(each, "soft_labels", False)]
    if not limits or limits == [1]:
        return  # the requirement unit_labels
    judgements = source.split("train").judgements
    largest = max((label for judged in judgements.values() for label in judged.values()), default=0)
    if largest > min(limits):
        raise ValueError(
            f"loss.largest_label={min(limits):g}: data {source.name} has a label of {largest:g}, and a soft label is "
            f"at most 1: set loss.largest_label={largest:g}"
        )


def warn_about_probabilities(source: Any, loss: str) -> None:
    """Warn if the first scores of the data look like probabilities and the loss compares with raw scores."""
    lists = islice(source.split("train").candidates.values(), FIRST_LISTS)
    scores = {score for found in lists for _, score in found if isfinite(score)}
    if len(scores) > 2 and min(scores) >= 0 and max(scores) <= 1:
        logger.warning(
            "loss %s: the teacher's scores of data %s are all from 0 to 1, as if they had passed a sigmoid; near 0 and "
            "1 they hardly differ: give raw scores (launch/score.py writes them)",
            loss,
            source.name,
        )


def check_isolated(settings: RunConfig, source: Any, loss: Any) -> None:
    """Raise ValueError if lists that are compared with no other list teach the loss nothing, or if it compares them all
    the same."""
    if source.in_batch or not has_in_batch_negatives(loss):
        return
    option = f"{source.node}.in_batch=false"
    for each in all_losses(loss):
        if getattr(each, "in_batch_negatives", False) and "isolated" not in getattr(each, "optional_inputs", ()):
            raise ValueError(
                f"{option}: loss {type(each).__name__} compares all lists of a step (it has no input `isolated`): "
                "leave it out"
            )
    if "comparison" not in source.available_with(settings.trainer.list_size):
        raise ValueError(
            f"{option} leaves the queries of data {source.name} no negatives, since their lists have none: give "
            f"negatives in the data, or set {source.node}.lists.random_fraction=0.5 (random documents) and "
            "trainer.list_size above 1, or leave it out"
        )
    for each in all_losses(loss):
        if "query_to_doc" not in getattr(each, "directions", ("query_to_doc",)):
            raise ValueError(
                f"{option}: with loss.directions={list(each.directions)} a list has negatives in other lists only: add "
                "query_to_doc"
            )


def check_added_documents(source: Any) -> None:
    """Raise ValueError if documents without a label would be added to lists whose labels are degrees of similarity."""
    train = source.split("train")
    if not train.degrees:
        return
    added = source.lists.random_fraction > 0 or any(
        document not in train.judgements[query] for query, found in train.candidates.items() for document, _ in found
    )
    if added:
        raise ValueError(
            f"data {source.name}: {train.degrees}, so labels are degrees of similarity, and documents that "
            f"{source.node}.candidates or {source.node}.lists.random_fraction add to a list have none: leave these "
            f"out, or set {source.node}.relevant_from=X (labels of X and more are relevant)"
        )


def remedy_of_degrees(sources: Mapping[str, Any]) -> str:
    """What makes degrees of similarity fit a loss that reads relevance; empty if the labels are relevance."""
    for source in sources.values():
        train = source.split("train")
        if degrees := train.degrees:
            levels = {label for judged in train.judgements.values() for label in judged.values()}
            if len(levels) == 1:
                return f"all labels are {levels.pop():g}, from which nothing is learned: give rows with other labels"
            return (
                f"{degrees}, so labels are degrees of similarity: set {source.node}.relevant_from=X (labels of X and "
                "more are relevant), or loss=bce_soft for labels from 0 to 1 (divide larger ones "
                "by the largest)"
            )
    return ""


def remedy_of_positives(settings: RunConfig, loss: Any, sources: Mapping[str, Any], available: set[str]) -> str:
    """What gives negatives to lists that hold relevant documents alone; empty if the loss lacks more than negatives."""
    with_negatives = available | JUDGED_LISTS | {"unit_labels"}
    if missing_requirements(loss, with_negatives) or settings.trainer.list_size < 2:
        return ""
    alone = [source for source in sources.values() if has_only_positives(source.available)]
    return "; ".join(f"set {rename_options(ADD_NEGATIVES, source.node, ('lists',))}" for source in alone)


def has_only_positives(available: Collection[str]) -> bool:
    """Whether lists that give this have a relevant document each, and no other."""
    return "positive" in available and "relevance" not in available
