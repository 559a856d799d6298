"""Measure a model on several data sets during training: the mean over them, and the values of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TypeVar

from data.progress import show_progress
from evaluation.evaluator import EvaluationResult, Evaluator, EvaluatorConfig
from evaluation.metrics import Metrics, Qrels, Run
from inference.runner import Runner

Value = TypeVar("Value")


class SuiteEvaluator:
    """The evaluators of several data sets as one.

    A metric is the mean over the sets of their means, so each set counts alike; "nDCG@10/scifact" is that of a set. In
    rankings, judgements and values of single queries, a query is called "scifact/ID".
    """

    def __init__(self, evaluators: Mapping[str, Evaluator]):
        self.evaluators = evaluators

    @property
    def config(self) -> EvaluatorConfig:
        return next(iter(self.evaluators.values())).config

    @property
    def has_first_stage(self) -> bool:
        return all(evaluator.has_first_stage for evaluator in self.evaluators.values())

    @cached_property
    def qrels(self) -> Qrels:
        return joined({name: evaluator.qrels for name, evaluator in self.evaluators.items()})

    @cached_property
    def first_stage_run(self) -> Run:
        return joined({name: evaluator.first_stage_run for name, evaluator in self.evaluators.items()})

    def evaluate(self, runner: Runner) -> EvaluationResult:
        """Evaluate the model on each data set. Call it on all ranks; all get the same result."""
        sets = show_progress(self.evaluators.items(), "data set", len(self.evaluators), "data sets")
        results = {name: evaluator.evaluate(runner) for name, evaluator in sets}
        means = {name: result.metrics.mean for name, result in results.items()}
        metrics = list(next(iter(means.values())))
        mean = {metric: math.fsum(own[metric] for own in means.values()) / len(means) for metric in metrics}
        of_sets = {f"{metric}/{name}": own[metric] for metric in metrics for name, own in means.items()}
        per_query = {
            metric: joined({name: result.metrics.per_query[metric] for name, result in results.items()})
            for metric in metrics
        }
        run = joined({name: result.run for name, result in results.items()})
        return EvaluationResult(Metrics(mean | of_sets, per_query), run)


def joined(sets: Mapping[str, Mapping[str, Value]]) -> dict[str, Value]:
    """The values of all sets by "SET/QUERY"."""
    return {f"{name}/{query}": value for name, values in sets.items() for query, value in values.items()}
