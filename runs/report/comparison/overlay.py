"""Draw the curves of several runs in one picture, told apart by number, marker and dashes, not by colour alone."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runs.report.charts import COLOURS, FAINT, INK, draw_axes, draw_sample, running_mean
from runs.report.comparison.content import Curve, Picture, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 1.5), (1.2, 1.2), (5, 1.5, 1.2, 1.5))  # ink, gap, ...; (): a line
MAX_POINTS = 3000  # in a picture, of all its curves
MARKED = 6  # markers on a curve
HEIGHT = 2.7  # inches


def draw_picture(picture: Picture) -> str:
    """Draw the curves as an HTML `<figure>`. The number of each run stands at the end of its curve. Stages begin at a
    vertical line with their names if they are alike in all runs, else at a bar on the curve."""
    names = ", ".join(f"run {curve.number}" for curve in picture.curves)
    return draw_axes(picture.title, lambda axes: _paint(axes, picture), height=HEIGHT, about=f"by step: {names}")


def legend(runs: Mapping[int, str]) -> str:
    """The legend of all pictures: number, line and name of each run."""
    items = (f"<li>{_sample(number)} <b>{number}</b> {html.escape(name)}</li>" for number, name in runs.items())
    return f'<ul class="legend">{"".join(items)}</ul>'


def _sample(number: int) -> str:
    def paint(axes: Axes) -> None:
        _line(axes, number, [0, 1, 2], [0, 0, 0], [1])

    return draw_sample(paint)


def _paint(axes: Axes, picture: Picture) -> None:
    most = max(MAX_POINTS // len(picture.curves), 50)
    starts = [_starts(curve) for curve in picture.curves]
    are_alike = all(own == starts[0] for own in starts)
    ends = []
    for place, curve in enumerate(picture.curves):
        points = [point for part in curve.parts.values() for point in _drawn(part, picture.smooth)]
        points = points[:: -(-len(points) // most)]
        steps, values = [step for step, _ in points], [value for _, value in points]
        marked = range(len(points)) if picture.dots and len(points) <= most // 10 else _marked(len(points), place)
        _line(axes, curve.number, steps, values, list(marked))
        ends.append((steps[-1], values[-1], curve.number))
        if not are_alike:
            _mark_starts(axes, curve, points)
    if are_alike and len(starts[0]) > 1:
        _name_stages(axes, starts[0])
    _number_ends(axes, ends)
    axes.set_xlabel("step", color=INK)
    axes.locator_params(axis="x", nbins=7, integer=True)


def _line(axes: Axes, number: int, steps: Sequence[float], values: Sequence[float], marked: Sequence[int]) -> None:
    """Draw a curve in the style of a run. 20 runs have 20 styles: 7 markers, 4 kinds of dashes."""
    place = number - 1
    colour, marker, dashes = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)]
    (line,) = axes.plot(steps, values, color=colour, linewidth=1.5, marker=marker, markersize=4, markevery=marked)
    if dashes:
        line.set_dashes(dashes)


def _drawn(part: Points, smooth: bool) -> list[tuple[float, float]]:
    """The points of a stage, as a running mean over 10% of them if `smooth`."""
    values = [value for _, value in part]
    values = running_mean(values, max(len(values) // 20, 1)) if smooth and len(values) > 2 else values
    return [(step, value) for (step, _), value in zip(part, values, strict=True)]


def _marked(count: int, place: int) -> range:
    """The points that have a marker, at other places on each curve."""
    every = max(count // MARKED, 1)
    return range(place % every, count, every)


def _starts(curve: Curve) -> list[tuple[float, str]]:
    """The first step and the name of each stage; empty for a run without stages."""
    return [(points[0][0], name) for name, points in curve.parts.items() if name]


def _mark_starts(axes: Axes, curve: Curve, points: Sequence[tuple[float, float]]) -> None:
    """Bars on the curve where its later stages begin."""
    for start, _ in _starts(curve)[1:]:
        step, value = min(points, key=lambda point: abs(point[0] - start))
        axes.plot([step], [value], color=COLOURS[(curve.number - 1) % len(COLOURS)], marker="|", markersize=13)


def _name_stages(axes: Axes, starts: Sequence[tuple[float, str]]) -> None:
    above = axes.get_xaxis_transform()  # x in steps, y as a share of the height
    for place, (step, name) in enumerate(starts):
        if place:
            axes.axvline(step, color=FAINT, linewidth=1.6)
        axes.text(step, 1.02, name, transform=above, color=INK, fontsize=7, ha="left")


def _number_ends(axes: Axes, ends: Sequence[tuple[float, float, int]]) -> None:
    """Write the number of each run right of its curve's end, moved apart where they would lie on each other."""
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.05 * (right - left))
    bottom, top = axes.get_ylim()
    apart = min(0.075, 1.0 / len(ends))
    heights = sorted(((value - bottom) / ((top - bottom) or 1.0), step, number) for step, value, number in ends)
    placed: list[float] = []
    for height, _, _ in heights:
        placed.append(max(height, placed[-1] + apart) if placed else max(height, 0.0))
    for place in reversed(range(len(placed))):  # those that were moved above the top
        placed[place] = min(placed[place], 1.0 - apart * (len(placed) - 1 - place))
    for (_, step, number), height in zip(heights, placed, strict=True):
        axes.annotate(
            str(number),
            (step, height),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=COLOURS[(number - 1) % len(COLOURS)],
        )
