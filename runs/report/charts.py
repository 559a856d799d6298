"""Draw curves and bars as SVG pictures embedded in HTML, in colours for light and for dark pages."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]  # (step, value)

INK, FAINT, LINE, PALE = "#24292f", "#d8dee4", "#0b62c4", "#a9c8ec"
COLOURS = (LINE, "#b3261e", "#1a7f37", "#8250df", "#9a6700", "#0e7c86", "#bf3989", "#57606a")  # of several curves
DARK = {INK: "#e6edf3", FAINT: "#373e47", LINE: "#6cb2ff", PALE: "#2d4f78"} | dict(
    zip(COLOURS[1:], ("#ff8a80", "#56d364", "#c297ff", "#e3b341", "#4dd0d9", "#ff80c8", "#b1bac4"), strict=True)
)
AXES = (
    0.15,
    0.17,
    0.83,
    0.74,
)  # left, bottom, width, height: space for labels of 8 characters, and for names of stages above
MAX_POINTS = 1000


def draw(
    title: str, parts: Mapping[str, Points], *, smooth: bool = False, dots: bool = False, best: float | None = None
) -> str:
    """Draw one curve as an HTML `<figure>`. `parts` holds its points by stage; the borders of stages are marked.

    `smooth` adds a running mean over 10% of a part's points, `dots` shows the points, `best` marks a step.
    """
    from matplotlib.figure import Figure

    with picture_style(title):
        figure = Figure(figsize=(4.6, 2.5))
        axes = figure.add_axes(AXES)  # fixed axes: a layout computed from the labels would draw everything three times
        for number, (name, points) in enumerate(parts.items()):
            points = points[:: -(-len(points) // MAX_POINTS)]
            steps, values = [step for step, _ in points], [value for _, value in points]
            axes.plot(steps, values, color=PALE if smooth else LINE, linewidth=1 if smooth else 1.6)
            if smooth:
                axes.plot(steps, running_mean(values, max(len(values) // 20, 1)), color=LINE, linewidth=1.6)
            if dots:
                axes.scatter(steps, values, color=LINE, s=10)
            if number > 0:
                axes.axvline(steps[0], color=FAINT, linewidth=1.6)
            if len(parts) > 1:
                above = axes.get_xaxis_transform()  # x in steps, y as a share of the height
                axes.text(steps[0], 1.02, name, transform=above, color=INK, fontsize=7, ha="left")
        if best is not None:
            axes.axvline(best, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlabel("step", color=INK)
        axes.locator_params(axis="x", nbins=7, integer=True)
        axes.yaxis.get_offset_text().set_x(-0.17)  # left of the names of stages
        axes.grid(color=FAINT, linewidth=0.6)
        axes.tick_params(colors=INK, length=0)
        axes.spines[:].set_visible(False)
        svg = svg_of(figure)
    return _as_html(title, svg, f"{title} by step")


def draw_intervals(title: str, points: Sequence[tuple[float, float, float, float]], x_label: str) -> str:
    """Draw means with their intervals as an HTML `<figure>`, from (place, mean, low, high); the first mean is a dashed
    line to compare with."""
    from matplotlib.figure import Figure

    with picture_style(title):
        figure = Figure(figsize=(4.6, 2.5))
        axes = figure.add_axes(AXES)
        places, means = [point[0] for point in points], [point[1] for point in points]
        axes.axhline(means[0], color=INK, linewidth=0.8, linestyle="--")
        axes.vlines(places, [low for *_, low, _ in points], [high for *_, high in points], color=PALE, linewidth=3)
        axes.plot(places, means, color=LINE, linewidth=1.6, marker="o", markersize=3.5)
        axes.set_xlabel(x_label, color=INK)
        axes.locator_params(axis="x", nbins=7, integer=True)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.tick_params(colors=INK, length=0)
        axes.spines[:].set_visible(False)
        svg = svg_of(figure)
    return _as_html(title, svg, title)


def draw_bars(
    title: str,
    heights: Mapping[str, float] | Points,
    *,
    width: float = 1.0,
    x_label: str = "",
    mark: float | None = None,
) -> str:
    """Draw bars as an HTML `<figure>`: one for each name, or at places (their left ends) of that `width`, as a
    histogram. `mark` is a place of a dotted line."""
    from matplotlib.figure import Figure

    with picture_style(title):
        figure = Figure(figsize=(4.6, 2.5))
        axes = figure.add_axes(AXES)
        if isinstance(heights, Mapping):
            axes.bar(list(heights), list(heights.values()), color=LINE, width=0.7)
        else:
            places, values = [place for place, _ in heights], [height for _, height in heights]
            axes.bar(places, values, width, align="edge", color=LINE)
            axes.locator_params(axis="x", nbins=7)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=1.6, linestyle=":")
        axes.set_xlabel(x_label, color=INK)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, length=0)
        axes.spines[:].set_visible(False)
        svg = svg_of(figure)
    return _as_html(title, svg, title)


def draw_axes(
    title: str,
    paint: Callable[[Axes], None],
    *,
    height: float = 2.5,
    left: float = 0.15,
    below: float = 0.0,
    about: str = "",
) -> str:
    """Draw what `paint` puts on the axes as an HTML `<figure>`. Its colours are INK, FAINT, PALE and COLOURS.

    `height` in inches, `left`: the share of the width for labels, `below`: inches under the label of the x axis,
    `about`: what is said after the title to those who do not see the picture.
    """
    from matplotlib.figure import Figure

    with picture_style(title):
        figure = Figure(figsize=(4.6, height))
        bottom = (0.45 + below) / height
        axes = figure.add_axes((left, bottom, 0.98 - left, 0.98 - bottom - 0.1 / height))
        paint(axes)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=INK, length=0)
        axes.spines[:].set_visible(False)
        svg = svg_of(figure)
    return _as_html(title, svg, f"{title}, {about}" if about else title)


def draw_sample(paint: Callable[[Axes], None]) -> str:
    """Draw what `paint` puts at heights from -1 to 1 as a small HTML `<picture>` in a line of text, which says the same
    in words."""
    from matplotlib.figure import Figure

    with picture_style("sample"):
        figure = Figure(figsize=(0.6, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        paint(axes)
        axes.set_ylim(-1, 1)
        axes.set_axis_off()
        return _as_picture(svg_of(figure), "")


def picture_style(salt: str) -> AbstractContextManager[None]:
    """The settings of all pictures. `salt` makes their ids; names are plain text, also those with `$`."""
    from matplotlib import rc_context

    return rc_context(
        {
            "svg.fonttype": "path",
            "svg.hashsalt": salt,
            "font.size": 9,
            "axes.formatter.useoffset": False,
            "text.parse_math": False,
        }
    )


def svg_of(figure: Figure) -> str:
    """The picture. Letters are drawn as curves; if matplotlib's font lacks one (Chinese), as text in the fonts of the
    browser."""
    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.text import Text

    known = get_font(findfont(FontProperties())).get_charmap()
    letters = {letter for text in figure.findobj(Text) for letter in text.get_text()}
    in_browser = any(letter.isprintable() and ord(letter) not in known for letter in letters)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none"} if in_browser else {}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the widths of such letters are guessed
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _as_html(title: str, svg: str, description: str) -> str:
    """The picture with its title."""
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{_as_picture(svg, description)}</figure>"


def _as_picture(svg: str, description: str) -> str:
    """The picture in the colours of a light and of a dark page."""
    dark = svg
    for colour, replacement in DARK.items():
        dark = dark.replace(colour, replacement)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_data_uri(dark)}">'
        f'<img src="{_data_uri(svg)}" alt="{html.escape(description)}"></picture>'
    )


def running_mean(values: Sequence[float], half_width: int) -> list[float]:
    """The mean of each value and its `half_width` neighbours on both sides, fewer at the ends."""
    windows = [values[max(i - half_width, 0) : i + half_width + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
