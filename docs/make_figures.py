"""Writes the tables and pictures of docs/figures.md from the ablations of docs/figures/.

    python docs/make_figures.py

A file of docs/figures/ is the ablation.json of a finished ablation; one of docs/figures/again/ is that of one of its
rows, run a second time; one of docs/figures/costs/ is the choose.json of launch/choose.py for its models of one seed,
named outputs/NAME/runs/ROW-seedN/model. It stands on the page where this comment is, and the words around it are
written by hand:

    <!-- figures: NAME -->
    <!-- end -->
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "figures.md"
FIGURES = ROOT / "docs" / "figures"
PICTURES = ROOT / "docs" / "assets"
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
SVG = re.compile(r'<img src="data:image/svg\+xml;base64,([^"]+)"')

RATES, RATE = "_rates", "trainer.learning_rate"  # the end of the names of ablations of rates, and their setting
PANELS = {  # of the picture of costs: the cost of a configuration, from its ablation and its measured costs
    "seconds of training": lambda entry, measured: entry["seconds"],
    "index, MB": lambda entry, measured: measured["index_bytes"] / 1e6,
    "ms per query": lambda entry, measured: measured["query_ms_p50"],
}
LEGEND_COLUMNS = 4  # of that picture, at most
Plan = Mapping[str, Any]  # of ablation.json


def load() -> dict[str, Plan]:
    """The ablations by name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FIGURES.glob("*.json"))}


def page(plans: Mapping[str, Plan], text: str) -> str:
    """The page with its figures. Raises KeyError if the page names an ablation that is not there."""
    return BLOCK.sub(lambda found: found[1] + generated(found[2], plans[found[2]]) + found[3], text)


def generated(name: str, plan: Plan) -> str:
    """The figures of an ablation: its table, that of other collections, what is found, its picture. Of one that looks
    for learning rates: the values on dev."""
    from runs.report.ablation.forms import forms_table
    from runs.report.ablation.other_sets import sets_table
    from runs.report.ablation.sentences import sentences
    from runs.report.ablation.table import main_table

    if name.endswith(RATES):
        return f"\n{table(*rates_table(plan))}\n"
    parts = [table(*main_table(plan))]
    if plan["results"].get("test_suite"):
        parts.append(table(*sets_table(plan["results"])))
    if plan["results"].get("forms"):
        parts.append(table(*forms_table(plan["results"])))
    if costs(name):
        parts.append(table(*costs_table(plan, costs(name))))
    second = [again_sentence(plan, row) for row in again(name)]
    parts.append("".join(f"- {sentence}\n" for sentence in [*sentences(plan), *second]))
    parts.append(f"![{plan['results']['metric']} of each configuration](assets/{picture_name(name)})\n")
    if costs(name):
        parts.append(f"![{plan['results']['metric']} against costs](assets/{picture_name(f'{name}_costs')})\n")
    return "\n" + "\n".join(parts) + "\n"


def again(name: str) -> list[dict[str, Any]]:
    """The rows of an ablation that were run a second time: name, and the value of each seed."""
    file = FIGURES / "again" / f"{name}.json"
    if not file.exists():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))["results"]["configurations"]
    return [{"name": row, "values": values_of(entry)} for row, entry in found.items()]


def values_of(entry: Mapping[str, Any]) -> dict[int, float]:
    """The value of each seed of a configuration."""
    return {each["seed"]: each["value"] for each in entry["seeds"]}


def again_sentence(plan: Plan, row: Mapping[str, Any]) -> str:
    """What the second run of a row gave beside the first."""
    first = values_of(plan["results"]["configurations"][row["name"]])
    values = ", ".join(f"{value:.4f} (seed {seed}; first {first[seed]:.4f})" for seed, value in row["values"].items())
    return f"a second run of {row['name']}: {values}"


def rates_table(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """The best value on dev of each configuration with each learning rate; the highest is bold."""
    found: dict[str, dict[float, float]] = {}
    for each in plan["configurations"]:
        given = dict(setting.split("=", 1) for setting in each["overrides"])
        own = found.setdefault(each["name"].partition(f"{RATE}=")[0].strip(", "), {})
        own[float(given[RATE])] = plan["results"]["configurations"][each["name"]]["best_dev"]
    rates = sorted({rate for own in found.values() for rate in own})
    rows = []
    experiment = next((each.removeprefix("+exp=") for each in plan["settings"] if each.startswith("+exp=")), "")
    for name, own in found.items():
        best = max(own.values())
        cells = [f"**{own[rate]:.4f}**" if own[rate] == best else f"{own[rate]:.4f}" for rate in rates]
        rows.append([name or experiment, *cells])
    return [f"{plan['results']['metric']} on dev, by learning rate", *(f"{rate:g}" for rate in rates)], rows


def costs(name: str) -> dict[str, Mapping[str, Any]]:
    """What launch/choose.py measured of a model of each configuration: the values of its decision."""
    file = FIGURES / "costs" / f"{name}.json"
    if not file.exists():
        return {}
    verdicts = json.loads(file.read_text(encoding="utf-8"))["decision"]["verdicts"]
    return {re.sub(r"-seed\d+(/model)?$", "", label): each["values"] for label, each in verdicts.items()}


def costs_table(plan: Plan, measured: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The cost of each configuration, in the order of the main table. BM25, measured beside them, is the last row."""
    from recipes.choose.limits import in_bytes
    from runs.report.ablation.table import rows_of

    names = {**rows_of(plan["results"]), "bm25": ""}
    rows = [
        [
            f"{row} {name}".strip(),
            f"{measured[name]['query_ms_p50']:.3g}",
            f"{measured[name]['query_ms_p95']:.3g}",
            f"{measured[name]['documents_per_s']:,.0f}" if measured[name]["documents_per_s"] else "-",
            in_bytes(measured[name]["index_bytes"]),
        ]
        for name, row in names.items()
        if name in measured
    ]
    return ["cost", "ms per query, median", "95 % below", "documents/s", "index"], rows


def costs_picture(plan: Plan, measured: Mapping[str, Mapping[str, Any]]) -> str:
    """The mean of each configuration, with its 95% interval, against its training time, its index and its latency."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from recipes.choose.pictures import MARKS
    from runs.report.charts import COLOURS, FAINT, INK, picture_style, svg_of

    entries, metric = plan["results"]["configurations"], plan["results"]["metric"]
    with picture_style(plan["name"]):
        figure = Figure(figsize=(7.2, 3.2))
        panels = figure.subplots(1, 3, sharey=True)
        figure.subplots_adjust(left=0.09, right=0.99, top=0.97, bottom=0.33, wspace=0.08)
        for axes, (label, cost) in zip(panels, PANELS.items(), strict=True):
            for name, mark, colour in zip(entries, MARKS, COLOURS, strict=False):
                entry = entries[name]
                low, high = entry["interval"]
                error = [[entry["mean"] - low], [high - entry["mean"]]]
                style = {"color": colour, "marker": mark, "markersize": 6, "linestyle": "none", "elinewidth": 1}
                axes.errorbar([cost(entry, measured[name])], [entry["mean"]], yerr=error, label=name, **style)
            axes.set_xscale("log")
            axes.margins(x=0.15)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter("")
            axes.set_xlabel(label, color=INK)
            axes.grid(color=FAINT, linewidth=0.6)
            axes.tick_params(which="both", colors=INK, length=0)
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel(metric, color=INK)
        handles, labels = panels[0].get_legend_handles_labels()
        columns = min(len(labels), LEGEND_COLUMNS)
        legend = figure.legend(handles, labels, loc="lower center", ncols=columns, frameon=False)
        for text in legend.get_texts():
            text.set_color(INK)
        return svg_of(figure)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def picture_name(name: str) -> str:
    return f"figures_{name}.svg"


def pictures(plans: Mapping[str, Plan]) -> dict[str, str]:
    """The pictures by the name of their file: that of launch/report.py with the seeds of an ablation."""
    from runs.report.ablation.pictures import figures_of

    found = {}
    for name, plan in plans.items():
        if name.endswith(RATES):
            continue
        [light] = SVG.findall(figures_of(plan["results"])[0])
        found[picture_name(name)] = base64.b64decode(light).decode()
        if costs(name):
            found[picture_name(f"{name}_costs")] = costs_picture(plan, costs(name))
    return found


def main() -> None:
    plans = load()
    text, drawn = page(plans, PAGE.read_text(encoding="utf-8")), pictures(plans)  # before anything is replaced
    PAGE.write_text(text, encoding="utf-8")
    for file in PICTURES.glob(picture_name("*")):
        file.unlink()
    for name, picture in drawn.items():
        (PICTURES / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
