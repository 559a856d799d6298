"""The curves of several runs in one picture for each value of metrics.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from runs.report.comparison.content import Curve, Picture
from runs.report.comparison.selection import ShownRun
from runs.report.content import STORED, form_in_words
from runs.report.html import CURVES, has_values, series_of

MAX_CURVES = 20  # runs in a picture
TITLES = {**CURVES, "rows_per_s": "Rows per second", "loss_scale": "Loss scale (fp16)"}
AS_THEY_ARE = ("learning_rate", "loss_scale")  # the others are drawn as running means


def pictures_of(runs: Sequence[ShownRun]) -> tuple[list[Picture], list[str]]:
    """A picture for each value that any run has logged twice or more, and what is to be said about them."""
    drawn = [run for run in runs if run.lines]
    shown = _chosen(drawn)
    left_out = [run.label for run in drawn if all(run is not other for other in shown)]
    which = (
        f"{MAX_CURVES} runs, one of each configuration first"
        if any(run.job for run in drawn)
        else f"the first {MAX_CURVES} runs"
    )
    notes = [f"the curves are those of {which}; left out: {', '.join(left_out)}"] if left_out else []
    pictures = [_picture(shown, "dev", name, title) for name, title in _dev_titles(shown).items()]
    titles = dict(TITLES)
    if any(has_values(run.lines, "reward_mean") for run in shown):
        titles["loss"] = "Loss (of a policy: zero in value at ratio 1, read the reward)"
    names = dict.fromkeys(name for run in shown for line in run.lines if line["split"] == "train" for name in line)
    titles |= {name: f"Loss, {name.partition('/')[2]}" for name in names if name.startswith("loss/")}
    if not any(has_values(run.lines, "clip_fraction") for run in shown):
        titles.pop("clip_fraction")  # with one update per batch no ratio can be clipped
    pictures += [_picture(shown, "train", name, title) for name, title in titles.items()]
    return [picture for picture in pictures if picture.curves], notes


def _chosen(runs: Sequence[ShownRun]) -> list[ShownRun]:
    """The runs that are drawn: the first ones; of an ablation, the first run of each configuration, then the second."""
    before: Counter[Any] = Counter()
    turns = []
    for run in runs:
        key = run.job or run.number
        turns.append((before[key], run.number))
        before[key] += 1
    chosen = {number for _, number in sorted(turns)[:MAX_CURVES]}
    return [run for run in runs if run.number in chosen]


def _dev_titles(runs: Sequence[ShownRun]) -> dict[str, str]:
    """The metrics on dev by which the runs are judged, with their stored forms."""
    titles = {}
    for metric in dict.fromkeys(run.metric for run in runs if run.metric):
        titles[metric] = f"Dev {metric}"
        forms = {name for run in runs for line in run.lines if line["split"] == "dev" for name in line}
        for name in sorted(name for name in forms if name.startswith(metric + STORED)):
            titles[name] = f"Dev {metric}, {form_in_words(name.partition(STORED)[2])}"
    return titles


def _picture(runs: Sequence[ShownRun], split: str, name: str, title: str) -> Picture:
    curves = [Curve(run.number, run.name, series_of(run.lines, split, name)) for run in runs]
    dots, smooth = split == "dev", split == "train" and name not in AS_THEY_ARE
    return Picture(title, [curve for curve in curves if curve.parts], smooth, dots)
