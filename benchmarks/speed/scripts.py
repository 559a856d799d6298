"""What the scripts of one comparison share: measure a setting, keep it in a folder, print tables."""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import report
from benchmarks.speed.measure import measure
from benchmarks.speed.questions import Question
from benchmarks.speed.record import OtherConditions, Record, environment
from benchmarks.speed.setting import SIDES, Setting
from benchmarks.speed.training import METRIC
from benchmarks.speed.turns import WorkerFailed


def compare_speed(setting: Setting, turns: int, folder: Path, rows: str = "rows") -> None:
    """Measure both sides in so many pairs of turns, and print medians and ratios."""
    pairs = measured(Question("speed", "speed", setting, (), 0), turns, folder)
    report({side: [pair[side] for pair in pairs] for side in SIDES}, rows=rows)


def compare_quality(setting: Setting, seeds: list[int], folder: Path) -> None:
    """Train both sides on each seed, and print mean and standard deviation of the test metric after the last step."""
    setting = replace(setting, quality_steps=setting.steps, steps=1, warm_up=0)
    found = {}
    for seed in seeds:
        question = Question(f"quality-{seed}", "quality", replace(setting, seed=seed), (), 0)
        [found[seed]] = measured(question, 1, folder)
    print(f"\n| test {METRIC} | mean | spread (std) | " + " | ".join(f"seed {seed}" for seed in seeds) + " |")
    print("|---|---|---|" + "---|" * len(seeds))
    for side in SIDES:
        values = [found[seed][side][METRIC] for seed in seeds]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = " | ".join(f"{value:.4f}" for value in values)
        print(f"| {side} | {statistics.mean(values):.4f} | {spread:.4f} | {each} |")


def measured(question: Question, pairs: int, folder: Path) -> list[dict[str, Any]]:
    """The pairs of a question: those in the folder, and those that are missing there."""
    try:
        record = Record(folder / "figures.json")
        entry = record.open(question, environment(), again=False)
        measure(
            question,
            entry,
            pairs,
            (folder / question.name).resolve(),
            record.save,
            lambda line: print(line, flush=True),
        )
    except (OtherConditions, ValueError, WorkerFailed) as error:
        sys.exit(f"error: {error}")
    return list(entry["pairs"])
