"""The pictures of a choice: quality with intervals, quality against cost with the Pareto front, quality by form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from recipes.choose.decision import values_of
from recipes.choose.limits import MEASURES, in_bytes
from recipes.choose.table import measured
from runs.report.charts import INK, LINE, PALE, draw_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summary = Mapping[str, Any]
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLES = {"fp32": "-", "fp16": "-.", "int8": "--", "binary": ":"}
MAX_LABEL = 24
ROW = 0.3  # inches of a model's row
COLUMNS = 2  # of a legend
HEIGHT = 2.5  # inches, without a legend


def figures_of(summary: Summary) -> Iterator[str]:
    """All pictures as HTML."""
    rows = measured(summary)
    yield _intervals(summary, rows)
    for key in summary["decision"]["pareto"]:
        yield _against_cost(summary, rows, key)
    for row in rows:
        if len(row["forms"]) > 1:
            yield _forms(summary, row)


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL else f"…{label[1 - MAX_LABEL :]}"


def _intervals(summary: Summary, rows: list[Any]) -> str:
    metric, chosen = summary["metric"], summary["decision"]["chosen"]

    def paint(axes: Axes) -> None:
        for place, row in enumerate(reversed(rows)):
            low, high = row["intervals"][metric]
            colour = LINE if row["label"] == chosen else INK
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot([row["metrics"][metric]], [place], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [_short(row["label"]) for row in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(metric, color=INK)

    title = f"{metric} with 95% intervals{' (blue: the choice)' * bool(chosen)}"
    return draw_axes(title, paint, height=max(2.5, 1 + ROW * len(rows)), left=0.34)


def _against_cost(summary: Summary, rows: list[Any], key: str) -> str:
    metric, decision = summary["metric"], summary["decision"]
    verdicts = decision["verdicts"]
    points = {}
    for row in rows:
        values = verdicts[row["label"]].get("values") or values_of(
            row, row["forms"][0] if row["forms"] else None, summary["metric"]
        )
        form = next((each for each in row["forms"] if each["form"] == verdicts[row["label"]].get("form")), None)
        quality = form["quality"] if form else row["metrics"][metric]
        if values.get(key) is not None:
            points[row["label"]] = (values[key], quality)

    if not points:
        return ""

    def paint(axes: Axes) -> None:
        front = sorted(points[label] for label in decision["pareto"][key] if label in points)
        axes.plot(*zip(*front, strict=True), color=PALE, linewidth=1.6, drawstyle="steps-post", zorder=1)
        for number, (label, (cost, quality)) in enumerate(points.items()):
            out = verdicts[label]["verdict"] == "eliminated"
            colour = LINE if label == decision["chosen"] else INK
            mark = MARKS[number % len(MARKS)]
            axes.plot(
                [cost], [quality], mark, color=colour, markersize=6, fillstyle="none" if out else "full",
                linestyle="none", label=f"{_short(label)}{' (eliminated)' * out}", zorder=2,
            )  # fmt: skip
        spread = [cost for cost, _ in points.values() if cost > 0]
        if spread and max(spread) > 8 * min(spread) and len(spread) == len(points):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter("")
        if key.endswith("bytes"):
            axes.xaxis.set_major_formatter(lambda value, _: in_bytes(value))
        elif axes.get_xscale() == "log":
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylabel(metric, color=INK)
        axes.set_xlabel(key.replace("_", " "), color=INK)
        _legend(axes)

    side = "cheaper to the left" if MEASURES[key].most else "cheaper to the right"
    below = _below(len(points))
    return draw_axes(
        f"{metric} against {key} ({side}; line: the Pareto front)", paint, height=HEIGHT + below, below=below
    )


def _forms(summary: Summary, row: Mapping[str, Any]) -> str:
    metric = summary["metric"]
    kinds: dict[str, list[tuple[int, float]]] = {}
    for form in row["forms"]:
        kinds.setdefault(form["precision"], []).append((form["dim"], form["quality"]))

    def paint(axes: Axes) -> None:
        for (precision, points), mark in zip(kinds.items(), MARKS, strict=False):
            dims, values = zip(*sorted(points), strict=True)
            style = STYLES.get(precision, "-")
            axes.plot(dims, values, style, marker=mark, color=LINE, markersize=4.5, linewidth=1.6, label=precision)
        axes.set_xscale("log", base=2)
        ticks = sorted({form["dim"] for form in row["forms"]})
        axes.set_xticks(ticks, [f"{dim}" for dim in ticks])
        axes.xaxis.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("dimensions", color=INK)
        axes.set_ylabel(metric, color=INK)
        _legend(axes)

    return draw_axes(
        f"{row['label']}: {metric} by dimensions and precision",
        paint,
        height=HEIGHT + _below(len(kinds)),
        below=_below(len(kinds)),
    )


def _below(number: int) -> float:
    """The inches that a legend of so many entries needs under the label of the x axis."""
    return 0.05 + 0.17 * math.ceil(number / COLUMNS)


def _legend(axes: Axes) -> None:
    place = (2.4, _below(len(axes.get_legend_handles_labels()[1])))
    style = {"frameon": False, "fontsize": 7.5, "borderaxespad": 0, "ncols": COLUMNS}
    inches = axes.get_figure().dpi_scale_trans  # type: ignore[union-attr]
    legend = axes.legend(loc="upper center", bbox_to_anchor=place, bbox_transform=inches, **style)
    for text in legend.get_texts():
        text.set_color(INK)
