"""Choose the evaluation that fits the labels of the held-out queries, which are known once the data are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from typing import Any, TypeVar

from data.collection import Collection, Split
from data.degrees import are_binary_pairs, are_pairs
from evaluation.evaluator import EvaluatorConfig

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings")


def choose_evaluation(
    settings: Settings,
    data: Collection,
    splits: Mapping[str, Split],
    evaluated: Sequence[str],
    *,
    soft_labels: bool = False,
) -> Settings:
    """`settings` with the evaluation that fits the splits named `evaluated`, and `eval_of_degrees` None.

    Labels that are degrees of similarity say of no document that it is relevant, so no ranking can be measured by them.
    Pairs of such labels are evaluated by `eval_of_degrees` instead of `eval`, and a line says so; it is None if the
    command line chooses `eval`. `data` is named in messages; `soft_labels`: whether the loss reads labels of lists as
    degrees of relevance, which nDCG does too.

    Raises ValueError if documents would be ranked by degrees of similarity, or if a split cannot be measured.
    """
    chosen: Any = settings
    measured = {name: splits[name] for name in evaluated if name in splits}
    degrees = next((split for split in measured.values() if split.degrees), None)
    options = chosen.eval
    if options.ranks and degrees is not None:
        options = _instead_of_ranking(chosen, data, degrees, soft_labels=soft_labels)
    elif options.ranks and any(are_binary_pairs(split.judgements.values()) for split in measured.values()):
        logger.warning(
            "data %s: pairs with labels of two levels: each query ranks its documents and pairs of label 0 count "
            "little; eval=similarity eval.metric=AP measures how well scores tell the two levels apart",
            data.name,
        )
    check_splits(options, data, measured)
    return replace(chosen, eval=options, eval_of_degrees=None)


def _instead_of_ranking(settings: Any, data: Collection, split: Split, *, soft_labels: bool) -> EvaluatorConfig:
    """The evaluation of a split whose labels are degrees. Raises ValueError if none fits."""
    chosen, other = settings.eval, settings.eval_of_degrees
    pairs = are_pairs(split.judgements.values())
    if not pairs and soft_labels:
        return chosen
    if not pairs or other is None:
        raise ValueError(ranking_refused(data, split.degrees))
    unused = [f"eval.{each.name}" for each in fields(chosen) if _is_set(chosen, each) and not hasattr(other, each.name)]
    logger.warning(
        "data %s: %s, so labels are degrees of similarity: eval=similarity is used instead of a ranking%s; "
        "%s.relevant_from=X makes labels of X and more relevant",
        data.name,
        split.degrees,
        f", without {', '.join(unused)}" * bool(unused),
        data.node,
    )
    return other


def _is_set(options: Any, option: Field[Any]) -> bool:
    default = option.default if option.default_factory is MISSING else option.default_factory()
    return bool(getattr(options, option.name) != default)


def check_splits(options: EvaluatorConfig, data: Collection, splits: Mapping[str, Split]) -> None:
    """Raise ValueError if a split cannot be measured by this evaluation."""
    for name, split in splits.items():
        other = next((each for each in splits if splits[each].degrees and not split.degrees), None)
        try:
            options.check_split(split, name)
        except ValueError as error:
            if other is None:
                raise
            raise ValueError(
                f"data {data.name}: the labels of {other} are degrees of similarity ({splits[other].degrees}), and "
                f"those of {name} are not and are all equal: give {data.node}.{name}_path with degrees too, or leave "
                f"out {data.node}.{other}_path"
            ) from error


def ranking_refused(data: Collection, degrees: str, choose: str = "choose eval=similarity, or ") -> str:
    """The line that refuses to measure rankings by degrees of similarity."""
    return (
        f"data {data.name}: {degrees}, so labels are degrees of similarity, and nDCG would take every label above 0 "
        f"for relevant: {choose}set {data.node}.relevant_from=X (labels of X and more are relevant)"
    )
