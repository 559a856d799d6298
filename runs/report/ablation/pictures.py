"""The pictures of an ablation: each seed with means and intervals, metric against cost, a search by setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.choice import pareto_front
from runs.report.ablation.search import is_number
from runs.report.ablation.table import in_order, rows_of, shown_names, value_in_words
from runs.report.charts import INK, LINE, PALE, draw_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = Mapping[str, Any]  # "results" of ablation.json
MAX_LABEL = 22  # characters beside a row; longer names stand above it
MAX_ABOVE = 85
ROW, TALL_ROW = 0.26, 0.4  # inches
HEIGHT = 2.7  # inches
SPREAD = 8  # how many times the largest cost is the smallest, from which on the axis is logarithmic
FEW_DECADES = 300  # the same, up to which 2 and 5 are shown beside 1 and 10
MAX_NUMBERED = 16  # points of which each has its number; of more, only those of the front and the best
MAX_WORDS = 8  # values of a setting that are not numbers


def figures_of(results: Results) -> list[str]:
    """All pictures as HTML, that of the seeds first; none without a result. The numbers in them are those of the
    table."""
    names = [name for name in in_order(results) if results["configurations"][name]["mean"] is not None]
    if not names:
        return []
    return [_seeds(results, names), *_against_cost(results, names), *(_search(results) if results["search"] else ())]


def _seeds(results: Results, names: Sequence[str]) -> str:
    entries, metric, best = results["configurations"], results["metric"], results["best"]
    rows, shown = rows_of(results), shown_names(results)
    labels = [f"trial {rows[name]}" if results["search"] else f"{rows[name]} {shown[name]}" for name in names]
    above = any(len(label) > MAX_LABEL for label in labels)
    row = TALL_ROW if above else ROW

    def paint(axes: Axes) -> None:
        for place, name in enumerate(names):
            low, high = entries[name]["interval"]
            colour = LINE if name == best else INK
            axes.plot([low, high], [-place, -place], color=PALE, linewidth=5, solid_capstyle="butt", zorder=1)
            values = [seed["value"] for seed in entries[name]["seeds"]]
            axes.plot(values, [-place] * len(values), "o", color=colour, markersize=4, fillstyle="none", zorder=2)
            axes.plot([entries[name]["mean"]], [-place], "|", color=colour, markersize=11, markeredgewidth=2, zorder=3)
            if above:
                across = axes.get_yaxis_transform()  # x as a share of the width
                text = _cut(labels[place], MAX_ABOVE)
                axes.text(0.0, -place + 0.33, text, transform=across, color=INK, fontsize=7.5, va="center")
        ticks = [] if above else labels
        axes.set_yticks([-place for place in range(len(ticks))], ticks)
        axes.set_ylim(-len(names) + 0.4, 0.65 if above else 0.6)
        axes.set_xlabel(metric, color=INK)
        axes.locator_params(axis="x", nbins=6)

    left = 0.04 if above else min(0.06 + 0.0145 * max(map(len, labels)), 0.4)
    about = "; ".join(f"{label}: {entries[name]['mean']:.4f}" for label, name in zip(labels, names, strict=True))
    title = f"{metric} of each seed (circles), mean (stroke) and 95% interval (bar); blue: the best"
    return draw_axes(title, paint, height=0.75 + row * len(names), left=left, about=about)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _against_cost(results: Results, names: Sequence[str]) -> Iterator[str]:
    """Metric against the seconds of training; nothing if fewer than two configurations have both."""
    entries, metric = results["configurations"], results["metric"]
    rows, kind = rows_of(results), "trials" if results["search"] else "rows of the table"
    shown = shown_names(results)
    points = {name: (entries[name]["seconds"], entries[name]["mean"]) for name in names if entries[name]["seconds"]}
    if len(points) < 2:
        return
    front = pareto_front({name: (mean, [seconds]) for name, (seconds, mean) in points.items()})

    def paint(axes: Axes) -> None:
        steps = sorted(points[name] for name in front)
        axes.plot(
            *zip(*steps, strict=True), color=LINE, linewidth=1.4, linestyle="--", drawstyle="steps-post", zorder=2
        )
        for name, (seconds, mean) in points.items():
            low, high = entries[name]["interval"]
            all_seconds = [seed["seconds"] for seed in entries[name]["seeds"] if seed["seconds"]]
            colour = LINE if name in front else INK
            axes.plot([seconds, seconds], [low, high], color=PALE, linewidth=3, zorder=1)
            axes.plot([min(all_seconds), max(all_seconds)], [mean, mean], color=PALE, linewidth=3, zorder=1)
            axes.plot([seconds], [mean], "o", color=colour, markersize=4.5, zorder=3)
            if len(points) <= MAX_NUMBERED or name in {*front, results["best"]}:
                axes.annotate(
                    rows[name], (seconds, mean), (3.5, 3.5), textcoords="offset points", color=INK, fontsize=8
                )
        _log_if_wide(axes, [seconds for seconds, _ in points.values()])
        axes.set_xlabel("seconds of training", color=INK)
        axes.set_ylabel(metric, color=INK)

    about = "; ".join(f"{rows[name]} {shown[name]}: {s:,.0f} s, {mean:.4f}" for name, (s, mean) in points.items())
    title = f"{metric} against cost (numbers: {kind}; bars: interval, and range of seeds; dashed: Pareto front)"
    yield draw_axes(title, paint, height=HEIGHT, about=f"on the front: {', '.join(rows[n] for n in front)}. {about}")


def _log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import LogLocator

    if min(values) > 0 and max(values) > SPREAD * min(values):
        axes.set_xscale("log")
        few = max(values) < FEW_DECADES * min(values)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=8))
        axes.xaxis.set_minor_formatter("")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.locator_params(axis="x", nbins=6)


def _search(results: Results) -> Iterator[str]:
    search = results["search"]
    trials = sorted(
        (trial["number"], search["dev"][name], name)
        for name, trial in search["trials"].items()
        if name in search["dev"]
    )
    if len(trials) < 2:
        return
    yield _so_far(results, [(number, value) for number, value, _ in trials])
    for key in search["settings"]:
        found = [(search["trials"][name]["values"].get(key), value, name) for _, value, name in trials]
        if points := [point for point in found if point[0] is not None]:
            yield _by_setting(results, key, points)


def _so_far(results: Results, trials: Sequence[tuple[int, float]]) -> str:
    numbers, values = [number for number, _ in trials], [value for _, value in trials]
    highest = [max(values[: place + 1]) for place in range(len(values))]

    def paint(axes: Axes) -> None:
        axes.plot(numbers, values, "o", color=INK, markersize=4, fillstyle="none")
        axes.plot(numbers, highest, color=LINE, linewidth=1.6, drawstyle="steps-post")
        axes.set_xlabel("trial", color=INK)
        axes.set_ylabel(f"dev {results['metric']}", color=INK)
        axes.locator_params(axis="x", nbins=7, integer=True)

    about = f"from {highest[0]:.4f} to {highest[-1]:.4f} in {len(trials)} trials"
    return draw_axes(f"Dev {results['metric']} of each trial (circles), and the best so far", paint, about=about)


def _by_setting(results: Results, key: str, points: Sequence[tuple[Any, float, str]]) -> str:
    """Dev metric against one setting: an axis for numbers, a column for each value if they are words."""
    numbers = all(is_number(value) for value, *_ in points)
    words = list(dict.fromkeys(value_in_words(value) for value, *_ in points))

    def paint(axes: Axes) -> None:
        for value, score, name in points:
            place = value if numbers else words.index(value_in_words(value))
            colour, full = (LINE, "full") if name == results["best"] else (INK, "none")
            axes.plot([place], [score], "o", color=colour, fillstyle=full, markersize=4.5)
        if numbers:
            _log_if_wide(axes, [value for value, *_ in points])
        else:
            axes.set_xticks(range(len(words)), [_cut(word, 60 // min(len(words), MAX_WORDS)) for word in words])
            axes.set_xlim(-0.5, len(words) - 0.5)
        axes.set_xlabel(key, color=INK)
        axes.set_ylabel(f"dev {results['metric']}", color=INK)

    correlation = results["search"]["correlations"].get(key)
    about = "" if correlation is None else f"rank correlation {correlation:+.2f}"
    title = f"Dev {results['metric']} by {key} (blue: the best{f'; {about}' * bool(about)})"
    return draw_axes(title, paint, about=f"{len(points)} trials")
