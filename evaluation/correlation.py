"""Correlation of scores with labels over pairs, and average precision, under their usual names."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable

import numpy as np


def spearman(labels: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's rank correlation; equal values share their mean rank. NaN if all labels or all scores are equal."""
    from scipy.stats import spearmanr

    return float(spearmanr(labels, scores).statistic)


def pearson(labels: np.ndarray, scores: np.ndarray) -> float:
    """Pearson's linear correlation. NaN if all labels or all scores are equal."""
    from scipy.stats import pearsonr

    return float(pearsonr(labels, scores).statistic)


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """The sum over distinct scores, highest first, of precision times the gain in recall, where every label above 0 is
    positive. Pairs of equal score count together, so their order is irrelevant. NaN if there is no positive."""
    order = np.argsort(-scores, kind="stable")
    positives = np.cumsum(labels[order] > 0)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last pair of each score
    found = positives[last]
    precision, gained = found / (last + 1), np.diff(found, prepend=0)
    return float((precision * gained).sum() / found[-1]) if found[-1] else float("nan")


CORRELATIONS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "Spearman": spearman,
    "Pearson": pearson,
    "AP": average_precision,
}


def parse_correlation(name: str) -> str:
    """The name as it is shown. Raises ValueError, with the valid names, if there is no such metric.

    >>> parse_correlation("spearman")
    'Spearman'
    """
    shown = {metric.lower(): metric for metric in CORRELATIONS}
    word = name.strip().lower()
    if word in shown:
        return shown[word]
    near = difflib.get_close_matches(word, shown, n=1, cutoff=0.5)
    hint = f"did you mean {shown[near[0]]}? " if near else ""
    raise ValueError(f"eval=similarity has no metric {name!r}: {hint}valid are {', '.join(CORRELATIONS)}")


def correlate(labels: np.ndarray, scores: np.ndarray, metrics: Iterable[str]) -> dict[str, float]:
    """Measure scores by labels, both [pairs] float64. A correlation with scores that are all equal is 0: they say
    nothing about the labels.

    Raises ValueError if a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a pair has a score that is not finite: the model has diverged or overflows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scipy, about equal scores: the caller warns
        values = {name: CORRELATIONS[name](labels, scores) for name in metrics}
    return {name: 0.0 if np.isnan(value) else value for name, value in values.items()}
