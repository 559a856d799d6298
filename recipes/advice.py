"""Advice if no checkpoint of a training beat its start on dev: what to change first, from what it measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.evaluator import EvaluationResult
from evaluation.significance import interval_of
from losses.contracts import input_names, is_policy
from recipes.negatives.mined_training import FILE
from runs.files import read_json
from trainers.options import TrainerConfig
from trainers.source_losses import SourceLosses

FEWEST_STEPS = 4  # logged, to compare the first and the last quarter of them, at least two each
MOST_FINDINGS = 2  # in the line
MOVED, STILL = 0.05, 0.01  # shares of the loss at the start by which it counts as moved, and as not moved
SOLVED = 0.05  # a loss whose minimum is 0
NEAR_LIMIT = 0.95  # share of the best possible value
IDLE = 0.5  # share of lists whose samples all have the same reward
SUSPECTED = 0.05  # share of the mined negatives


@dataclass(frozen=True)
class Trend:
    """What training optimises, in the first and in the last quarter of its logged steps."""

    name: str  # "loss" or "reward"
    first: float
    last: float
    noise: float  # twice the standard error of their difference

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> Trend | None:
        """None if there are too few values."""
        if len(values) < FEWEST_STEPS:
            return None
        quarter = max(len(values) // 4, 2)
        first, last = np.array(values[:quarter]), np.array(values[-quarter:])
        noise = 2 * float(np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / quarter))
        return cls(name, float(first.mean()), float(last.mean()), noise)

    @property
    def gain(self) -> float:
        """How much better the last quarter is."""
        return self.first - self.last if self.name == "loss" else self.last - self.first

    @property
    def has_moved(self) -> bool:
        return abs(self.gain) > max(MOVED * abs(self.first), self.noise)

    @property
    def has_stayed(self) -> bool:
        return abs(self.gain) <= max(STILL * abs(self.first), self.noise)

    def __str__(self) -> str:
        return f"from {self.first:.3g} to {self.last:.3g}"


@dataclass(frozen=True)
class Measured:
    """What a training measured, in the order of its steps."""

    metric: str
    trend: Trend | None  # None: too few logged steps, or losses of several kinds
    has_zero_minimum: bool  # a loss of 0 leaves nothing to learn
    gradient_norms: Sequence[float]
    idle_share: float  # of the lists, as a mean over steps (GRPO)
    dev: Sequence[float]  # first that of the start
    dev_queries: int
    dev_margin: float | None  # half of the 95% interval of the start; None: not known by query
    num_skipped: int  # batches that were not finite
    epochs: float
    start: float  # on test
    limit: float | None  # the best possible value on test; None: the whole corpus is ranked
    recall: float | None  # of the candidates of test
    suspected: tuple[int, int] | None  # mined negatives that may be relevant, and all of them; None: none was mined


def advice(measured: Measured, options: TrainerConfig) -> str:
    """One line: the most important findings, each with the setting to try."""
    findings = [finding for rule in RULES if (finding := rule(measured, options)) is not None]
    if not findings:
        moved = "" if measured.trend is None else f"{measured.trend.name} {measured.trend}, "
        findings = [
            f"nothing stands out ({moved}{measured.epochs:.2g} epochs): try another trainer.learning_rate "
            f"({options.learning_rate:g}) first, such as a third and three times as much"
        ]
    return "advice: " + "; ".join(findings[:MOST_FINDINGS])


def _not_finite(measured: Measured, options: TrainerConfig) -> str | None:
    if not measured.num_skipped:
        return None
    return f"{measured.num_skipped} batches were not finite: lower trainer.learning_rate ({options.learning_rate:g})"


def _got_worse(measured: Measured, options: TrainerConfig) -> str | None:
    trend = measured.trend
    if trend is None or not trend.has_moved or trend.gain > 0:
        return None
    clipped = np.mean([norm > options.max_grad_norm for norm in measured.gradient_norms])
    verb = "rose" if trend.name == "loss" else "fell"
    return (
        f"the {trend.name} {verb} {trend} (gradients were clipped in {clipped:.0%} of the steps): lower "
        f"trainer.learning_rate ({options.learning_rate:g})"
    )


def _idle(measured: Measured, options: TrainerConfig) -> str | None:
    if measured.idle_share < IDLE:
        return None
    return (
        f"in {measured.idle_share:.0%} of the lists all samples had the same reward, which teaches nothing: raise "
        "loss.num_generations or loss.entropy_coef, or replace such lists (trainer.refresh_every)"
    )


def _too_easy(measured: Measured, options: TrainerConfig) -> str | None:
    trend = measured.trend
    if trend is None or not measured.has_zero_minimum or trend.first > SOLVED:
        return None
    return (
        f"the loss was {trend.first:.2g} from the start, so the negatives are too easy: take harder ones "
        "(data/lists=hard, trainer.refresh_every, launch/mine.py)"
    )


def _stayed(measured: Measured, options: TrainerConfig) -> str | None:
    trend = measured.trend
    if trend is None or not trend.has_stayed or (measured.has_zero_minimum and trend.first <= SOLVED):
        return None
    if _fell_on_dev(measured, options) is not None:  # it has moved, too far: a higher rate is no remedy
        return None
    return (
        f"the {trend.name} did not move beyond its noise ({trend}, {measured.epochs:.2g} epochs): raise "
        f"trainer.learning_rate ({options.learning_rate:g}), or train longer"
    )


def _suspected(measured: Measured, options: TrainerConfig) -> str | None:
    if measured.suspected is None:
        return None
    suspected, total = measured.suspected
    if suspected < SUSPECTED * max(total, 1):
        return None
    return (
        f"{suspected} of {total} mined negatives may be relevant ({FILE}.audit.html): raise negatives.range_min or "
        "lower negatives.percentage"
    )


def _learned_something_else(measured: Measured, options: TrainerConfig) -> str | None:
    trend = measured.trend
    if trend is None or not trend.has_moved or trend.gain < 0 or len(measured.dev) < 2:
        return None
    start, later = measured.dev[0], max(measured.dev[1:])
    if start - later <= (measured.dev_margin or 0.0):
        return None
    what = f"the {trend.name} went {trend} while {measured.metric} on dev fell from {start:.4f} to {later:.4f}"
    if measured.epochs > 1:
        return (
            f"{what} in {measured.epochs:.2g} epochs: train fewer (trainer.max_epochs=1), or at a lower learning_rate"
        )
    return (
        f"{what}: lower trainer.learning_rate ({options.learning_rate:g}), and look for relevant documents among the "
        "negatives (launch/inspect_data.py)"
    )


def _fell_on_dev(measured: Measured, options: TrainerConfig) -> str | None:
    trend = measured.trend
    if measured.dev_margin is None or len(measured.dev) < 2 or (trend is not None and trend.has_moved):
        return None
    start, later = measured.dev[0], max(measured.dev[1:])
    if start - later <= measured.dev_margin:
        return None
    return (
        f"{measured.metric} on dev fell from {start:.4f} to {later:.4f} at best, beyond its 95% interval (± "
        f"{measured.dev_margin:.4f}): lower trainer.learning_rate ({options.learning_rate:g})"
    )


def _near_the_limit(measured: Measured, options: TrainerConfig) -> str | None:
    limit = 1.0 if measured.limit is None else measured.limit
    if measured.start < NEAR_LIMIT * limit:
        return None
    reached = f"the start has {measured.metric} {measured.start:.4f} of at most {limit:.4f} on test"
    if measured.recall is not None and measured.recall < NEAR_LIMIT:
        return f"{reached}, as {measured.recall:.0%} of the relevant documents are candidates: raise eval.depth"
    return f"{reached}: measure what it can still gain, by another eval.metric or harder queries"


def _dev_is_small(measured: Measured, options: TrainerConfig) -> str | None:
    if measured.dev_margin is None or len(measured.dev) < 2:
        return None
    start, later = measured.dev[0], max(measured.dev[1:])
    if start - later > measured.dev_margin:
        return None
    return (
        f"the best later {measured.metric} on dev ({later:.4f}) is inside the 95% interval of the start ({start:.4f} ± "
        f"{measured.dev_margin:.4f}, {measured.dev_queries} queries): measure more (eval.dev_max_queries, "
        "data.dev_fraction)"
    )


RULES: tuple[Callable[[Measured, TrainerConfig], str | None], ...] = (
    _not_finite,
    _got_worse,
    _idle,
    _too_easy,
    _stayed,
    _suspected,
    _learned_something_else,
    _fell_on_dev,
    _near_the_limit,
    _dev_is_small,
)


def measured_in(
    folder: Path,
    summary: Mapping[str, Any],
    losses: SourceLosses,
    start_on_dev: EvaluationResult | None,
    skipped: int,
    *,
    best_step: int = 0,
) -> Measured:
    """Read what the run in `folder` has measured. `start_on_dev`: the starting model's result. `best_step`: the step of
    what was to beat, of a run that started from the checkpoint of another; the steps before it are not read."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    train = [line for line in lines if line["split"] == "train" and line["step"] > best_step]
    metric, policy = summary["metric"], any(map(is_policy, losses.used))
    name, key = ("reward", "reward_mean") if policy else ("loss", "loss")
    values = [line[key] for line in train if line.get(key) is not None] if len(losses.used) == 1 else []
    reads_teacher = any(each.startswith("teacher") for loss in losses.used for each in input_names(loss))
    per_query = {} if start_on_dev is None else start_on_dev.metrics.per_query.get(metric, {})
    interval = interval_of([per_query]) if len(per_query) > 1 else None
    idle = [line["frac_reward_zero_std"] for line in train if line.get("frac_reward_zero_std") is not None]
    return Measured(
        metric=metric,
        trend=Trend.of(name, values),
        has_zero_minimum=not policy and not reads_teacher,
        gradient_norms=[line["grad_norm"] for line in train if line.get("grad_norm") is not None],
        idle_share=float(np.mean(idle)) if idle else 0.0,
        dev=[line[metric] for line in lines if _is_later_dev(line, best_step) and line.get(metric) is not None],
        dev_queries=len(per_query),
        dev_margin=None if interval is None else (interval.high - interval.low) / 2,
        num_skipped=skipped,
        epochs=summary["epochs"],
        start=summary["before"],
        limit=(summary.get("ceiling") or {}).get(metric),
        recall=summary.get("recall_ceiling"),
        suspected=_mined(folder / f"{FILE}.audit.json"),
    )


def _is_later_dev(line: Mapping[str, Any], best_step: int) -> bool:
    return line["split"] == "dev" and line["step"] >= best_step


def _mined(audit: Path) -> tuple[int, int] | None:
    if not audit.is_file():
        return None
    counts = read_json(audit)
    return counts["suspected_negatives"], counts["filled"]
