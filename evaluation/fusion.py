"""Fuse a model with the first stage: a weighted sum of scores that are normalised per query."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from engines.distributed.process_group import is_main
from evaluation.metrics import Qrels, Run, measure

logger = logging.getLogger(__name__)

WEIGHTS = [step / 20 for step in range(21)]


def standardise(scores: Mapping[str, float]) -> dict[str, float]:
    """Z-scores (s - mean) / standard deviation over one query's documents; zeros if all scores are equal.

    Z-scores rather than min-max: logits and BM25 scores have no bounds, and under min-max a single outlier squeezes
    all other documents together. Invariant to scale and shift of the scores, so the weight means the same for any
    model.
    """
    if not scores:
        return {}
    mean = math.fsum(scores.values()) / len(scores)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores.values()) / len(scores))
    if deviation <= 1e-12 * max(map(abs, scores.values())):
        return dict.fromkeys(scores, 0.0)
    return {document: (score - mean) / deviation for document, score in scores.items()}


def fuse(first_stage: Run, model: Run, weight: float) -> dict[str, dict[str, float]]:
    """The sum weight * z(model) + (1 - weight) * z(first stage), per query. A document that one of the two did not
    return gets the lowest z of that one."""
    if not 0 <= weight <= 1:
        raise ValueError(f"the fusion weight must lie in [0, 1] (0: first stage, 1: model), got {weight}")
    fused = {}
    for query in {**first_stage, **model}:
        first, second = standardise(first_stage.get(query, {})), standardise(model.get(query, {}))
        low_first, low_second = min(first.values(), default=0.0), min(second.values(), default=0.0)
        fused[query] = {
            document: weight * second.get(document, low_second) + (1 - weight) * first.get(document, low_first)
            for document in first | second
        }
    return fused


def fit_weight(first_stage: Run, model: Run, qrels: Qrels, metric: str) -> float:
    """The weight from the grid 0, .05, ..., 1 that maximises `metric`; the middle one if several do.

    Fit it on dev: on the reported queries the result would be too good.
    """
    values = [measure(qrels, fuse(first_stage, model, weight), [metric])[metric] for weight in WEIGHTS]
    best = [weight for weight, value in zip(WEIGHTS, values, strict=True) if value >= max(values) - 1e-9]
    if len(best) == len(WEIGHTS) and is_main():
        logger.warning("every fusion weight gives %s %.4f on dev: the middle one is taken", metric, values[0])
    return best[len(best) // 2]
