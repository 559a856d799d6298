"""What is computed of a question's pairs of turns, and when it holds. Values are medians over the pairs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.setting import OURS, THEIRS
from benchmarks.speed.training import METRIC

Pair = dict[str, dict[str, Any]]  # the figures of a turn, by side


@dataclass(frozen=True)
class Check:
    """A value with its bound. `form` shows both."""

    what: str
    value: Callable[[Sequence[Pair]], float]
    bound: float
    at_most: bool = False
    form: str = "{:.2f}"

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound  # both are false for NaN

    @property
    def holds_when(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.form.format(self.bound)}"

    def result(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """The check of these pairs, in JSON types. "range" has the lowest and the highest value of a single pair."""
        value, each = self.value(pairs), [self.value([pair]) for pair in pairs]
        spread = "" if any(map(math.isnan, each)) else ", ".join(map(self.form.format, (min(each), max(each))))
        shown = {"what": self.what, "holds_when": self.holds_when, "shown": self.form.format(value), "range": spread}
        number = None if math.isnan(value) else value
        return shown | {"value": number, "bound": self.bound, "holds": self.holds(value)}


def ratio(name: str, side: str, other: str, pairs: Sequence[Pair]) -> float:
    """The median of a figure of one side divided by that of the other in the same pair."""
    return statistics.median(pair[side][name] / pair[other][name] for pair in pairs)


def speed(pairs: Sequence[Pair]) -> float:
    return ratio("rows_per_s", OURS, THEIRS, pairs)


def memory(pairs: Sequence[Pair]) -> float:
    """The highest peak of plackett's process divided by that of the other's."""
    ours, theirs = (max(pair[side]["peak_memory_mib"] for pair in pairs) for side in (OURS, THEIRS))
    return float(ours / theirs)


def share(name: str) -> Callable[[Sequence[Pair]], float]:
    """A share of plackett's figures."""
    return lambda pairs: statistics.median(pair[OURS][name] for pair in pairs)


def seconds(side: str, other: str) -> Callable[[Sequence[Pair]], float]:
    """The time of one side divided by that of the other."""
    return lambda pairs: ratio("seconds", side, other, pairs)


def saved(side: str, other: str) -> Callable[[Sequence[Pair]], float]:
    """The share of the time that one side saves beside the other, divided by the share of the work that is repeated."""
    return lambda pairs: statistics.median(
        (1 - pair[side]["seconds"] / pair[other]["seconds"]) / pair[side]["repeated_share"] for pair in pairs
    )


def largest(name: str) -> Callable[[Sequence[Pair]], float]:
    """The largest of a figure that a pair has as a whole, of any pair; NaN if there is none."""
    return lambda pairs: max((pair["both"][name] for pair in pairs if name in pair.get("both", {})), default=math.nan)


def difference_of_values(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of two rows of numbers, relative to the largest number of them."""
    scale = max(map(abs, [*one, *other]))
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) / scale


def difference_of_losses(pairs: Sequence[Pair]) -> float:
    """The largest relative difference of the losses of a step."""
    steps = [step for pair in pairs for step in zip(pair[OURS]["losses"], pair[THEIRS]["losses"], strict=True)]
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in steps)


def quality_in_spreads(pairs: Sequence[Pair]) -> float:
    """The mean metric of plackett minus that of the other, in standard deviations over seeds (the larger one's)."""
    values = {side: [pair[side][METRIC] for pair in pairs] for side in (OURS, THEIRS)}
    if len(pairs) < 2:
        return math.nan
    spread = max(map(statistics.stdev, values.values()))
    return (statistics.mean(values[OURS]) - statistics.mean(values[THEIRS])) / max(spread, 1e-9)
