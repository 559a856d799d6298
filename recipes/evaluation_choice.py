"""Choose the evaluation that fits the labels of the held-out queries, which are known once the data are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
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

    Raises ValueError if documents would be ranked by degrees of similarity.
    """
    chosen: Any = settings
    options: EvaluatorConfig = chosen.eval
    measured = [splits[name] for name in evaluated if name in splits]
    split = next((split for split in measured if split.degrees), None)
    settled = replace(chosen, eval_of_degrees=None)
    if not options.ranks:
        return settled
    if split is None:
        if any(are_binary_pairs(split.judgements.values()) for split in measured):
            logger.warning(
                "data %s: pairs with labels of two levels: each query ranks its documents and pairs of label 0 count "
                "little; eval=similarity eval.metric=AP measures how well scores tell the two levels apart",
                data.name,
            )
        return settled
    pairs = are_pairs(split.judgements.values())
    if pairs and chosen.eval_of_degrees is not None:
        logger.warning(
            "data %s: %s, so labels are degrees of similarity: eval=similarity is used instead of a ranking; "
            "%s.relevant_from=X makes labels of X and more relevant",
            data.name,
            split.degrees,
            data.node,
        )
        return replace(settled, eval=chosen.eval_of_degrees)
    if not pairs and soft_labels:
        return settled
    raise ValueError(ranking_refused(data, split.degrees))


def ranking_refused(data: Collection, degrees: str, choose: str = "choose eval=similarity, or ") -> str:
    """The line that refuses to measure rankings by degrees of similarity."""
    return (
        f"data {data.name}: {degrees}, so labels are degrees of similarity, and nDCG would take every label above 0 "
        f"for relevant: {choose}set {data.node}.relevant_from=X (labels of X and more are relevant)"
    )
