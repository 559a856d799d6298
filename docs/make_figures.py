"""Writes the tables and pictures of docs/figures.md from the ablations of docs/figures/.

    python docs/make_figures.py

A file of docs/figures/ is the ablation.json of a finished ablation; one of docs/figures/again/ is that of one of its
rows, run a second time. It stands on the page where this comment is, and the words around it are written by hand:

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
    from runs.report.ablation.other_sets import sets_table
    from runs.report.ablation.sentences import sentences
    from runs.report.ablation.table import main_table

    if name.endswith(RATES):
        return f"\n{table(*rates_table(plan))}\n"
    parts = [table(*main_table(plan))]
    if plan["results"].get("test_suite"):
        parts.append(table(*sets_table(plan["results"])))
    parts += [table(*found) for found in variants(plan["results"])]
    second = [again_sentence(plan, row) for row in again(name)]
    parts.append("".join(f"- {sentence}\n" for sentence in [*sentences(plan), *second]))
    parts.append(f"![{plan['results']['metric']} of each configuration](assets/{picture_name(name)})\n")
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


def variants(results: Mapping[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """The metric at each dimension and precision that was measured, means over seeds, if there are such."""
    from runs.report.ablation.table import rows_of, shown_names

    metric, entries, shown = results["metric"], results["configurations"], shown_names(results)
    found = dict.fromkeys(key for entry in entries.values() for key in entry["metrics"] if key.startswith(f"{metric}/"))
    if not found:
        return []
    head = [metric, *(key.partition("/")[2] for key in found)]
    rows = [
        [f"{row} {shown[name]}", *(f"{entries[name]['metrics'][key]:.4f}" for key in found)]
        for name, row in rows_of(results).items()
    ]
    return [(head, rows)]


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
    return found


def main() -> None:
    plans = load()
    PAGE.write_text(page(plans, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for file in PICTURES.glob(picture_name("*")):
        file.unlink()
    for name, picture in pictures(plans).items():
        (PICTURES / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
